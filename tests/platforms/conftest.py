"""A platform's database, and somebody to connect to it who may do only what a test lets them."""

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.platforms.ctfd import Database, MysqlDatabase, PostgresDatabase, SqliteDatabase
from tests.platforms.mariadb import Mariadb


@dataclass(frozen=True)
class Role:
    name: str
    dsn: str


@pytest.fixture
async def role(admin: Any, platform: str) -> AsyncIterator[Role]:
    """Who may connect and nothing else."""
    name, password = f"test_{secrets.token_hex(8)}", secrets.token_hex(8)
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    yield Role(name, as_user(platform, name, password))
    await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def as_user(dsn: str, name: str, password: str) -> str:
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(name)}:{quote(password)}@{place}").geturl()


@pytest.fixture(scope="session")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mariadb]:
    with Mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture
async def ctfd_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty CTFd database of the engine that the test asks for."""
    match request.param:
        case "sqlite":
            yield SqliteDatabase(tmp_path / "ctfd.db")
        case "mysql":
            yield MysqlDatabase(request.getfixturevalue("mariadb_server"), f"test_{secrets.token_hex(8)}")
        case _:
            name = f"test_{secrets.token_hex(8)}"
            database = PostgresDatabase(request.getfixturevalue("postgres_dsn"), name)
            await database.create()
            yield database
