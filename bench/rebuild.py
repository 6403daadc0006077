"""`python -m bench.rebuild [typical|stress|4x] [--dsn DSN]`: what a rebuild costs, beside the reference's own plan."""

import argparse
import asyncio
import time
from typing import Any

import asyncpg

from bench import rebuild_peer
from bench.rebuild_data import SIZES, fill
from scoreboardd.demo.servers import Postgres


class Stopwatch:
    """Wall-clock and CPU seconds of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __str__(self) -> str:
        return f"{time.perf_counter() - self._wall:7.3f} s wall, {time.process_time() - self._cpu:7.3f} s CPU"


async def peer(connection: Any) -> list[bytes]:
    watch = Stopwatch()
    documents = await rebuild_peer.rebuild(connection)
    print(f"reference plan    {watch}  {sum(map(len, documents)) / 1e6:.1f} MB")
    return documents


async def measure(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await peer(connection)
    await connection.close()


async def prepared(dsn: str, size: str) -> None:
    connection = await asyncpg.connect(dsn)
    await fill(connection, SIZES[size])
    await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=SIZES, default="stress", nargs="?")
    parser.add_argument("--dsn", help="a database that is filled already")
    options = parser.parse_args()
    if options.dsn:
        asyncio.run(measure(options.dsn))
        return
    with Postgres(settings={"shared_buffers": "1GB", "max_wal_size": "4GB"}) as server:
        asyncio.run(prepared(server.dsn(), options.size))
        asyncio.run(measure(server.dsn()))


if __name__ == "__main__":
    main()
