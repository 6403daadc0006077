"""The file of the local backend: what damages it, what is in its way, and who else looks at it."""

import asyncio
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from structlog.testing import capture_logs

from scoreboardd.backends.base import Changed, Damaged, Subscribed, Unavailable
from scoreboardd.backends.local import file as local_file
from scoreboardd.backends.local.bus import LocalBus
from scoreboardd.backends.local.cluster import LocalClusterBackend
from scoreboardd.backends.local.documents import LocalDocumentStore
from scoreboardd.backends.local.file import NAME, LocalFile
from scoreboardd.model import Version
from tests.backends.harness import LOCK_TTL_SECONDS, SOLVE, STAGE_TTL_SECONDS, holds, stage, won
from tests.documents import document_of


def permissions_count() -> bool:
    with TemporaryDirectory() as directory:
        forbid_writing(Path(directory))
        return not os.access(directory, os.W_OK)


def forbid_writing(directory: Path) -> None:
    directory.chmod(0o500)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[LocalClusterBackend]:
    backend = LocalClusterBackend(directory, prefix="", lock_ttl=LOCK_TTL_SECONDS)
    yield backend
    await backend.aclose()


def document_store_in(directory: Path) -> LocalDocumentStore:
    return LocalDocumentStore(str(directory), prefix="", stage_ttl=STAGE_TTL_SECONDS)


@pytest.fixture
def documents(tmp_path: Path) -> LocalDocumentStore:
    return document_store_in(tmp_path)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LocalClusterBackend]:
    async with opened(tmp_path) as backend:
        yield backend


async def commit(backend: LocalClusterBackend, documents: LocalDocumentStore) -> Version:
    lease = await won(backend)
    assert await backend.commit(lease, await stage(documents, lease), SOLVE)
    return lease.version


async def commit_at_last(backend: LocalClusterBackend, documents: LocalDocumentStore) -> Version:
    """Like a node: a commit is refused if the damage was found after the lock was taken, and with it the lock lost."""
    for _ in range(3):
        lease = await won(backend)
        if await backend.commit(lease, await stage(documents, lease), SOLVE):
            return lease.version
    raise AssertionError("refused each time")


