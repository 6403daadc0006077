"""What is left when clients take all the descriptors they can get."""

import asyncio
import os
import resource
import sys

import aiohttp
import pytest

from scoreboardd.system import descriptors
from tests.integration.conftest import Platform, score
from tests.nodes import listening, metric, nodes, until

FEW = 256


@pytest.mark.parametrize("limit", [20, 64, 100, 256, 1024, 4096, 65_536, resource.RLIM_INFINITY])
def test_everybody_gets_a_share(limit: int) -> None:
    total, connections, streams = descriptors.shares(18_000, limit=limit)
    assert 1 <= streams < connections <= total
    if limit >= FEW:
        assert total - connections >= descriptors.RESERVED_DESCRIPTORS
        assert connections - streams >= 16
    if limit > 20_000 or limit < 0:
        assert streams == 18_000


@pytest.mark.parametrize("silent", [False, True])
async def test_documents_readiness_and_rebuilds_go_on(platform: Platform, session, settings, silent: bool):
    """Strangers open all the streams they can get, or connections on which they say nothing."""
    async with (
        nodes(1, descriptors=FEW, sse__max_clients=18_000, **settings) as (node,),
        listening(session, node.url) as (listener,),
    ):
        await until(lambda: listener.version, "it serves")
        room = node.said("listening")[0]["max_clients"]
        assert 100 < room < FEW - descriptors.RESERVED_DESCRIPTORS
        assert await metric(session, node, "scoreboardd_sse_clients_limit") == room
        assert any("sse.max_clients" in line["event"] and line["level"] == "warning" for line in node.log)

        host, port = node.url.removeprefix("http://").split(":")
        strangers = []
        for _ in range(400):
            reader, writer = await asyncio.open_connection(host, int(port))
            strangers.append(writer)
            if not silent:
                writer.write(b"GET /api/scoreboard/stream HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.read(64)
        async with aiohttp.ClientSession() as fresh:
            for url in (f"{node.url}/api/leaderboard", f"{node.url}/api/timeline/teams", f"{node.admin_url}/readyz"):
                async with fresh.get(url) as response:
                    assert response.status == 200
            before = await score(fresh, node.url, 3)
            await platform.solve(3, 1)
            await until(lambda: _scores_more(fresh, node.url, before), "the solve is on the board")
        if silent:
            assert await metric(session, node, "scoreboardd_descriptors_exhausted_total") > 0
            assert len([line for line in node.log if "no room for more connections" in line["event"]]) == 1
        else:
            assert await metric(session, node, 'scoreboardd_sse_dropped_total{cause="limit"}') > 0
        assert await metric(session, node, "process_open_fds") < FEW - 10
        for writer in strangers:
            writer.close()


async def _scores_more(session: aiohttp.ClientSession, url: str, before: int) -> bool:
    return await score(session, url, 3) > before


async def test_check_says_how_many_streams_there_is_room_for(platform: Platform, settings):
    environ = {"SCOREBOARDD_SERVER__PORT": "0", "SCOREBOARDD_ADMIN__PORT": "0"}
    environ |= {f"SCOREBOARDD_{key.upper()}": str(value) for key, value in settings.items()}
    check = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scoreboardd", "check"),
        env=os.environ | {"SCOREBOARDD_CONFIG": os.devnull} | environ,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW)),
    )
    _, stderr = await check.communicate()
    assert check.returncode == 1
    assert f"sse.max_clients: {FEW} file descriptors leave room for " in stderr.decode()


async def test_the_soft_limit_is_raised_at_the_start(platform: Platform, session, settings):
    code = (
        "import os, resource, sys; hard = resource.getrlimit(7)[1]; resource.setrlimit(7, (128, hard)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'scoreboardd', 'serve'])"
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with nodes(1, command=("-c", code), **settings) as (node,):
        assert node.said("listening")[0]["descriptors"] == hard
        assert await metric(session, node, "process_max_fds") == hard
