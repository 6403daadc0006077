"""Texts in databases of every encoding, valid in it or not."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from scoreboardd.platforms import check
from scoreboardd.platforms.postgres import PostgresSource
from scoreboardd.platforms.source import FullRead
from tests.contests import SCHEMA_SQL

Open = Callable[[str], Any]


@pytest.fixture
def encoded(postgres_dsn: str) -> Open:
    """Opens a platform's database in an encoding: its DSN, and a connection that sends bytes as they are."""

    @asynccontextmanager
    async def encoded(encoding: str) -> AsyncIterator[tuple[str, Any]]:
        name = f"test_{secrets.token_hex(8)}"
        dsn = urlsplit(postgres_dsn)._replace(path=f"/{name}").geturl()
        server = await asyncpg.connect(postgres_dsn, timeout=10, command_timeout=30)
        try:
            await server.execute(
                f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
            )
            admin = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
            try:
                await admin.execute(SCHEMA_SQL(divisions=True))
                await admin.execute("CREATE INDEX ON submissions (user_id, challenge_id) WHERE correct")
                yield dsn, admin
            finally:
                admin.terminate()
                await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            server.terminate()

    return encoded


async def insert(admin: Any, id: int, name: bytes) -> None:
    """One of everything, with these very bytes for its names."""
    async with admin.transaction():
        # A text of the database's own encoding, whatever the bytes are: no conversion looks at them.
        text = f"encode('\\x{name.hex()}'::bytea, 'escape')"
        if any(byte > 127 for byte in name):
            text = f"convert_from('\\x{name.hex()}'::bytea, getdatabaseencoding())"
        await admin.execute(f"""
            INSERT INTO divisions VALUES ({id}, {text}); INSERT INTO teams VALUES ({id}, {text}, {id});
            INSERT INTO users VALUES ({id}, {text}, 'user', {id});
            INSERT INTO challenges VALUES ({id}, {text}, {text}, 100, 10);
            INSERT INTO submissions VALUES ({id}, {id}, {id}, true, false, now());
        """)


async def read(dsn: str) -> FullRead:
    async with PostgresSource(dsn, "smctf", statement_timeout=10) as source:
        return await source.read()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9", "caf\ufffd"),  # Latin-1
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\xed\xa0\x80b", "a\ufffd\ufffd\ufffdb"),  # a lone surrogate
        (b"\xc0\x80", "\ufffd\ufffd"),  # a NUL, the long way
        (b"\xf4\x90\x80\x80", "\ufffd" * 4),  # beyond Unicode
        (b"cut \xf0\x9f\x98", "cut \ufffd"),
    ],
)
async def test_a_name_that_is_not_utf_8_costs_itself(encoded: Open, name: bytes, shown: str):
    async with encoded("SQL_ASCII") as (dsn, admin):
        await insert(admin, 1, "é \U0001f600".encode())
        await insert(admin, 2, name)
        reading = await read(dsn)
        roster = reading.rows.roster
        assert [user.name for user in roster.users] == ["é \U0001f600", shown]
        assert [team.name for team in roster.teams] == ["é \U0001f600", shown]
        assert [challenge.title for challenge in roster.challenges] == ["é \U0001f600", shown]
        assert [division.name for division in roster.divisions] == ["é \U0001f600", shown]
        assert len(reading.rows.solves) == 2
        found = [(finding.table, finding.problem.split()[0], finding.ids, finding.rows) for finding in reading.findings]
        columns = {"challenges": ["title", "category"], "teams": ["name"], "users": ["username"], "divisions": ["name"]}
        assert found == [(table, column, ("2",), 1) for table, names in columns.items() for column in names]
        problems = [problem async for problem in check.problems(dsn, "smctf", statement_timeout=10)]
        assert problems == [str(finding) for finding in reading.findings]


@pytest.mark.parametrize(
    ("encoding", "name", "shown"),
    [
        ("UTF8", "é\U0001f600".encode(), "é\U0001f600"),
        ("LATIN1", b"caf\xe9", "café"),
        ("LATIN9", b"\xa4", "€"),
        ("LATIN10", b"\xaa", "Ș"),
        ("ISO_8859_5", b"\xb0", "А"),
        ("WIN1251", b"\xc0", "А"),
        ("WIN1252", b"\x80", "€"),
        ("WIN866", b"\x80", "А"),
        ("KOI8R", b"\xe1", "А"),
        ("KOI8U", b"\xe1", "А"),
        ("EUC_JP", "日本".encode("euc_jp"), "日本"),
        ("EUC_JIS_2004", "日本".encode("euc_jis_2004"), "日本"),
        ("EUC_KR", "한국".encode("euc_kr"), "한국"),
        ("EUC_CN", "中国".encode("gb2312"), "中国"),
        ("EUC_TW", b"\xc4\xe3", "中"),  # Python has no codec: PostgreSQL converts
    ],
)
async def test_a_name_is_read_in_the_encoding_of_the_database(encoded: Open, encoding: str, name: bytes, shown: str):
    async with encoded(encoding) as (dsn, admin):
        await insert(admin, 1, name)
        reading = await read(dsn)
        assert [user.name for user in reading.rows.roster.users] == [shown]
        assert reading.findings == []


async def test_a_name_without_equivalent_in_utf_8_costs_itself(encoded: Open):
    async with encoded("WIN1252") as (dsn, admin):
        await insert(admin, 1, b"caf\xe9")
        await insert(admin, 2, b"\x81")
        reading = await read(dsn)
        assert [user.name for user in reading.rows.roster.users] == ["café", "\ufffd"]
        assert {finding.ids[0] for finding in reading.findings} == {"2"}