def execute(directory: Path, statement: str) -> Any:
    with closing(sqlite3.connect(directory / NAME, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def names_in(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def cut_off(directory: Path) -> None:
    """Have a process killed in the middle of an operation, after part of it has reached the file."""
    code = (
        "import os, signal, sqlite3, sys; connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA cache_size = 1'); connection.execute('BEGIN IMMEDIATE')\n"
        "connection.execute('DELETE FROM entries')\n"
        "insert = 'INSERT INTO entries (key, payload) VALUES (?, zeroblob(8000))'\n"
        "for number in range(300): connection.execute(insert, (number,))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, directory / NAME], check=False)
    assert done.returncode == -signal.SIGKILL


def _flip(file: Path, at: int, count: int) -> None:
    with file.open("r+b") as opened_file:
        opened_file.seek(at)
        opened_file.write(os.urandom(count))


DAMAGE = {
    "half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "torn page": lambda file: os.truncate(file, file.stat().st_size - 100),
    "first page": lambda file: _flip(file, 0, 4096),
    "schema": lambda file: _flip(file, 100, 3000),
    "garbage": lambda file: file.write_bytes(b"garbage" * 5000),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_file_is_kept_and_another_one_begins(
    damage: str, tmp_path: Path, backend: LocalClusterBackend, documents: LocalDocumentStore
):
    version = await commit(backend, documents)
    DAMAGE[damage](tmp_path / NAME)
    with capture_logs() as logs:
        with suppress(Damaged):  # if the tables are intact, and a document is not
            await documents.load(None)
        later = await commit_at_last(backend, documents)
    await holds(documents, later)
    warnings = [line for line in logs if line["log_level"] == "warning"]
    if (tmp_path / "scoreboard.damaged").exists():
        assert later.epoch != version.epoch
        assert [line["event"] for line in warnings] == ["the local file is damaged, beginning another"]
    else:
        assert later == Version(version.epoch, version.number + 1)
    assert execute(tmp_path, "PRAGMA integrity_check") == [("ok",)]


async def test_a_table_of_another_form_is_damage(
    tmp_path: Path, backend: LocalClusterBackend, documents: LocalDocumentStore
):
    execute(tmp_path, "CREATE TABLE entries (key TEXT PRIMARY KEY, other TEXT)")
    await holds(documents, await commit(backend, documents))
    assert (tmp_path / "scoreboard.damaged").exists()


@pytest.mark.parametrize("column", ["epoch", "token", "key"])
async def test_bytes_that_are_no_text_hinder_nothing(
    column: str, tmp_path: Path, backend: LocalClusterBackend, documents: LocalDocumentStore
):
    await commit(backend, documents)
    await won(backend)
    condition = f"{column} IS NOT NULL AND key = (SELECT min(key) FROM entries WHERE {column} IS NOT NULL)"
    execute(tmp_path, f"UPDATE entries SET until = 1 WHERE {column} IS NOT NULL AND until IS NOT NULL")
    execute(tmp_path, f"UPDATE entries SET {column} = CAST(x'fffe' AS TEXT) WHERE {condition}")
    await holds(documents, await commit(backend, documents))


async def test_a_file_that_was_deleted_begins_anew_with_one_line(
    tmp_path: Path, backend: LocalClusterBackend, documents: LocalDocumentStore
):
    version = await commit(backend, documents)
    (tmp_path / NAME).unlink()
    with capture_logs() as logs:
        later = await commit(backend, documents)
    assert later.epoch != version.epoch
    assert [line["event"] for line in logs] == ["the local file is gone, beginning another"]


async def test_only_the_file_that_was_found_damaged_is_moved(tmp_path: Path):
    """Both processes find the damage; the second must not move what the first has begun since."""
    file = LocalFile(tmp_path)
    (tmp_path / NAME).write_bytes(b"garbage" * 5000)
    found = file._identity()
    LocalFile(tmp_path).run(lambda *_: None)
    file._set_aside(found, sqlite3.DatabaseError("file is not a database"))
    assert execute(tmp_path, "PRAGMA integrity_check") == [("ok",)]
    assert (tmp_path / "scoreboard.damaged").read_bytes().startswith(b"garbage")


async def test_an_operation_that_fails_leaves_nothing(tmp_path: Path):
    file = LocalFile(tmp_path)

    def fail(connection: sqlite3.Connection, _: float) -> None:
        connection.execute("INSERT INTO entries (key) VALUES ('a')")
        raise KeyError

    with pytest.raises(KeyError):
        file.run(fail)
    assert file.run(lambda connection, _: connection.execute("SELECT * FROM entries").fetchall()) == []


async def test_a_commit_outlives_a_power_failure(tmp_path: Path):
    """EXTRA: the folder is synced, too, before the commit returns."""
    synchronous = LocalFile(tmp_path).run(lambda connection, _: connection.execute("PRAGMA synchronous").fetchone())
    assert synchronous == (3,)


async def test_a_full_disk_is_said_and_nothing_is_lost(
    backend: LocalClusterBackend, documents: LocalDocumentStore, monkeypatch: pytest.MonkeyPatch
):
    version = await commit(backend, documents)
    lease = await won(backend)
    connect = local_file._connect

    def connect_to_a_full_disk(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are
        return connection

    monkeypatch.setattr(local_file, "_connect", connect_to_a_full_disk)
    said = r"^local: database or disk is full \(.*\); make room on its disk$"
    with pytest.raises(Unavailable, match=said):
        await documents.stage(lease, {"large": document_of(os.urandom(500_000))})
    lease = await won(backend, lease.token)  # what fits into the file still works
    monkeypatch.undo()
    await holds(documents, version)


async def test_a_folder_that_is_missing_is_said(tmp_path: Path):
    away = tmp_path / "away"
    said = r"^local: there is no such folder \(.*away\); create it for the daemon's user, or set cache.directory"
    async with opened(away) as backend:
        with pytest.raises(Unavailable, match=said):
            await backend.acquire("me", None)
        assert [problem.partition(";")[0] for problem in await backend.check()] == [
            f"local: there is no such folder ({away})"
        ]
        with pytest.raises(Unavailable, match="No such file or directory"):
            async with backend.subscribe():
                pass
    assert not away.exists()


@pytest.mark.skipif(not permissions_count(), reason="root may write anywhere")
async def test_a_folder_that_is_not_ours_is_said(tmp_path: Path):
    forbid_writing(tmp_path)
    async with opened(tmp_path) as backend:
        with pytest.raises(Unavailable, match="let the daemon's user read and write"):
            await backend.acquire("me", None)
        assert "may not write there" in (await backend.check())[0]


async def test_a_file_that_is_a_folder_is_said(tmp_path: Path, backend: LocalClusterBackend):
    (tmp_path / NAME).mkdir()
    with pytest.raises(Unavailable, match=r"unable to open database file .* let the daemon's user read and write"):
        await backend.acquire("me", None)


async def test_a_file_that_another_process_holds_is_said(
    tmp_path: Path, backend: LocalClusterBackend, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(local_file, "BUSY_TIMEOUT_SECONDS", 0.05)
    await won(backend)
    with closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match=r"database is locked .* see what else uses it"):
            await backend.acquire("me", None)


class TestCheck:
    async def test_makes_nothing(self, tmp_path: Path, backend: LocalClusterBackend, documents: LocalDocumentStore):
        """Run by root before the first start, it must not leave a file that the daemon may not write."""
        assert await backend.check() == []
        await documents.verify()
        assert names_in(tmp_path) == []

    async def test_a_file_of_a_process_that_died_at_once_is_well(
        self, tmp_path: Path, backend: LocalClusterBackend, documents: LocalDocumentStore
    ):
        (tmp_path / NAME).touch()
        assert await backend.check() == []
        await documents.verify()

    async def test_an_operation_that_was_cut_off_is_no_problem(
        self, tmp_path: Path, backend: LocalClusterBackend, documents: LocalDocumentStore
    ):
        version = await commit(backend, documents)
        cut_off(tmp_path)
        assert NAME + "-journal" in names_in(tmp_path)
        assert await backend.check() == []
        await documents.verify()
        await holds(documents, version)

    async def test_finds_damage_and_leaves_it(
        self, tmp_path: Path, backend: LocalClusterBackend, documents: LocalDocumentStore
    ):
        await commit(backend, documents)
        (tmp_path / NAME).write_bytes(b"garbage" * 5000)
        with pytest.raises(Unavailable, match="file is not a database"):
            await backend.check()
        assert names_in(tmp_path) == [NAME]

    async def test_finds_a_document_that_is_not_what_was_committed(
        self, tmp_path: Path, backend: LocalClusterBackend, documents: LocalDocumentStore
    ):
        version = await commit(backend, documents)
        execute(tmp_path, "UPDATE entries SET payload = x'00' WHERE key = 'leaderboard:users'")
        assert await backend.check() == []
        with pytest.raises(Damaged, match="leaderboard:users"):
            await documents.verify()
        assert (await documents.head()).given == version


class TestTheBus:
    async def test_a_second_process_is_refused_until_the_first_has_ended(self, tmp_path: Path):
        first, second = LocalBus(tmp_path), LocalBus(tmp_path)
        async with first.subscribe():
            with pytest.raises(Unavailable, match="another daemon uses"):
                async with second.subscribe():
                    pass
        async with second.subscribe():
            pass

    async def test_a_folder_that_cannot_be_locked_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """As on a network file system without locks."""

        def refuse(*_: Any) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with pytest.raises(Unavailable, match=r"cannot lock: No locks available .* local disk"):
            async with LocalBus(tmp_path).subscribe():
                pass

    async def test_what_a_source_of_events_may_have_lost_begins_the_subscription_anew(
        self, backend: LocalClusterBackend
    ):
        async with asyncio.timeout(20), backend.subscribe() as messages:
            assert await anext(messages) == Subscribed()
            lease = await won(backend)
            await anext(messages)
            await backend.publish(SOLVE)
            await backend.interrupted()
            assert [await anext(messages) for _ in range(2)] == [Changed(SOLVE), Subscribed(lease.version)]
