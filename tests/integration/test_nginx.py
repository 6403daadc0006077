"""The daemon behind the nginx site that we ship, in a real nginx."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from scoreboardd.demo.servers import free_port
from tests.external_tools import require
from tests.integration.conftest import Platform
from tests.nodes import listening, nodes, until

SYSTEMD = Path(__file__).parents[2] / "systemd"
SITE = SYSTEMD / "scoreboardd.nginx.conf"
INCLUDED = ("scoreboardd-locations.nginx.conf", "scoreboardd-proxy.nginx.conf")
PLATFORM = """
server {{
    listen 127.0.0.1:{port};
    gzip on; gzip_types application/json text/event-stream;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header Authorization "the platform's";
    proxy_intercept_errors on;
    proxy_ignore_headers X-Accel-Buffering;
    error_page 404 503 /oops;
    include snippets/scoreboardd-locations.nginx.conf;
    location ^~ /api/ {{ proxy_pass http://{platform}; }}
    location ~ ^/api/leader {{ proxy_pass http://{platform}; }}
    location / {{ proxy_pass http://{platform}; }}
}}
"""
"""A platform's own site, with settings that are not for scoreboardd."""
MAIN = """
daemon off;
pid {folder}/nginx.pid;
worker_processes 1;
worker_shutdown_timeout 1s;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


@asynccontextmanager
async def nginx(folder: Path, upstream: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """nginx with the site, in front of `upstream` (host:port): its URL, and the process."""
    port = free_port()
    site = SITE.read_text()
    assert "server 127.0.0.1:8080;" in site
    assert "listen 80;" in site
    site = site.replace("server 127.0.0.1:8080;", f"server {upstream};").replace(
        "listen 80;", f"listen 127.0.0.1:{port};"
    )
    async with running(folder, site) as process:
        yield f"http://127.0.0.1:{port}", process


@asynccontextmanager
async def platforms_nginx(folder: Path, upstream: str, platform: str) -> AsyncIterator[str]:
    """The URL of an nginx with the site of `platform` (host:port), which includes our locations."""
    port = free_port()
    (folder / "snippets").mkdir()
    for name in INCLUDED:
        text = (SYSTEMD / name).read_text()
        (folder / "snippets" / name).write_text(text.replace("127.0.0.1:8080", upstream))
    async with running(folder, PLATFORM.format(port=port, platform=platform)):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def running(folder: Path, site: str) -> AsyncIterator[asyncio.subprocess.Process]:
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    process = await asyncio.create_subprocess_exec(
        *(str(require("nginx")), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf"))
    )
    try:
        await until((folder / "nginx.pid").exists, "nginx listens")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def test_the_stream_and_the_reads_through_nginx(platform: Platform, session, settings, tmp_path):
    async with (
        nodes(1, **settings) as (node,),
        nginx(tmp_path, node.url.removeprefix("http://")) as (url, process),
        listening(session, url) as (listener,),
    ):
        await until(lambda: listener.version, "the stream speaks through nginx")
        loop = asyncio.get_running_loop()
        start, before = loop.time(), listener.version
        await platform.solve(1, 1)
        await until(lambda: listener.version > before, "an event")
        assert loop.time() - start < 5, "nginx would hold a buffered event for long"

        async with session.get(f"{url}/api/leaderboard", headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            tag = response.headers["ETag"]
        async with session.get(f"{url}/api/leaderboard", headers={"If-None-Match": tag}) as response:
            assert response.status == 304
        async with session.post(f"{url}/api/leaderboard/rebuild") as response:
            assert response.status == 404
        async with session.get(f"{url}/metrics") as response:
            assert response.status == 404, "metrics are not for the public"

        assert listener.connections == 1
        process.send_signal(signal.SIGHUP)
        await until(lambda: listener.connections == 2, "the browser is back after a reload")
        before = listener.version
        await platform.solve(2, 2)
        await until(lambda: listener.version > before, "an event by way of the new worker")


async def test_the_limit_per_address_sees_through_nginx(platform: Platform, session, settings, tmp_path):
    async with (
        nodes(1, sse__max_clients_per_ip=1, **settings) as (node,),
        nginx(tmp_path, node.url.removeprefix("http://")) as (url, _),
        listening(session, url) as (listener,),
    ):
        await until(lambda: listener.version, "one stream is allowed")
        async with session.get(f"{url}/api/scoreboard/stream") as second:
            assert second.status == 503
            assert "Retry-After" in second.headers
        # Whoever reaches the daemon itself is another address: the proxy is trusted, its clients are not.
        elsewhere = {"X-Forwarded-For": "203.0.113.7"}
        timeout = aiohttp.ClientTimeout(total=5)
        async with session.get(f"{node.url}/api/scoreboard/stream", headers=elsewhere, timeout=timeout) as third:
            assert third.status == 200


OURS = [
    "/api/leaderboard",
    "/api/leaderboard/teams",
    "/api/timeline",
    "/api/timeline/teams",
    "/api/timeline?window=60",
    "/api/scoreboard",
    "/scoreboard",
    "/scoreboard/",
    "/scoreboard/scoreboard.js",
    "/scoreboard/api/scoreboard",
    "/scoreboard/api/leaderboard/teams",
]
PLATFORMS = [
    "/",
    "/api/",
    "/api/leaderboard/",
    "/api/leaderboards",
    "/api/leaderboard/teams/1",
    "/api/leaderboard/me",
    "/api/timeline/",
    "/api/timelines",
    "/api/scoreboard/",
    "/api/scoreboards",
    "/api/scoreboard/stream/",
    "/api/scoreboard/streams",
    "/api/users?path=/api/leaderboard",
    "/scoreboard.js",
    "/page/x",
]


async def test_on_the_site_of_a_platform_it_has_its_own_paths_and_no_others(
    platform: Platform, session, settings, tmp_path
):
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"platform": request.path_qs})

    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", answer)
    async with TestServer(app) as other, nodes(1, **settings) as (node,):
        upstream = node.url.removeprefix("http://")
        async with (
            platforms_nginx(tmp_path, upstream, f"{other.host}:{other.port}") as url,
            listening(session, url, f"{url}/scoreboard") as listeners,
        ):
            await until(lambda: all(listener.version for listener in listeners), "the streams speak")
            for path in PLATFORMS:
                async with session.get(url + path) as response:
                    assert await response.json() == {"platform": path}
            for path in OURS:
                async with session.get(node.url + path.removeprefix("/scoreboard")) as response:
                    expected = response.status, await response.read()
                async with session.get(url + path) as response:
                    assert (response.status, await response.read()) == expected, path
                    assert response.status == 200
            async with session.post(f"{url}/api/leaderboard/rebuild") as response:
                assert response.status == 404
                assert "error" in await response.json(), "the daemon's own words"
            before = max(listener.version for listener in listeners)
            await platform.solve(1, 1)
            await until(lambda: all(listener.version > before for listener in listeners), "an event", deadline=10)


async def test_on_the_site_of_a_platform_the_daemon_sees_its_clients(platform: Platform, session, settings, tmp_path):
    async with (
        nodes(1, sse__max_clients_per_ip=1, **settings) as (node,),
        platforms_nginx(tmp_path, node.url.removeprefix("http://"), "127.0.0.1:1") as url,
        listening(session, url) as (listener,),
    ):
        await until(lambda: listener.version, "one stream is allowed")
        claims = {"X-Forwarded-For": "203.0.113.7"}
        async with session.get(f"{url}/api/scoreboard/stream", headers=claims) as second:
            assert second.status == 503, "what a client claims about itself is not passed on"
