"""Limits how often an address may fail: a token bucket for each address.

It uses neither a clock nor asyncio: the caller passes `now`, any monotonic time in seconds.

Memory is bounded: the limiter forgets the address whose last failure is oldest, and a forgotten address has all its
attempts again. An address is forgotten early only if thousands of other addresses fail within a minute. No limit per
address stops an attacker with that many networks; the length of the secret does. If the limiter refused unknown
addresses instead, such an attacker could lock out everyone.
"""

from scoreboardd.web.address import network

MAX_ADDRESSES = 4096
"Addresses that are remembered, with about 200 bytes each."


class FailureRateLimiter:
    """Each address may fail `burst` times at once, and once more every `refill_seconds`. At most `max_addresses` are
    remembered."""

    def __init__(self, *, burst: int, refill_seconds: float, max_addresses: int = MAX_ADDRESSES) -> None:
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._max_addresses = max_addresses
        self._buckets: dict[str, tuple[float, float]] = {}
        "For each address that failed: the attempts left and the time of its last failure, oldest first."

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, address: str, now: float) -> float:
        """Return the seconds until `address` has an attempt left; 0 if it has one."""
        return max(0.0, (1 - self._left(network(address), now)) * self._refill_seconds)

    def failed(self, address: str, now: float) -> None:
        """Use an attempt of `address`, which must have one."""
        key = network(address)
        left = self._left(key, now)
        self._buckets.pop(key, None)
        self._buckets[key] = left - 1, now
        if len(self._buckets) > self._max_addresses:
            del self._buckets[next(iter(self._buckets))]

    def _left(self, key: str, now: float) -> float:
        left, since = self._buckets.get(key, (self._burst, now))
        return min(self._burst, left + (now - since) / self._refill_seconds)
