"""Buckets of attempts, on a clock of the test's own."""

import pytest

from scoreboardd.web.failure_limiter import FailureRateLimiter

ALICE, BOB = "203.0.113.1", "203.0.113.2"
#: With a fraction that no float has exactly.
START = 12345.678901


def fail(attempts: FailureRateLimiter, address: str, times: int, now: float = START) -> None:
    for _ in range(times):
        assert attempts.wait(address, now) == 0
        attempts.failed(address, now)


@pytest.fixture
def attempts() -> FailureRateLimiter:
    return FailureRateLimiter(burst=10, refill_seconds=6.0, max_addresses=100)


def test_so_many_at_once_and_no_more(attempts: FailureRateLimiter) -> None:
    fail(attempts, ALICE, 10)
    assert attempts.wait(ALICE, START) == 6


def test_another_with_each_interval(attempts: FailureRateLimiter) -> None:
    fail(attempts, ALICE, 10)
    assert attempts.wait(ALICE, START + 4) == pytest.approx(2)
    fail(attempts, ALICE, 1, START + 6.001)
    assert attempts.wait(ALICE, START + 6.001) == pytest.approx(5.999)
    fail(attempts, ALICE, 2, START + 18.002)
    assert attempts.wait(ALICE, START + 18.002) > 0


def test_never_more_at_once_however_long_it_was_quiet(attempts: FailureRateLimiter) -> None:
    fail(attempts, ALICE, 3)
    fail(attempts, ALICE, 10, START + 86_400)
    assert attempts.wait(ALICE, START + 86_400) == 6


def test_each_address_has_its_own(attempts: FailureRateLimiter) -> None:
    fail(attempts, ALICE, 10)
    fail(attempts, BOB, 10)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:203.0.113.1", "203.0.113.1", True),
        ("::ffff:203.0.113.1", "::ffff:203.0.113.2", False),
        ("", "203.0.113.1", False),
        ("", "", True),
    ],
)
def test_an_ipv6_network_is_one_address(attempts: FailureRateLimiter, one: str, other: str, same: bool) -> None:
    fail(attempts, one, 10)
    assert (attempts.wait(other, START) > 0) is same


def test_asking_remembers_nothing(attempts: FailureRateLimiter) -> None:
    assert attempts.wait(ALICE, START) == 0
    assert len(attempts) == 0


def test_who_failed_longest_ago_is_forgotten_first(attempts: FailureRateLimiter) -> None:
    fail(attempts, ALICE, 9)
    fail(attempts, BOB, 10)
    fail(attempts, ALICE, 1)
    for number in range(99):
        fail(attempts, f"10.0.0.{number}", 1)
    assert len(attempts) == 100
    assert attempts.wait(ALICE, START) == 6
    assert attempts.wait(BOB, START) == 0
