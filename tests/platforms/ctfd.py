"""Databases as CTFd makes them, filled with the rows of recorded contests."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import orjson
import zstandard

from tests.platforms.mariadb import Mariadb

VECTORS = Path(__file__).parent / "vectors"
TABLES = ("brackets", "teams", "users", "challenges", "dynamic_challenge", "submissions", "solves", "awards", "config")
COLUMNS = {
    "brackets": "id, name, type",
    "teams": "id, name, password, hidden, banned, bracket_id",
    "users": "id, name, password, type, hidden, banned, verified, team_id, bracket_id",
    "challenges": "id, name, category, value, state, type, initial, minimum, decay, function, scheduled_at",
    "dynamic_challenge": "id, dynamic_initial, dynamic_minimum, dynamic_decay, dynamic_function",
    "submissions": "id, challenge_id, user_id, team_id, type, date",
    "solves": "id, challenge_id, user_id, team_id",
    "awards": "id, user_id, team_id, type, name, value, date, category",
    "config": "id, key, value",
}
"The columns that a board or a grant depends on, with the types that CTFd's migrations give them."
_TYPES = {
    "id": "integer PRIMARY KEY",
    **dict.fromkeys(("hidden", "banned", "verified"), "boolean"),
    **dict.fromkeys(("name", "password", "category", "state", "type", "function", "dynamic_function"), "varchar(200)"),
    **dict.fromkeys(("key", "value"), "text"),
    **dict.fromkeys(("date", "scheduled_at"), "{datetime}"),
}


@cache
def recorded(name: str) -> dict[str, Any]:
    """The recorded contest of that name, such as `ctfd_teams_1`."""
    packed = (VECTORS / f"{name}.json.zst").read_bytes()
    contest: dict[str, Any] = orjson.loads(zstandard.ZstdDecompressor().decompress(packed))
    return contest


CONTESTS = sorted(
    path.name.removesuffix(".json.zst") for path in VECTORS.glob("ctfd_*.zst") if "columns" not in path.name
)


def schema(datetime_type: str) -> Iterator[str]:
    for table, columns in COLUMNS.items():
        names = columns.split(", ")
        types = {name: _TYPES.get(name, "integer") for name in names}
        if table == "challenges":
            types["value"] = "integer"
        if table == "awards":
            types["value"] = "integer"
        fields = ", ".join(f'"{name}" {types[name].format(datetime=datetime_type)}' for name in names)
        yield f"CREATE TABLE {table} ({fields})"


def table_rows(snapshot: dict[str, Any], table: str) -> list[tuple[Any, ...]]:
    """The rows of a table in a snapshot, with all of `COLUMNS`. Times are naive `datetime`s."""
    found = snapshot["tables"][table]
    given, constant = found["columns"], found.get("constant") or {}
    if table == "config":
        # The recorded clock takes the place of the server's.
        rows = [*found["rows"], ["now", str(unix(snapshot["now"]))]]
        return [(number, *row) for number, row in enumerate(rows, start=1)]
    wanted = COLUMNS[table].split(", ")
    made = []
    for row in found["rows"]:
        values = {**dict(zip(given, row, strict=True)), **constant, "password": "not for us"}
        values = {
            name: datetime.fromisoformat(value) if name in ("date", "scheduled_at") and value else value
            for name, value in values.items()
        }
        made.append(tuple(values.get(name) for name in wanted))
    return made


def unix(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


class Database(Protocol):
    """An empty database with CTFd's tables, of one engine."""

    dsn: str

    async def fill(self, snapshot: dict[str, Any]) -> None:
        """Replace all rows by those of `snapshot`, in one transaction."""

    async def execute(self, *statements: str) -> None: ...


class SqliteDatabase:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.dsn = f"sqlite:///{path}"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            for statement in schema("datetime"):
                connection.execute(statement)

    async def fill(self, snapshot: dict[str, Any]) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for table in TABLES:
                connection.execute(f"DELETE FROM {table}")
                rows = [tuple(_sqlite(value) for value in row) for row in table_rows(snapshot, table)]
                marks = ", ".join("?" * len(COLUMNS[table].split(", ")))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)

    async def execute(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)


def _sqlite(value: Any) -> Any:
    # As SQLAlchemy writes a `DateTime`.
    return value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value


class MysqlDatabase:
    def __init__(self, server: Mariadb, name: str) -> None:
        self._server, self._name = server, name
        self.dsn = server.dsn(name)
        with closing(server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_mode = 'ANSI_QUOTES'")
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
            cursor.execute(f"USE {name}")
            for statement in schema("datetime(6)"):
                cursor.execute(statement)

    async def fill(self, snapshot: dict[str, Any]) -> None:
        with closing(self._server.connect(self._name)) as connection, connection.cursor() as cursor:
            connection.begin()
            for table in TABLES:
                cursor.execute(f"DELETE FROM {table}")
                rows = table_rows(snapshot, table)
                marks = ", ".join(["%s"] * len(COLUMNS[table].split(", ")))
                cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            connection.commit()

    async def execute(self, *statements: str) -> None:
        with closing(self._server.connect(self._name)) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_mode = 'ANSI_QUOTES'")
            for statement in statements:
                cursor.execute(statement)


class PostgresDatabase:
    def __init__(self, server: str, name: str) -> None:
        """`server`: the URL of a database to connect to for making another."""
        self._server, self._name = server, name
        self.dsn = urlsplit(server)._replace(path=f"/{name}").geturl()

    async def create(self) -> None:
        server = await asyncpg.connect(self._server)
        try:
            await server.execute(f"CREATE DATABASE {self._name}")
        finally:
            await server.close()
        connection = await asyncpg.connect(self.dsn)
        try:
            for statement in schema("timestamp without time zone"):
                await connection.execute(statement)
        finally:
            await connection.close()

    async def fill(self, snapshot: dict[str, Any]) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            async with connection.transaction():
                for table in TABLES:
                    await connection.execute(f"DELETE FROM {table}")
                    await connection.copy_records_to_table(table, records=table_rows(snapshot, table))
        finally:
            await connection.close()

    async def execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


def platform_with_recorded_clock(folder: Path) -> Path:
    """A copy of the platform `ctfd` that takes the time of day from the database, where `fill` has written it."""
    source = Path(__file__).parents[2] / "scoreboardd/platforms/ctfd"
    folder.mkdir()
    for file in source.iterdir():
        text = file.read_text()
        if file.name == "settings.sql":
            text += "\nUNION ALL SELECT 'now', value FROM config WHERE \"key\" = 'now'\n"
        (folder / file.name).write_text(text)
    return folder
