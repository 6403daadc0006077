"""A stream by aiohttp's public interface alone: what `stream` falls back to should the hand-over ever fail.

The broadcaster sees the same `Client`; its transport is an outbox that the request's handler empties.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from scoreboardd.web.feed import Client


class Outbox(asyncio.Transport):
    """The part of a transport that the broadcaster uses. Holds what is written until `pour` has passed it on."""

    def __init__(self, request: web.Request) -> None:
        super().__init__()
        self._request = request
        self._pending: list[bytes] = []
        self._filled = asyncio.Event()
        self._closing = False
        self.client: Client | None = None

    def write(self, data: Any) -> None:
        self._pending.append(data)
        self._filled.set()
        if self.client is not None and not self.client.blocked:
            self.client.pause_writing()

    def get_write_buffer_size(self) -> int:
        """Counts twice what has been passed on but not taken: it shrinks as the client takes it, and that matters."""
        transport = self._request.transport
        passed_on = transport.get_write_buffer_size() if transport is not None else 0
        return passed_on + sum(map(len, self._pending))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There are none: a client is blocked as long as anything is pending."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        transport = self._request.transport
        return default if transport is None else transport.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """aiohttp's: what goes over the connection is its own business."""
        return self._request.protocol

    def close(self) -> None:
        self._closing = True
        self._filled.set()

    def abort(self) -> None:
        self._closing = True
        self._filled.set()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def pour(self, response: web.StreamResponse, client: Client) -> None:
        """Pass on what is written until closed; cancelled when the client leaves."""
        self.client = client
        if self._pending:
            client.pause_writing()  # the greeting: what comes while it is passed on has to wait
        try:
            while self._pending or not self._closing:
                if self._pending:
                    await response.write(b"".join(self._pending))
                    self._pending.clear()
                else:
                    self._filled.clear()
                    client.resume_writing()  # which fills it with what waited
                    await self._filled.wait()
        finally:
            client.connection_lost(None)


async def stream(
    request: web.Request,
    headers: dict[str, str],
    make_client: Callable[[asyncio.Transport], Client],
    join: Callable[[Client], None],
) -> web.StreamResponse:
    """Serve one stream until it ends."""
    response = web.StreamResponse(headers=headers)
    response.force_close()
    await response.prepare(request)
    outbox = Outbox(request)
    client = make_client(outbox)
    join(client)
    await outbox.pour(response, client)
    return response
