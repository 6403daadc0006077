"""Asking the server, each time with a deadline, and what may come of it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import orjson
from yarl import URL

ANSWER = 15.0
"Seconds to wait for the head of an answer."
TEXT = 2048
"Bytes of a refusal that are read for its reason."

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 5
"Redirects in a row for one request."

FOR_NOW = frozenset({408, 425, 429})
"Status codes below 500 that do not concern the request itself."


class ClientError(Exception):
    """Asking again does not help: the address, the division or the request is wrong."""


class RequestFailed(Exception):
    """The server did not give what was asked for, this time.

    `retry_after` is for how many seconds the server wants to be left alone; `wrong` is true if it says that the request
    is to blame, so that who has never had an answer should not go on asking.
    """

    def __init__(self, url: URL, problem: str, *, retry_after: float = 0.0, wrong: bool = False) -> None:
        super().__init__(f"{shown(url)} {problem}")
        self.retry_after = retry_after
        self.wrong = wrong


def shown(url: URL) -> str:
    """Without a password."""
    return str(url.with_user(None))


@asynccontextmanager
async def ask(
    session: aiohttp.ClientSession, method: str, url: URL, headers: Mapping[str, str]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer of 200 or 304. Its body the caller reads, with deadlines of its own. Redirects are followed within the
    origin of `url` only: no server may send the client to another one, such as one behind the client's firewall.

    Raises `RequestFailed`, for what goes wrong while the caller has it, too.
    """
    try:
        async with asyncio.timeout(ANSWER):
            response = await _request(session, method, url, headers)
        async with response:
            if response.status not in (200, 304):
                raise await _refused(url, response)
            yield response
    except TimeoutError:
        raise RequestFailed(url, "does not answer") from None
    except (aiohttp.ClientError, OSError) as error:
        raise RequestFailed(url, f"cannot be had: {error or type(error).__name__}") from error


async def _request(
    session: aiohttp.ClientSession, method: str, url: URL, headers: Mapping[str, str]
) -> aiohttp.ClientResponse:
    target = url
    for _ in range(MOST_REDIRECTS + 1):
        response = await session.request(method, target, headers=headers, allow_redirects=False)
        if response.status not in REDIRECTS or "Location" not in response.headers:
            return response
        response.close()
        target = _redirected(url, target, response.headers["Location"])
    raise RequestFailed(url, f"redirects more than {MOST_REDIRECTS} times", wrong=True)


def _redirected(url: URL, target: URL, location: str) -> URL:
    """Where `location` leads from `target`, with the credentials of `url`."""
    try:
        found = target.join(URL(location))
        origin = found.origin()
    except ValueError:
        raise RequestFailed(url, "redirects to something that is no http URL", wrong=True) from None
    if origin != url.origin():
        problem = (
            f"redirects to another origin, {origin}, which is not followed: give that address if it is the right one"
        )
        raise RequestFailed(url, problem, wrong=True)
    return found.with_user(url.user).with_password(url.password)


async def _refused(url: URL, response: aiohttp.ClientResponse) -> RequestFailed:
    async with asyncio.timeout(ANSWER):
        text = await response.content.read(TEXT)
    try:
        reason = str(orjson.loads(text)["error"])
    except (KeyError, TypeError, ValueError):
        reason = response.reason or ""
    asked = response.headers.get("Retry-After", "")
    return RequestFailed(
        url,
        f"answers {response.status} {''.join(filter(str.isprintable, reason))}".rstrip(),
        retry_after=float(asked) if asked.isdecimal() and len(asked) < 10 else 0.0,
        wrong=400 <= response.status < 500 and response.status not in FOR_NOW,
    )
