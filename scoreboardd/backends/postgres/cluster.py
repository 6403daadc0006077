"""The lease, the commit and the bus in Postgres."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

from scoreboardd.backends.base import MESSAGES_PER_TURN, Busy, Lease, Message, SnapshotMetadata, Subscribed, Unavailable
from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres import table
from scoreboardd.backends.postgres.connection import (
    COMMAND_TIMEOUT_SECONDS,
    HEAD,
    READ_ONLY,
    Connection,
    Session,
    channel,
    deadline,
    load_sql,
    parse_head,
    snapshot_arguments,
)
from scoreboardd.cluster import wire
from scoreboardd.model import MAX_NUMBER, ChangeEvent, Version
from scoreboardd.postgres.connection import connect

MAX_QUEUED_NOTIFICATIONS = 100_000
"With more notifications than this waiting, the subscription ends and the caller subscribes again."


class PostgresClusterBackend:
    """The lease, the commit and the bus. See `base.ClusterBackend`."""

    def __init__(self, dsn: str, *, prefix: str, lock_ttl: float) -> None:
        self._dsn = dsn
        self._names = Names(prefix)
        self._ttl = lock_ttl
        self._link = Connection(dsn, statement_timeout=COMMAND_TIMEOUT_SECONDS)
        self._echo, self._building, self._rebuilt, self._events = (
            channel(self._names, name) for name in (wire.ECHO, wire.BUILDING, wire.REBUILT, wire.EVENTS)
        )
        self._acquire, self._renew, self._commit, self._confirm, self._abandon = (
            load_sql(name) for name in ("acquire", "renew", "commit", "confirm", "abandon")
        )

    async def acquire(self, token: str, seen: Version | None) -> Lease | Busy:
        names = self._names
        ((epoch, number, remaining, overlong, _),) = await self._link.run(
            self._acquire,
            names.lock,
            names.version,
            token,
            self._ttl,
            secrets.token_hex(4),
            seen.epoch if seen else "",
            seen.number if seen else 0,
            self._building,
            MAX_NUMBER,
        )
        if epoch is None:
            return Busy(remaining, overlong)
        version = Version.parse(f"{epoch}-{number}")
        if version is None:
            raise Unavailable("postgres: what it says of its last version is no version; see what else writes to it")
        return Lease(token, version)

    async def renew(self, lease: Lease) -> bool:
        return bool(await self._link.run(self._renew, self._names.lock, lease.token, self._ttl))

    async def commit(self, lease: Lease, metadata: SnapshotMetadata, event: ChangeEvent) -> bool:
        names, version = self._names, lease.version
        # Stable while we have the lease, and if we have not, the statement refuses.
        before = parse_head(await self._link.run(HEAD, names.version, names.lock)).metadata
        ((committed,),) = await self._link.run(
            self._commit,
            names.lock,
            names.version,
            lease.token,
            version.epoch,
            version.number,
            *snapshot_arguments(names, lease, metadata, before),
            self._rebuilt,
            wire.announcement(version, event).decode(),
        )
        return bool(committed)

    async def confirm(self, lease: Lease, as_of: float, *, full: bool, complete: bool) -> bool:
        names, version = self._names, lease.version
        fields = {"confirmed": version.number, "complete": complete} | ({"full": version.number} if full else {})
        return bool(
            await self._link.run(
                self._confirm,
                names.lock,
                names.version,
                lease.token,
                version.epoch,
                version.number,
                as_of,
                self._building,
                orjson.dumps(fields).decode(),
            )
        )

    async def abandon(self, lease: Lease) -> None:
        version = lease.version
        await self._link.run(
            self._abandon, self._names.lock, lease.token, version.epoch, version.number, self._building
        )

    async def publish(self, event: ChangeEvent, id: str | None = None) -> None:
        await self._link.run("SELECT pg_notify($1, $2)", self._events, wire.change(event, id).decode())

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Message]]:
        async with deadline(self._dsn):
            connection = await connect(self._dsn, statement_timeout=COMMAND_TIMEOUT_SECONDS)
        try:
            heard: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
            connection.add_termination_listener(lambda _: heard.put_nowait(None))
            # One transaction: we must not receive the begin of a build and miss an event that came before it.
            async with deadline(self._dsn):
                await connection.execute("BEGIN")
                for name in (self._echo, self._building, self._rebuilt, self._events):
                    await connection.add_listener(name, lambda *said: heard.put_nowait(said[2:]))
                await connection.execute("COMMIT")
            yield self._messages(connection, heard)
        finally:
            connection.terminate()

    async def _messages(
        self, connection: Session, heard: "asyncio.Queue[tuple[str, str] | None]"
    ) -> AsyncIterator[Message]:
        yield Subscribed(parse_head(await self._link.run(HEAD, self._names.version, self._names.lock)).given)
        time = asyncio.get_running_loop().time
        due, mark = time() + COMMAND_TIMEOUT_SECONDS, None
        received = 0
        while True:
            said: tuple[str, str] | None = ("", "")
            try:
                async with asyncio.timeout(max(due - time(), 0.01)):
                    said = await heard.get()
            except TimeoutError:
                if mark is not None:
                    # The connection is half open, or leads to another server than our statements do.
                    self._link.close()
                    raise Unavailable(
                        "postgres: the subscription does not answer to what is notified; reconnecting; "
                        "see that postgres.dsn leads to one server, the primary"
                    ) from None
            if mark is None and time() >= due:
                mark = await self._send_mark()
                due = time() + COMMAND_TIMEOUT_SECONDS
            received += 1
            if received % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)  # so that a flood does not hold up the loop
            if said is None:
                raise Unavailable("postgres: the subscription was closed; reconnecting")
            if heard.qsize() > MAX_QUEUED_NOTIFICATIONS:
                raise Unavailable("postgres: more notifications than can be handled; reconnecting")
            if said == (self._echo, mark):
                due, mark = time() + COMMAND_TIMEOUT_SECONDS, None
            elif (message := self._message(*said)) is not None:
                yield message

    def _message(self, name: str, payload: str) -> Message | None:
        data = payload.encode()
        if name == self._events:
            return wire.changed(data)
        if name == self._rebuilt:
            return wire.rebuilt(data)
        return wire.building(data) if name == self._building else None

    async def _send_mark(self) -> str:
        """Sends and returns a mark, which the subscription receives if both connections reach the same server."""
        mark = secrets.token_hex(8)
        ((read_only, _),) = await self._link.run(f"SELECT ({READ_ONLY}), pg_notify($1, $2)", self._echo, mark)
        if read_only:
            self._link.close()
            raise Unavailable(
                "postgres: this server takes no writes now; reconnecting; point postgres.dsn at the primary"
            )
        return mark

    async def check(self) -> list[str]:
        """Returns what keeps this server from serving the daemon, one line each."""
        async with self._link.snapshot() as connection:
            if await connection.fetchval(READ_ONLY):
                return ["postgres: this server takes no writes; point postgres.dsn at the primary"]
            problem = await table.cache_problem(connection)
        if problem:
            return [problem]
        await self._rehearse()
        return []

    async def _rehearse(self) -> None:
        """Acquires and deletes a lock that no node uses, and waits for its notification. Raises `Unavailable`."""
        test = Names(f"{self._names.prefix}scoreboard:check:{secrets.token_hex(4)}:")
        mark = asyncio.Event()
        async with deadline(self._dsn):
            connection = await connect(self._dsn, statement_timeout=COMMAND_TIMEOUT_SECONDS)
        try:
            async with deadline(self._dsn):
                for name in (self._building, self._rebuilt, self._events):
                    await connection.add_listener(name, lambda *_: None)
                await connection.add_listener(self._echo, lambda *said: mark.set() if test.lock in said[3] else None)
            await self._link.run(
                self._acquire,
                test.lock,
                test.version,
                "check",
                self._ttl,
                secrets.token_hex(4),
                "",
                0,
                self._echo,
                MAX_NUMBER,
            )
            await self._link.run("DELETE FROM leaderboard_cache WHERE cache_key = $1", test.lock)
            await self._link.run("SELECT pg_notify($1, $2)", self._echo, test.lock)
            async with deadline(self._dsn):
                await mark.wait()
        except Unavailable as error:
            raise Unavailable(f"{error} (found by a rehearsal of what the daemon does)") from error
        finally:
            connection.terminate()

    async def aclose(self) -> None:
        self._link.close()
