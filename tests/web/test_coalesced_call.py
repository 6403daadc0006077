"""Work shared by who asks for it at the same time."""

import asyncio

import pytest

from scoreboardd.web.coalesced_call import CoalescedCall


class Work:
    """Runs that end when, and as, the test says."""

    def __init__(self) -> None:
        self.runs: list[asyncio.Future[str]] = []

    async def __call__(self) -> str:
        run = asyncio.get_running_loop().create_future()
        self.runs.append(run)
        return await run


async def settle() -> None:
    """Until nobody can get any farther by themselves."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def flight(work: Work) -> CoalescedCall[str]:
    return CoalescedCall(work)


async def ask(flight: CoalescedCall[str], count: int = 1) -> list["asyncio.Task[str]"]:
    tasks = [asyncio.create_task(flight()) for _ in range(count)]
    await settle()
    return tasks


async def test_one_call_is_one_run(work: Work, flight: CoalescedCall[str]) -> None:
    (caller,) = await ask(flight)
    work.runs[0].set_result("done")
    assert await caller == "done"
    assert len(work.runs) == 1


async def test_who_calls_during_a_run_shares_the_next(work: Work, flight: CoalescedCall[str]) -> None:
    (first,) = await ask(flight)
    others = await ask(flight, 10) + await ask(flight, 10)
    assert len(work.runs) == 1, "one run at a time"
    work.runs[0].set_result("first")
    assert await first == "first"
    await settle()
    assert not any(task.done() for task in others)
    later = await ask(flight, 5)
    work.runs[1].set_result("second")
    assert await asyncio.gather(*others) == ["second"] * 20
    await settle()
    work.runs[2].set_result("third")
    assert await asyncio.gather(*later) == ["third"] * 5
    assert len(work.runs) == 3


async def test_many_at_once_are_two_runs(work: Work, flight: CoalescedCall[str]) -> None:
    callers = [asyncio.create_task(flight()) for _ in range(10)]
    await settle()
    assert len(work.runs) == 1
    work.runs[0].set_result("first")
    await settle()
    work.runs[1].set_result("second")
    assert sorted(await asyncio.gather(*callers)) == ["first"] + ["second"] * 9


async def test_a_failure_reaches_all_who_share_the_run_and_nobody_else(work: Work, flight: CoalescedCall[str]) -> None:
    (first,) = await ask(flight)
    others = await ask(flight, 3)
    work.runs[0].set_result("well")
    await settle()
    later = await ask(flight, 3)
    work.runs[1].set_exception(OSError("no bus"))
    await settle()
    work.runs[2].set_result("well again")
    assert await first == "well"
    assert [str(error) for error in await asyncio.gather(*others, return_exceptions=True)] == ["no bus"] * 3
    assert await asyncio.gather(*later) == ["well again"] * 3


async def test_who_leaves_while_it_does_the_work_hands_it_on(work: Work, flight: CoalescedCall[str]) -> None:
    (first,) = await ask(flight)
    leaver, *others = await ask(flight, 4)
    work.runs[0].set_result("first")
    await first
    await settle()
    leaver.cancel()
    await settle()
    assert leaver.cancelled()
    assert work.runs[1].cancelled()
    later = await ask(flight)
    work.runs[2].set_result("second")
    assert await asyncio.gather(*others) == ["second"] * 3
    await settle()
    work.runs[3].set_result("third")
    assert await asyncio.gather(*later) == ["third"]


async def test_who_leaves_while_it_waits_changes_nothing(work: Work, flight: CoalescedCall[str]) -> None:
    (first,) = await ask(flight)
    leaver, other = await ask(flight, 2)
    leaver.cancel()
    await settle()
    work.runs[0].set_result("first")
    await settle()
    work.runs[1].set_result("second")
    assert (await first, await other) == ("first", "second")


async def test_after_all_have_left_it_works_as_before(work: Work, flight: CoalescedCall[str]) -> None:
    tasks = await ask(flight, 3)
    for task in tasks:
        task.cancel()
    await settle()
    (caller,) = await ask(flight)
    work.runs[-1].set_result("done")
    assert await caller == "done"
