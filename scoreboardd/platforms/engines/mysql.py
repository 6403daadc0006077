"""Reads a platform's queries from MariaDB or MySQL.

PyMySQL, which is the driver of CTFd as well, blocks, so each read is in a thread. It decodes rows one by one in Python,
which takes seconds for hundreds of thousands. So rows of integers are packed by the server: a block of rows arrives as
one text of hexadecimal digits. A block is kept below the server's `max_allowed_packet`, to which the server would cut
it without an error.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pymysql
from pymysql.constants import CR, ER

from scoreboardd.platforms.engines import EngineError, EngineRead, Packed, Query, unpack
from scoreboardd.system.clock import ClockReading

CONNECT_TIMEOUT_SECONDS = 5.0
MAX_BLOCK_ROWS = 8192
"Rows that are packed into one text at most."
DIGITS = 16
"Hexadecimal digits of a value."
OPTIONS = ("ssl_ca", "unix_socket")
"The options that may follow the question mark of the URL. `charset`, which CTFd's URLs have, is ignored."

_SESSION = (
    "SET SESSION time_zone = '+00:00', SESSION sql_mode = 'ANSI_QUOTES', SESSION group_concat_max_len = 4294967295",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
)
_TIME_LIMITS = ("SET SESSION max_statement_time = {seconds}", "SET SESSION max_execution_time = {milliseconds}")
"MariaDB's, and MySQL's."
_NULL = "8000000000000000"


class MysqlEngine:
    """`dsn` is a mysql:// URL: mysql://user:password@host:3306/database."""

    def __init__(self, dsn: str, *, statement_timeout_seconds: float) -> None:
        self._dsn = dsn
        self._timeout = statement_timeout_seconds

    async def read(self, queries: Mapping[str, Query]) -> EngineRead:
        """Run all queries in one transaction with a consistent snapshot. Raises `EngineError`."""
        return await asyncio.to_thread(self._read, queries)

    async def clock(self) -> ClockReading:
        """Measure the server's clock. Raises `EngineError`."""
        return await asyncio.to_thread(self._clock)

    def _read(self, queries: Mapping[str, Query]) -> EngineRead:
        rows: dict[str, list[tuple[Any, ...]]] = {}
        packed: dict[str, Packed] = {}
        name = ""
        try:
            with closing(self._connect()) as connection, connection.cursor() as cursor:
                as_of = float(_one(cursor, "SELECT UNIX_TIMESTAMP(NOW(6))"))
                max_packet = int(_one(cursor, "SELECT @@max_allowed_packet"))
                cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
                for name, query in queries.items():
                    if query.is_packed:
                        packed[name] = _read_packed(cursor, query, max_packet)
                    else:
                        cursor.execute(query.sql)
                        rows[name] = list(cursor.fetchall())
        except (pymysql.MySQLError, OSError, ValueError) as error:
            raise EngineError(self._explain(error, name)) from error
        return EngineRead(as_of, rows, packed)

    def _clock(self) -> ClockReading:
        try:
            with closing(self._connect()) as connection, connection.cursor() as cursor:
                before = time.monotonic()
                now = float(_one(cursor, "SELECT UNIX_TIMESTAMP(NOW(6))"))
                after = time.monotonic()
        except (pymysql.MySQLError, OSError) as error:
            raise EngineError(self._explain(error, "")) from error
        return ClockReading(offset=now - (before + after) / 2, error=(after - before) / 2)

    def _connect(self) -> "pymysql.Connection[Any]":
        connection = pymysql.connect(
            **connect_arguments(self._dsn),
            charset="utf8mb4",
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            # The server's own limit expires first and yields an error; this one is for a server that does not answer.
            read_timeout=self._timeout + CONNECT_TIMEOUT_SECONDS,
            write_timeout=CONNECT_TIMEOUT_SECONDS,
            autocommit=True,
        )
        with connection.cursor() as cursor:
            for statement in _SESSION:
                cursor.execute(statement)
            is_mariadb = "mariadb" in str(_one(cursor, "SELECT VERSION()")).lower()
            limit = _TIME_LIMITS[0 if is_mariadb else 1]
            cursor.execute(limit.format(seconds=self._timeout, milliseconds=round(self._timeout * 1000)))
        return connection

    def _explain(self, error: Exception, query: str) -> str:
        code = error.args[0] if error.args else None
        text = str(error.args[1]) if isinstance(error, pymysql.MySQLError) and len(error.args) > 1 else str(error)
        match code:
            case ER.NO_SUCH_TABLE | ER.BAD_FIELD_ERROR:
                fix = f"{query}.sql needs it: check that source.dsn names the platform's database, and its version"
            case ER.TABLEACCESS_DENIED_ERROR | ER.COLUMNACCESS_DENIED_ERROR:
                fix = f"{query}.sql reads it: GRANT SELECT on its columns to the user in source.dsn"
            case ER.ACCESS_DENIED_ERROR:
                fix = "check the user and the password in source.dsn"
            case ER.DBACCESS_DENIED_ERROR | ER.BAD_DB_ERROR:
                fix = "check the database in source.dsn, and what its user is granted"
            case ER.STATEMENT_TIMEOUT | ER.QUERY_INTERRUPTED | ER.QUERY_TIMEOUT:
                fix = f"{query}.sql took too long; raise postgres.statement_timeout"
            case CR.CR_CONN_HOST_ERROR | CR.CR_CONNECTION_ERROR | CR.CR_UNKNOWN_HOST:
                fix = "check that it runs, and that source.dsn is right"
            case CR.CR_SERVER_GONE_ERROR | CR.CR_SERVER_LOST:
                fix = "the server went away; retrying"
            case _:
                fix = "check source.dsn"
        return f"mysql: {' '.join(text.split())} ({place_of(self._dsn)}); {fix}"


