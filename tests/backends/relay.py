"""A way to a server that can be made to fall silent, as a network does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


@asynccontextmanager
async def relay(
    url: str, port: int = 0, *, received: Callable[[int], None] = lambda _: None
) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A port, `port` if it is given, that leads to the server at `url`, and an event: while it is set, whatever is said
    either way is swallowed. `received` is called with the number of bytes of each part that the server sends."""
    target, silence = urlsplit(url), asyncio.Event()
    writers: list[asyncio.StreamWriter] = []
    pumps: set[asyncio.Task[None]] = set()

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None] = lambda _: None
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                count(len(data))
                if not silence.is_set():
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection(target.hostname, target.port)
        writers.extend([writer, their_writer])
        for each in (pump(reader, their_writer), pump(their_reader, writer, received)):
            pumps.add(asyncio.create_task(each))

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1], silence
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*pumps, return_exceptions=True)
