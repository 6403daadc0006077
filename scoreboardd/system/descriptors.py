"""File descriptors: how many this process may open, and who gets them.

Every connection takes one. When they run out nothing can be opened: no document, no rebuild, no /readyz. So some are
kept for the daemon itself, some for plain requests, and the streams get the rest.
"""

import resource
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

OWN = 64
"For the daemon itself: the store, the builder and its documents, the admin listener, the log."
MAX_PLAIN = 1024
"Of the rest a quarter, but no more than so many, is kept for connections that are no streams."


class Shares(NamedTuple):
    limit: int
    "Descriptors that the process may open."
    connections: int
    "Of the public listener, streams and others."
    streams: int


def raise_limit() -> None:
    """Use all that the system allows: the soft limit is for programs that cannot cope with many."""
    with suppress(OSError, ValueError):  # a sandbox may forbid it
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def shares(max_streams: int, *, limit: int | None = None) -> Shares:
    """Who gets how many, if at most `max_streams` are streams. `limit` is that of this process, if not given."""
    if limit is None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 30
    connections = max(2, limit - OWN - sum(1 for _ in Path("/proc/self/fd").iterdir()))
    streams = max(1, min(max_streams, connections - min(-(-connections // 4), MAX_PLAIN)))
    return Shares(limit, connections, streams)


def problems(max_streams: int) -> list[str]:
    """One line if there will be fewer streams than are configured."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit, _, streams = shares(max_streams, limit=hard)
    if streams >= max_streams:
        return []
    return [
        f"sse.max_clients: {limit} file descriptors leave room for {streams} streams, not for {max_streams}; "
        f"raise LimitNOFILE (ulimit -n) to {max_streams + MAX_PLAIN + 2 * OWN} or more, or lower sse.max_clients"
    ]
