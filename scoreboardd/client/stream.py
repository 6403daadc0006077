"""Following the stream, one connection at a time."""

import asyncio
import random
from collections.abc import Callable
from typing import NoReturn

import aiohttp
from yarl import URL

from scoreboardd.client.events import Parser, StreamEvent, TooLong
from scoreboardd.client.http import RequestFailed, ask
from scoreboardd.model import Version

PATH = "api/scoreboard/stream"

SILENCE = 70.0
"Seconds; a server that lives says something, if only `: ping`, every 60 s."
RETRY = (1.0, 5.0)
"Seconds, between which it is chosen how long to wait before the stream is followed again, until the server says."


class Stream:
    """That of the scoreboard at `url`."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, query: dict[str, str]) -> None:
        self._session = session
        self.url = url.joinpath(PATH).with_query(query | {"deltas": "1"})
        self.retry = random.uniform(*RETRY)
        "Seconds to wait before following it again, as the server says."

    async def follow(self, last: Version, hear: Callable[[StreamEvent], None]) -> NoReturn:
        """Tell `hear` what comes after `last`. Raises `RequestFailed` when the stream ends."""
        headers = {
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",  # a proxy that compresses holds events back
            "Last-Event-ID": str(last),
        }
        async with ask(self._session, "GET", self.url, headers) as response:
            if response.content_type != "text/event-stream":
                raise RequestFailed(self.url, f"is no stream but {response.content_type}: is a proxy in the way?")
            parser = Parser()
            while True:
                async with asyncio.timeout(SILENCE):
                    chunk = await response.content.readany()
                if not chunk:
                    raise RequestFailed(self.url, "has ended")
                try:
                    events = parser.feed(chunk)
                except TooLong as error:
                    raise RequestFailed(self.url, f"says {error}") from None
                if parser.retry is not None:
                    self.retry = parser.retry
                for event in events:
                    hear(event)