def connect_arguments(dsn: str) -> dict[str, Any]:
    """Return the arguments of `pymysql.connect` that a mysql:// URL stands for. Raises `ValueError` or `OSError`."""
    url = urlsplit(dsn)
    options = {name: values[-1] for name, values in parse_qs(url.query).items()}
    arguments: dict[str, Any] = {
        "host": url.hostname or "127.0.0.1",
        "port": url.port or 3306,
        "user": unquote(url.username or ""),
        "password": unquote(url.password or ""),
        "database": unquote(url.path.lstrip("/")),
    }
    if "unix_socket" in options:
        arguments["unix_socket"] = options["unix_socket"]
    if "ssl_ca" in options:
        arguments["ssl"] = ssl.create_default_context(cafile=options["ssl_ca"])
    return arguments


def options_problem(query: str) -> str | None:
    """Return one line on what is wrong with the options of a URL. None if all are allowed."""
    for name in parse_qs(query, keep_blank_values=True):
        if name not in (*OPTIONS, "charset"):
            known = name if name.isidentifier() and len(name) < 40 else "an option"
            return f"{known} is not an option of a mysql:// URL; it takes {', '.join(OPTIONS)}"
    return None


def place_of(dsn: str) -> str:
    """Return host, port and database of a mysql:// URL, for messages."""
    arguments = connect_arguments(dsn.partition("?")[0])
    return f"{arguments['host']}:{arguments['port']}/{arguments['database']}"


def _one(cursor: Any, sql: str) -> Any:
    cursor.execute(sql)
    return cursor.fetchone()[0]


def _read_packed(cursor: Any, query: Query, max_packet: int) -> Packed:
    width = DIGITS * len(query.columns)
    # Half of the packet: the server counts more than the text.
    block = max(1, min(MAX_BLOCK_ROWS, max_packet // 2 // width))
    values = ", ".join(
        f"coalesce(lpad(hex(cast({name} AS SIGNED)), {DIGITS}, '0'), '{_NULL}')" for name in query.columns
    )
    cursor.execute(
        f"SELECT count(*), group_concat(concat({values}) SEPARATOR '') "  # noqa: S608  from platform.toml
        f"FROM ({query.sql}\n) AS packed GROUP BY id DIV {block}"
    )
    texts = []
    for count, digits in cursor.fetchall():
        text = digits.decode("ascii") if isinstance(digits, bytes) else digits
        if len(text) != count * width:
            raise pymysql.DataError(
                ER.NET_PACKET_TOO_LARGE, f"a block of {count} rows does not fit into max_allowed_packet = {max_packet}"
            )
        texts.append(text)
    rows = unpack(bytes.fromhex("".join(texts)), len(query.columns))
    return rows[np.argsort(rows[:, 0])]  # here it costs a fraction of what it costs the server
