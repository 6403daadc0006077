"""Follow a stream with a client that bots use, and print the name and the id of each event.

python follow.py CLIENT URL VERSION, where VERSION is 1.1, or for those that speak it 1.0, of HTTP.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

TIMEOUT = 20


def sseclient_requests(url: str) -> Iterator[tuple[str, str]]:
    import requests
    import sseclient

    for event in sseclient.SSEClient(requests.get(url, stream=True, timeout=TIMEOUT)).events():
        yield event.event, event.id


def sseclient_httpx(url: str) -> Iterator[tuple[str, str]]:
    import httpx
    import sseclient

    with httpx.stream("GET", url, timeout=TIMEOUT) as response:
        for event in sseclient.SSEClient(response.iter_bytes()).events():
            yield event.event, event.id


def requests_lines(url: str) -> Iterator[tuple[str, str]]:
    """What many write by themselves."""
    import requests

    event_id = ""
    name = ""
    for line in requests.get(url, stream=True, timeout=TIMEOUT).iter_lines(chunk_size=None):
        field, _, value = line.decode().partition(": ")
        if field == "id":
            event_id = value
        elif field == "event":
            name = value
        elif field == "data":
            yield name, event_id


def requests_sse(url: str) -> Iterator[tuple[str, str]]:
    from requests_sse import EventSource

    with EventSource(url, timeout=TIMEOUT) as source:
        for event in source:
            yield event.type, event.last_event_id


def httpx_sse(url: str) -> Iterator[tuple[str, str]]:
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=TIMEOUT) as client, connect_sse(client, "GET", url) as source:
        for event in source.iter_sse():
            yield event.event, event.id


async def aiohttp_sse_client2(url: str, version: str) -> AsyncIterator[tuple[str, str]]:
    from aiohttp import ClientSession, HttpVersion10, HttpVersion11
    from aiohttp_sse_client2.client import EventSource

    session = ClientSession(version=HttpVersion10 if version == "1.0" else HttpVersion11)
    async with session, EventSource(url, session=session) as source:
        async for event in source:
            yield event.type, event.last_event_id


async def main(client: str, url: str, version: str) -> None:
    if client == "aiohttp_sse_client2":
        async for event in aiohttp_sse_client2(url, version):
            print(*event, flush=True)
        return
    for event in globals()[client](url):
        print(*event, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
