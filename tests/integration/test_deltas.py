"""Deltas over a cluster: whoever builds, and whichever node a client comes to, it is sent just what it missed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from scoreboardd.board import delta
from scoreboardd.board.delta import VersionedDelta
from scoreboardd.board.leaderboards import Leaderboards
from scoreboardd.model import Version
from scoreboardd.render import text as document_text
from tests.integration.conftest import Platform
from tests.integration.test_postgres_cluster import TABLE, NotifyingPlatform
from tests.nodes import DEADLINE, Node, Notice, nodes, notices, until

PATHS = ("/api/leaderboard", "/api/leaderboard/teams")


async def boards(session: aiohttp.ClientSession, node: Node) -> tuple[Version, list[bytes]]:
    """Both leaderboards, of one version."""

    async def both() -> tuple[Version, list[bytes]] | None:
        versions, bodies = set(), []
        for path in PATHS:
            async with session.get(f"{node.url}{path}") as response:
                if response.status == 503:
                    return None  # it has none yet
                assert response.status == 200
                versions.add(Version.parse(response.headers["X-Scoreboard-Version"]))
                bodies.append(await response.read())
        return (versions.pop(), bodies) if len(versions) == 1 else None

    found: tuple[Version, list[bytes]] = await until(both, "both leaderboards, of one version")
    return found


class Follower:
    """Holds a view, and fetches nothing."""

    def __init__(self, session: aiohttp.ClientSession, version: Version, bodies: list[bytes]) -> None:
        self._session = session
        self.version = version
        self.view: Leaderboards = document_text.parse_leaderboards(*bodies)

    @asynccontextmanager
    async def following(self, node: Node) -> AsyncIterator["AsyncIterator[Notice]"]:
        """Resumes where it is; `ready` has come."""
        headers = {"Last-Event-ID": str(self.version)}
        timeout = aiohttp.ClientTimeout(total=None)
        url = f"{node.url}/api/scoreboard/stream?deltas=1"
        async with self._session.get(url, headers=headers, timeout=timeout) as response:
            said = notices(response.content)
            assert (await anext(said)).event == "ready"
            yield said

    async def reach(self, wanted: Version, said: AsyncIterator[Notice]) -> None:
        """Take what comes until then: deltas that lead on from what is held, and nothing else."""
        async with asyncio.timeout(DEADLINE):
            while self.version != wanted:
                notice = await anext(said)
                assert notice.event == "delta", notice
                step = VersionedDelta.parse(orjson.dumps(notice.data))
                assert step.since == self.version.number
                self.view = delta.apply(step.delta, self.view)
                self.version = Version(self.version.epoch, step.number)
                assert notice.id == str(self.version)

    def holds(self, bodies: list[bytes]) -> bool:
        return list(document_text.leaderboards(self.view)) == bodies


async def shown(session: aiohttp.ClientSession, platform: Platform, cluster: list[Node]) -> tuple[Version, list[bytes]]:
    """What every node shows, once they show the same and all that there is."""
    wanted = await platform.connection.fetchval("SELECT count(DISTINCT (user_id, challenge_id)) FROM submissions")

    async def agreed() -> Any:
        found = [await boards(session, node) for node in cluster]
        solves = {
            sum(len(entry.solves) for entry in document_text.parse_leaderboards(*bodies).users.values())
            for _, bodies in found
        }
        return found[0] if solves == {wanted} and len({version for version, _ in found}) == 1 else None

    found: tuple[Version, list[bytes]] = await until(agreed, f"every node shows {wanted} solves")
    return found


@pytest.fixture(params=["redis", "postgres"])
async def contest(request: Any, platform: Platform, key_prefix: str) -> Platform:
    """Announces what happens where the cluster listens."""
    if request.param == "redis":
        return platform
    await platform.connection.execute(TABLE)
    return NotifyingPlatform(platform.connection, key_prefix)


@pytest.fixture
async def cluster(request: Any, contest: Platform, settings: dict[str, Any]) -> AsyncIterator[list[Node]]:
    backend = "postgres" if isinstance(contest, NotifyingPlatform) else "redis"
    async with nodes(2, coordination__backend=backend, rebuild__lock_ttl=2, **settings) as cluster:
        for node in cluster:
            await until(lambda node=node: node.said("loaded") or node.said("rebuilt"), "a first version")
        yield cluster


async def test_every_step_leads_to_what_is_served(session, contest: Platform, cluster: list[Node]):
    follower = Follower(session, *await shown(session, contest, cluster))
    async with follower.following(cluster[0]) as said:
        for change in (
            lambda: contest.solve(1, 1),
            lambda: contest.solve(2, 1),
            lambda: contest.connection.execute("UPDATE teams SET name = 'Ünïcode 💩' WHERE id = 2"),
            lambda: contest.connection.execute("UPDATE users SET role = 'blocked' WHERE id = 1"),
            lambda: contest.connection.execute("UPDATE users SET role = 'user' WHERE id = 1"),
            lambda: contest.connection.execute("UPDATE challenges SET points = 1000, title = 'x' WHERE id = 1"),
            lambda: contest.connection.execute("UPDATE users SET team_id = 1 WHERE id = 5"),
            lambda: contest.connection.execute("DELETE FROM teams WHERE id = 5"),
        ):
            await change()
            await contest.publish("batch")
            await until(lambda: news(session, cluster[0], follower), "another version")
            version, bodies = await boards(session, cluster[0])
            await follower.reach(version, said)
            assert follower.holds(bodies)


async def news(session: aiohttp.ClientSession, node: Node, follower: Follower) -> bool:
    return (await boards(session, node))[0] != follower.version


async def test_what_was_missed_comes_from_any_node_whoever_built_it(session, contest: Platform, cluster: list[Node]):
    one, other = cluster
    follower = Follower(session, *await shown(session, contest, cluster))
    for number, victim in enumerate((one, other, one), start=1):
        await contest.solve(number, 1)
        await shown(session, contest, cluster)
        await victim.end(signal.SIGKILL)
        survivor = other if victim is one else one
        await contest.solve(number, 2)
        version, bodies = await shown(session, contest, [survivor])
        async with follower.following(survivor) as said:
            await follower.reach(version, said)
        assert follower.holds(bodies)
        await victim.start()
    version, bodies = await shown(session, contest, cluster)
    for node in cluster:
        async with follower.following(node) as said:
            await follower.reach(version, said)
    assert follower.holds(bodies)


async def test_what_nobody_remembers_is_a_reset(session, contest: Platform, cluster: list[Node]):
    follower = Follower(session, *await shown(session, contest, cluster))
    for strange in (Version("0000dead", follower.version.number), Version(follower.version.epoch, 0)):
        follower.version = strange
        async with follower.following(cluster[0]) as said, asyncio.timeout(DEADLINE):
            reset = await anext(said)
        assert (reset.event, reset.data["version"]) == ("reset", reset.version)
        assert 0 <= reset.data["spread"] < 1
