"""Reads a platform's queries from PostgreSQL, also through a connection pooler."""

import time
from collections.abc import Mapping
from typing import Any

import asyncpg

from scoreboardd.platforms.engines import EngineError, EngineRead, Packed, Query, unpack
from scoreboardd.postgres import connection as postgres
from scoreboardd.system.clock import ClockReading

_AS_OF = "SELECT extract(epoch FROM transaction_timestamp())::float8"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


class PostgresEngine:
    """`dsn` is a postgresql:// URL."""

    def __init__(self, dsn: str, *, statement_timeout_seconds: float) -> None:
        self._dsn = dsn
        self._statement_timeout = statement_timeout_seconds

    async def read(self, queries: Mapping[str, Query]) -> EngineRead:
        """Run all queries in one repeatable-read transaction. Raises `EngineError`."""
        rows: dict[str, list[tuple[Any, ...]]] = {}
        packed: dict[str, Packed] = {}
        name = ""
        try:
            connection = await postgres.connect_for_transactions(self._dsn, statement_timeout=self._statement_timeout)
            try:
                async with postgres.transaction(
                    connection, statement_timeout=self._statement_timeout, isolation="repeatable read"
                ):
                    as_of = await connection.fetchval(_AS_OF)
                    for name, query in queries.items():
                        if query.is_packed:
                            found = await connection.fetchval(_pack(query))
                            packed[name] = unpack(found or b"", len(query.columns))
                        else:
                            rows[name] = [tuple(row) for row in await connection.fetch(query.sql)]
            finally:
                connection.terminate()
        except postgres.FAILURES as error:
            raise EngineError(_explain(error, name, self._dsn)) from error
        return EngineRead(as_of, rows, packed)

    async def clock(self) -> ClockReading:
        """Measure the server's clock. Raises `EngineError`."""
        try:
            connection = await postgres.connect_for_transactions(self._dsn, statement_timeout=self._statement_timeout)
            try:
                before = time.monotonic()
                now = await connection.fetchval(_NOW)
                after = time.monotonic()
            finally:
                connection.terminate()
        except postgres.FAILURES as error:
            raise EngineError(postgres.explain(error, self._dsn)) from error
        return ClockReading(offset=now - (before + after) / 2, error=(after - before) / 2)


def _pack(query: Query) -> str:
    values = " || ".join(f"int8send(coalesce({name}, {-(2**63)})::bigint)" for name in query.columns)
    names = ", ".join(query.columns)
    return f"SELECT string_agg({values}, ''::bytea ORDER BY id) FROM ({query.sql}\n) AS packed ({names})"  # noqa: S608


def _explain(error: BaseException, query: str, dsn: str) -> str:
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            fix = f"{query}.sql needs it: check that source.dsn names the platform's database, and its version"
        case asyncpg.InsufficientPrivilegeError():
            fix = f"{query}.sql reads it: GRANT SELECT on its columns to the role in source.dsn"
        case asyncpg.QueryCanceledError():
            fix = f"{query}.sql took too long; raise postgres.statement_timeout"
        case _:
            return postgres.explain(error, dsn).replace("postgres.dsn", "source.dsn")
    return postgres.error_line(error, fix, dsn)
