"""What both halves of the Redis backend share: the client, its deadlines, its scripts, and how the head is read."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import orjson
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, MasterDownError, ReadOnlyError, RedisError, ResponseError

from scoreboardd.backends.base import MAX_METADATA_BYTES, METADATA_FIELDS, Head, Unavailable, head_of
from scoreboardd.backends.names import Names
from scoreboardd.model import Version

COMMAND_TIMEOUT_SECONDS = 5.0
"Seconds within which the server must answer a command, or send or answer something on a subscription."
TRANSFER_TIMEOUT_SECONDS = 20.0
"Seconds within which the server must take or give one document."


class Client(aioredis.Redis):
    """Does not stay with a server that says that it is not the primary: the name in the URL may lead to another."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except RedisError as error:
            if _not_primary(error):
                await self.leave()
            raise

    async def leave(self) -> None:
        """Close every connection, those of subscriptions included. The next command connects again."""
        await self.connection_pool.disconnect()

    async def primary(self) -> str | None:
        """The id of the run of the primary that answers; None if we may not ask. Leaves a server that is no primary."""
        try:
            said = await self.info()
        except ResponseError:
            return None
        if said.get("role", "master") != "master" or said.get("loading"):
            await self.leave()
            raise ReadOnlyError("the server is a replica, or still loads its data")
        return str(said.get("run_id"))


def _not_primary(error: BaseException) -> bool:
    # Redis 6.2 puts what a script ran into behind words of its own.
    known = isinstance(error, ReadOnlyError | MasterDownError | BusyLoadingError)
    return known or re.search(r"\b(READONLY|MASTERDOWN|LOADING)\b", str(error)) is not None


def connect(url: str) -> Client:
    # One retry, at once: it is for a pooled connection that the server has closed meanwhile. Every command we send may
    # be sent twice without harm. The caller waits between tries.
    client: Client = Client.from_url(  # type: ignore[assignment]
        url,
        # Not its own: on Python 3.11 it may swallow a cancellation (asyncio.wait_for). `deadline` keeps the time.
        socket_timeout=None,
        socket_connect_timeout=COMMAND_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=0,
        client_name="scoreboardd",
    )
    return client


@asynccontextmanager
async def deadline(within: float = COMMAND_TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Raises `Unavailable` if the block fails on the way to Redis or takes longer than `within` seconds."""
    try:
        async with asyncio.timeout(within):
            yield
    except TimeoutError as error:
        raise Unavailable(f"redis: no answer in {within:g} s; see that it runs and that redis.url is right") from error
    except (RedisError, OSError, RuntimeError) as error:
        # RuntimeError is how uvloop says that a connection was reset before we wrote to it.
        raise Unavailable(_explain(error)) from error


def _explain(error: BaseException) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    fix = "see that it runs and that redis.url is right"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        said = f"the server's certificate cannot be verified: {cause.verify_message}"
        fix = "see that ssl_ca_certs in redis.url is of the authority that signed it, and that it names this host"
    elif _not_primary(error):
        said = f"this server takes no writes now: {said}"
        fix = "reconnecting; see that redis.url leads to the primary"
    return f"redis: {said}; {fix}"


def load_script(client: aioredis.Redis, name: str) -> Any:
    return client.register_script((files(__package__) / f"{name}.lua").read_text())


async def read_head(script: Any, names: Names) -> Head:
    """Return what is committed, as `head.lua` reads it. Not all documents need to exist."""
    version, fields, epoch, number = await script(
        keys=[names.version, names.metadata, names.fence], args=[MAX_METADATA_BYTES, *METADATA_FIELDS]
    )
    metadata = {name: _json(text) for name, text in zip(METADATA_FIELDS, fields, strict=True)}
    return head_of(parse_version(version), metadata, parse_version(b"%b-%b" % (epoch, number)))


async def read_previous(script: Any, names: Names) -> Version | None:
    """Return the version whose documents the last commit replaced, as `head.lua` reads it."""
    _, (previous,), *_ = await script(
        keys=[names.version, names.metadata, names.fence], args=[MAX_METADATA_BYTES, "previous"]
    )
    return parse_version(previous)


def parse_version(text: bytes | None) -> Version | None:
    return Version.parse(text.decode(errors="replace")) if text else None


def _json(text: bytes | None) -> Any:
    """None if it is not JSON."""
    try:
        return orjson.loads(text or b"null")
    except orjson.JSONDecodeError:
        return None
