"""How often a stranger may be wrong: a bucket of attempts for each address, refilled with time.

Without clock and asyncio: `now` is any monotonic time, in seconds.

Memory is bounded by forgetting the addresses that failed longest ago, and an address that is forgotten has all its
attempts again. To be forgotten before its bucket would have been full anyway takes thousands of failures from other
addresses within a minute: who has so many networks to guess from is held up by no limit per address, only by the length
of the secret. To refuse unknown addresses instead would let the same stranger lock everyone out.
"""

from scoreboardd.web.address import network

MAX_ADDRESSES = 4096
"Addresses, at some 200 bytes each."


class FailureRateLimiter:
    """Each address may fail `burst` times at once, and once more every `refill` seconds."""

    def __init__(self, *, burst: int, refill: float, remembered: int = MAX_ADDRESSES) -> None:
        self._burst = burst
        self._refill = refill
        self._remembered = remembered
        self._buckets: dict[str, tuple[float, float]] = {}
        "How many attempts were left and when, by address, for those that failed; the last to fail comes last."

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, address: str, now: float) -> float:
        """Seconds until `address` has an attempt left; 0 if it has one."""
        return max(0.0, (1 - self._left(network(address), now)) * self._refill)

    def failed(self, address: str, now: float) -> None:
        """Take an attempt from `address`, which has one."""
        key = network(address)
        left = self._left(key, now)
        self._buckets.pop(key, None)
        self._buckets[key] = left - 1, now
        if len(self._buckets) > self._remembered:
            del self._buckets[next(iter(self._buckets))]

    def _left(self, key: str, now: float) -> float:
        left, since = self._buckets.get(key, (self._burst, now))
        return min(self._burst, left + (now - since) / self._refill)
