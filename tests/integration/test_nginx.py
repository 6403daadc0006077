"""The daemon behind the nginx site that we ship, in a real nginx."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from scoreboardd.demo.servers import free_port
from tests.integration.conftest import Platform
from tests.nodes import listening, nodes, until
from tests.parts import require

SITE = Path(__file__).parents[2] / "systemd" / "scoreboardd.nginx.conf"
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
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    process = await asyncio.create_subprocess_exec(
        *(str(require("nginx")), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf"))
    )
    try:
        yield f"http://127.0.0.1:{port}", process
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
