"""What becomes of damage in a store: it does not come back, and it hinders no node."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import zstandard

from scoreboardd.backends.base import Begun, Damaged, Lease, SnapshotMetadata, Subscribed
from scoreboardd.backends.names import Names
from scoreboardd.backends.postgres.cluster import PostgresClusterBackend
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.board.document_names import document_names
from scoreboardd.model import Version
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import compressed, plain
from tests.backends.harness import SOLVE, PostgresHarness, RedisHarness, flipped, opened, won
from tests.backends.relay import relay
from tests.documents import document_of

TTL = 60.0
USERS = "leaderboard:users"


@dataclass
class Cluster:
    """A cluster backend, and the document stores of two nodes."""

    harness: Any
    store: Any
    vaults: list[Any]
    solves: int = 0

    async def won(self) -> Lease:
        return await won(self.store, secrets.token_hex(4))

    async def commit(self, node: int = 0) -> Version:
        """One more solve. Returns the version."""
        lease = await self.won()
        self.solves += 1
        _, values = await self.vaults[node].stage(lease, self.documents())
        metadata = SnapshotMetadata(f"digest {self.solves}", 1.5, (), full=lease.version.number, documents=values)
        assert await self.store.commit(lease, metadata, SOLVE)
        return lease.version

    def documents(self) -> dict[str, Document]:
        return {name: document_of(*self._pieces(name)) for name in document_names(())}

    def _pieces(self, name: str) -> list[bytes]:
        return [b"%b %d %d;" % (name.encode(), place, self.solves // 40 * (place == 7)) * 300 for place in range(40)]

    async def loads(self, version: Version, node: int = 1) -> bool:
        """Whether a node can load the documents, which have to be right then."""
        try:
            stored = await self.vaults[node].load(None)
        except Damaged:
            return False
        if stored.documents is None:
            return False
        assert stored.head.version == version
        assert {name: plain(value) for name, value in stored.documents} == {
            name: b"".join(self._pieces(name)) for name in document_names(())
        }
        return True


@pytest.fixture(params=["identity", "zstd", "postgres", "local"])
def server(request: pytest.FixtureRequest) -> tuple[str, str]:
    """What it is, and its address."""
    fixture = {"postgres": "cache_dsn", "local": "tmp_path"}.get(request.param, "redis_url")
    return request.param, str(request.getfixturevalue(fixture))


@pytest.fixture
async def cluster(server: tuple[str, str]) -> AsyncIterator[Cluster]:
    async with opened(*server) as harness:
        yield Cluster(harness, harness.cluster_backend(), [harness.document_store() for _ in range(2)])


async def test_no_node_confirms_documents_that_another_has_found_damaged(cluster: Cluster):
    version = await cluster.commit()
    await cluster.harness.flip(cluster.harness.names.document(USERS))
    assert (await cluster.vaults[0].head()).version == version, "its length is right"
    assert not await cluster.loads(version)
    head = await cluster.vaults[0].head()
    assert (head.version, head.metadata) == (None, None)
    assert head.given == version
    assert await cluster.loads(await cluster.commit())


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda value: value[: len(value) // 2],
        lambda value: b"\x28\xb5\x2f\xfd" + bytes(len(value) - 4),
        lambda value: value + b"\0",
        lambda _: b"",
    ],
    ids=["flipped", "cut", "garbage", "longer", "empty"],
)
async def test_a_damaged_document_is_not_loaded(cluster: Cluster, damage: Callable[[bytes], bytes]):
    version = await cluster.commit()
    await cluster.harness.change(cluster.harness.names.document(USERS), damage)
    with pytest.raises(Damaged, match=USERS):
        await cluster.vaults[0].verify()
    assert not await cluster.loads(version)
    assert (await cluster.vaults[0].head()).version is None
    assert await cluster.loads(await cluster.commit())


async def test_later_versions_do_not_inherit_damage(cluster: Cluster):
    for _ in range(3):
        version = await cluster.commit()
    await cluster.harness.flip(cluster.harness.names.document(USERS))
    assert not await cluster.loads(version)
    for _ in range(4):
        assert await cluster.loads(await cluster.commit())


async def test_damage_to_what_is_written_over_is_found_once(cluster: Cluster):
    for _ in range(3):
        await cluster.commit()
    await cluster.harness.flip(cluster.harness.names.document(USERS))
    for _ in range(2):  # nobody has loaded it
        version = await cluster.commit()
    if await cluster.loads(version):
        return  # it is written whole each time
    for _ in range(4):
        assert await cluster.loads(await cluster.commit())


async def test_a_version_committed_meanwhile_is_not_forgotten(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    version = await cluster.commit()
    await cluster.harness.flip(cluster.harness.names.document(USERS))
    newer: list[Version] = []
    document_store = cluster.vaults[1]
    forget = document_store._forget

    async def forget_late(damaged: Version) -> None:
        newer.append(await cluster.commit())
        await forget(damaged)

    monkeypatch.setattr(document_store, "_forget", forget_late)
    assert not await cluster.loads(version)
    assert await cluster.loads(*newer, node=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("as_of", "1e999"),
        ("as_of", "NaN"),
        ("as_of", "true"),
        ("full", "1e300"),
        ("full", "18446744073709551616"),
        ("full", "-1"),
        ("full", '"7"'),
        ("confirmed", "1e300"),
        ("confirmed", "null"),
        ("complete", '"no"'),
        ("divisions", '"12"'),
        ("divisions", "[1]"),
        ("divisions", "[1e300]"),
        ("divisions", "{}"),
        ("digest", '""'),
        ("digest", "7"),
        ("digest", f'"{"x" * 1_500_000}"'),
        ("documents", "[]"),
        ("documents", "{}"),
        ("documents", '{"leaderboard:users": 7}'),
        ("documents", json.dumps({name: {"length": 2**64, "digest": ""} for name in document_names(())})),
    ],
    ids=lambda value: value[:20],
)
async def test_a_catalogue_that_no_node_has_written_counts_as_lost(cluster: Cluster, name: str, value: str):
    if not isinstance(cluster.harness, RedisHarness) and (name, value) in (("as_of", "true"), ("as_of", "NaN")):
        return  # the column holds no such value
    await cluster.commit()
    await cluster.harness.set_metadata(name, value)
    head = await cluster.vaults[0].head()
    assert (head.version, head.metadata) == (None, None)
    assert (await cluster.vaults[1].load(None)).documents is None
    assert await cluster.loads(await cluster.commit())


@pytest.mark.parametrize("huge", ["document", "metadata", "version"])
async def test_a_huge_value_of_another_program_is_not_read(server: tuple[str, str], huge: str):
    name, address = server
    if name == "postgres" and huge == "version":
        return  # the version is in columns that no huge value fits
    if name == "local":
        return  # a file is not transferred
    received: list[int] = []
    async with relay(address, received=received.append) as (port, _), opened(name, address) as harness:
        near = harness.document_store()
        parts = urlsplit(address)
        query = "sslmode=disable" if name == "postgres" else ""
        harness.address = parts._replace(
            netloc=f"{parts.netloc.rpartition(':')[0]}:{port}".removeprefix(":"), query=query
        ).geturl()
        cluster = Cluster(harness, harness.cluster_backend(), [near, harness.document_store()])
        assert await cluster.loads(await cluster.commit())
        await harness.set_huge(huge, 20_000_000)
        received.clear()
        assert not await cluster.loads(Version("e", 1))
        assert sum(received) < 5_000_000
        assert await cluster.loads(await cluster.commit())
        assert sum(received) < 5_000_000


async def test_a_row_that_could_not_be_confirmed_counts_as_lost(cluster: Cluster):
    if not isinstance(cluster.harness, PostgresHarness):
        return  # only jsonb refuses a NUL
    await cluster.commit()
    with_nul = r"""'{"other":"\u0000",' || substr(convert_from(payload, 'UTF8'), 2)"""
    await cluster.harness._set(cluster.harness.names.version, f"payload = convert_to({with_nul}, 'UTF8')")
    assert (await cluster.vaults[0].head()).version is None
    assert await cluster.loads(await cluster.commit())


async def test_a_version_that_was_not_given_out_counts_as_lost(cluster: Cluster):
    version = await cluster.commit()
    await cluster.harness.set_number(version.number - 1)
    assert (await cluster.vaults[0].head()).version is None
    assert (await cluster.vaults[1].load(None)).documents is None


async def test_no_confirmation_counts_that_was_not_given_out(cluster: Cluster):
    version = await cluster.commit()
    await cluster.harness.set_metadata("confirmed", "99999")
    assert (await cluster.vaults[0].head()).confirmed == version.number


@pytest.mark.parametrize("number", [10**13, 10**14 - 2, 10**14 - 1, 10**14, 2 * 10**14, 10**15 - 2, 2**53])
async def test_numbers_are_announced_as_they_are_given_out(cluster: Cluster, number: int):
    await cluster.commit()
    await cluster.harness.set_number(number)
    async with asyncio.timeout(10), cluster.store.subscribe() as messages:
        assert isinstance(await anext(messages), Subscribed)
        for _ in range(3):
            lease = await cluster.won()
            assert await anext(messages) == Begun(lease.version)
            assert Version.parse(str(lease.version)) == lease.version
            assert (await cluster.vaults[0].head()).given == lease.version
            await cluster.store.abandon(lease)
            await anext(messages)


class TestWhatIsKept:
    """The tier that outlives Redis."""

    @pytest.fixture
    async def kept(self, cache_dsn: str, key_prefix: str) -> AsyncIterator[PostgresDocumentStore]:
        document_store = PostgresDocumentStore(cache_dsn, prefix=key_prefix, stage_ttl=TTL)
        await self.keep(document_store, Version("e", 5))
        yield document_store
        await document_store.aclose()

    @pytest.fixture
    async def row(self, cache_dsn: str, key_prefix: str):
        connection = await asyncpg.connect(cache_dsn, timeout=10, command_timeout=30)

        async def change(key: str, assignments: str) -> None:
            statement = f"UPDATE leaderboard_cache SET {assignments} WHERE cache_key = $1"
            assert await connection.execute(statement, key_prefix + key) == "UPDATE 1"

        yield change
        connection.terminate()

    async def keep(
        self, document_store: PostgresDocumentStore, version: Version, *, as_of: float = 1000.0, quiet: float = 0
    ) -> bool:
        documents = [(name, compressed(b'"%b %d"' % (name.encode(), version.number))) for name in document_names(())]
        return await document_store.persist(
            version, SnapshotMetadata(f"digest {version}", as_of, ()), documents, quiet=quiet
        )

    async def holds(self, document_store: PostgresDocumentStore, version: Version) -> bool:
        stored = await document_store.load(None)
        return stored.head.version == version and all(
            plain(value) == b'"%b %d"' % (name.encode(), version.number) for name, value in stored.documents
        )

    async def test_is_forgotten_when_it_is_damaged(self, kept: PostgresDocumentStore, row):
        await row(USERS, "payload = set_byte(payload, 10, get_byte(payload, 10) # 1)")
        with pytest.raises(Damaged, match=USERS):
            await kept.load(None)
        assert (await kept.load(None)).documents is None
        assert await self.keep(kept, Version("e", 5))
        assert await self.holds(kept, Version("e", 5))

    @pytest.mark.parametrize(
        ("key", "assignments"),
        [
            (USERS, "payload = NULL"),
            (USERS, "payload = substr(payload, 1, 8)"),
            ("scoreboard:version", "generated_at = 'infinity'"),
            ("scoreboard:version", "generated_at = NULL"),
            ("scoreboard:version", "version = 9223372036854775807"),
            ("scoreboard:version", "version = NULL"),
            ("scoreboard:version", "epoch = E'x\\r\\n', generated_at = 'infinity'"),
            ("scoreboard:version", "payload = 'garbage'"),
            ("scoreboard:version", "building_until = 'infinity'"),
            ("scoreboard:version", "building_until = now() + interval '1 day'"),
        ],
    )
    async def test_is_replaced_whatever_its_rows_say(
        self, kept: PostgresDocumentStore, row, key: str, assignments: str
    ):
        await row(key, assignments)
        assert await self.keep(kept, Version("e", 6), quiet=15)
        assert await self.holds(kept, Version("e", 6))

    async def test_is_replaced_if_its_time_is_in_the_far_future(self, kept: PostgresDocumentStore, row):
        await row("scoreboard:version", "generated_at = now() + interval '2 days'")
        assert await self.keep(kept, Version("new", 1), as_of=1001.0)
        assert await self.holds(kept, Version("new", 1))


@pytest.mark.parametrize("cut", range(1, 200))
def test_zstd_that_ends_early_is_no_text(cut: int):
    value = compressed(b"one " * 10) + compressed(bytes(range(200)))
    assert len(value) > 200
    with pytest.raises(zstandard.ZstdError):
        plain(value[:-cut])
    with pytest.raises(zstandard.ZstdError):
        plain([value[:-cut]])


def test_whole_zstd_is_its_text():
    one, other = compressed(b"one"), compressed(bytes(range(200)))
    assert plain(one + other) == b"one" + bytes(range(200))
    assert plain([one, memoryview(other)]) == b"one" + bytes(range(200))
    assert plain(b"") == b""
    assert plain([]) == b""


@pytest.mark.parametrize("until", ["infinity", "-infinity"])
async def test_a_lease_that_is_infinite_is_given_an_end(cache_dsn: str, key_prefix: str, until: str):
    store = PostgresClusterBackend(cache_dsn, prefix=key_prefix, lock_ttl=TTL)
    connection = await asyncpg.connect(cache_dsn, timeout=10, command_timeout=30)
    try:
        assert isinstance(await store.acquire("one", None), Lease)
        await connection.execute(
            f"UPDATE leaderboard_cache SET building_until = '{until}' WHERE cache_key = $1", Names(key_prefix).lock
        )
        answer = await store.acquire("two", None)
        assert isinstance(answer, Lease) if until == "-infinity" else answer.overlong
    finally:
        connection.terminate()
        await store.aclose()


async def test_bytes_that_are_no_text_count_as_lost(postgres_dsn: str):
    """In a database without an encoding."""
    name = f"test_{secrets.token_hex(8)}"
    admin = await asyncpg.connect(postgres_dsn, timeout=10, command_timeout=30)
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        dsn = postgres_dsn.rpartition("/")[0] + f"/{name}"
        async with opened("postgres", dsn) as harness:
            await harness.client.execute((files("scoreboardd.backends.postgres") / "leaderboard_cache.sql").read_text())
            cluster = Cluster(harness, harness.cluster_backend(), [harness.document_store() for _ in range(2)])
            await cluster.commit()
            spoil = r"UPDATE leaderboard_cache SET epoch = E'\xff\xfe' WHERE cache_key = ANY ($1)"
            await harness.client.execute(spoil, [harness.names.lock, harness.names.version])
            assert (await cluster.vaults[0].head()).given is None
            version = await cluster.commit()
            assert version.number == 1
            assert await cluster.loads(version)
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()
