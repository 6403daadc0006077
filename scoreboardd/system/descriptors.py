"""File descriptors: how many this process may open, and how they are divided.

Every connection takes one. When no descriptor is left, the daemon can open nothing: no document, no rebuild, no
/readyz. So some descriptors are reserved for the daemon itself and some for requests that are not streams. The streams
get the rest.
"""

import resource
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

RESERVED_DESCRIPTORS = 64
"Descriptors for the daemon itself: the store, the builder and its documents, the admin listener, the log."
MAX_PLAIN_CONNECTIONS = 1024
"The most descriptors that are reserved for connections that are not streams; at most a quarter of all connections."


class Shares(NamedTuple):
    """How the descriptors of the process are divided."""

    limit: int
    "How many descriptors the process may open."
    connections: int
    "How many connections the public listener may accept, streams included."
    streams: int
    "How many of these connections may be streams."


def raise_limit() -> None:
    """Raise the soft limit of open descriptors to the hard limit. Does nothing if the system forbids it."""
    with suppress(OSError, ValueError):  # a sandbox may forbid it
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def shares(max_streams: int, *, limit: int | None = None) -> Shares:
    """Divide the descriptors, with at most `max_streams` for streams.

    `limit` is the number of descriptors that the process may open; by default its current soft limit.
    """
    if limit is None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 30
    connections = max(2, limit - RESERVED_DESCRIPTORS - sum(1 for _ in Path("/proc/self/fd").iterdir()))
    streams = max(1, min(max_streams, connections - min(-(-connections // 4), MAX_PLAIN_CONNECTIONS)))
    return Shares(limit, connections, streams)


def problems(max_streams: int) -> list[str]:
    """Return one line if the hard limit leaves room for fewer than `max_streams` streams, else no line."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit, _, streams = shares(max_streams, limit=hard)
    if streams >= max_streams:
        return []
    needed = max_streams + MAX_PLAIN_CONNECTIONS + 2 * RESERVED_DESCRIPTORS
    return [
        f"sse.max_clients: {limit} file descriptors leave room for {streams} streams, not for {max_streams}; "
        f"raise LimitNOFILE (ulimit -n) to {needed} or more, or lower sse.max_clients"
    ]
