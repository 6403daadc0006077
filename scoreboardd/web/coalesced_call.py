"""Runs a function once for all callers that wait at the same time.

Unlike the usual single flight, no caller receives the result of a run that began before the call, because that run may
have begun too early to contain what the caller asks for. A caller that comes during a run waits for the next run,
together with all others that come during it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CoalescedCall(Generic[T]):
    """Runs `work` at most twice for any number of callers at one time: one run at a time, and one that the others wait
    for.

    A run happens in the task of one of its callers, so no run is without a caller. If that caller is cancelled, the run
    is cancelled too, and the next caller begins it again. An exception is raised in all callers of the run.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._turn = asyncio.Lock()
        self._next: asyncio.Future[T] | None = None
        "The result of the next run, which has not begun. None if no caller waits for it."

    async def __call__(self) -> T:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        result = self._next
        async with self._turn:
            if not result.done():
                if self._next is result:
                    self._next = None  # later callers get the next run
                try:
                    result.set_result(await self._work())
                except Exception as error:  # noqa: BLE001  raised below, in each caller's task
                    result.set_exception(error)
        return result.result()
