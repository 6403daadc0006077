"""The unit files and the nginx site, as systemd, nginx and the shell themselves judge them."""

import asyncio
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from scoreboardd.config import CREDENTIALS, Settings
from tests.external_tools import require

FOLDER = Path(__file__).parents[1] / "systemd"
DAEMON = FOLDER / "scoreboardd.service"
REBUILD = FOLDER / "scoreboardd-rebuild.service"
TIMER = FOLDER / "scoreboardd-rebuild.timer"
SITE = FOLDER / "scoreboardd.nginx.conf"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def values(unit: Path, key: str) -> list[str]:
    """What a unit sets `key` to, each time it does, with continued lines joined."""
    text = unit.read_text("utf-8").replace("\\\n", " ")
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def test_verify_has_nothing_to_say(tmp_path: Path) -> None:
    for unit in (DAEMON, REBUILD, TIMER):
        # The daemon is not installed in /opt here.
        installed = re.sub(r"^ExecStart=/opt/\S+", "ExecStart=/bin/true", unit.read_text("utf-8"), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(installed, "utf-8")
    done = run(require("systemd-analyze"), "verify", "--man=no", *sorted(tmp_path.iterdir()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", [DAEMON, REBUILD], ids=lambda unit: unit.stem)
def test_exposure(unit: Path) -> None:
    done = run(require("systemd-analyze"), "security", "--offline=true", "--no-pager", unit)
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert level, done.stderr
    assert float(level[1]) <= 1.5


def test_the_daemon_s_unit_goes_with_its_configuration() -> None:
    settings = Settings()
    assert values(DAEMON, "Type") == ["notify"]
    assert float(values(DAEMON, "TimeoutStopSec")[0]) > settings.server.drain
    assert int(values(DAEMON, "LimitNOFILE")[0]) >= 2 * settings.sse.max_clients
    credentials = [line.partition(":")[0] for line in values(DAEMON, "LoadCredential")]
    assert sorted(credentials) == sorted(CREDENTIALS.values())


def test_the_timer_is_every_five_minutes() -> None:
    (calendar,) = values(TIMER, "OnCalendar")
    done = run(require("systemd-analyze"), "calendar", calendar)
    assert "Normalized form: *-*-* *:00/5:00" in done.stdout


# --- the scheduled rebuild ----------------------------------------------------------------------------------


def command_lines_and_environments() -> Iterator[bytes]:
    for process in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                yield (process / file).read_bytes()
            except OSError:  # gone, or somebody else's
                continue


@pytest.mark.parametrize(("status", "exit_code"), [(202, 0), (401, 22)])
async def test_the_rebuild_asks_with_the_token_and_shows_it_to_nobody(
    tmp_path: Path, status: int, exit_code: int
) -> None:
    require("curl")
    token = secrets.token_hex()
    (tmp_path / "rebuild-token").write_text(token + "\n")
    headers: list[str] = []
    shown: list[bytes] = []

    async def rebuild(request: web.Request) -> web.Response:
        headers.append(request.headers["Authorization"])
        shown.extend(text for text in command_lines_and_environments() if token.encode() in text)
        return web.json_response({}, status=status)

    app = web.Application()
    app.router.add_post("/api/leaderboard/rebuild", rebuild)
    async with TestServer(app) as server:
        (start,) = values(REBUILD, "ExecStart")
        start = start.replace("127.0.0.1:8080", f"{server.host}:{server.port}")
        # systemd puts variables in, also between quotes, before the shell sees them.
        command = [word.replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)) for word in shlex.split(start)]
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == exit_code
    assert (headers, shown) == ([f"Bearer {token}"], [])


# --- nginx --------------------------------------------------------------------------------------------------


def test_nginx_takes_the_site(tmp_path: Path) -> None:
    site = SITE.read_text("utf-8")
    assert site.count("    server 127.0.0.1:8080;") == site.count("    listen 80;") == 1
    (tmp_path / "site.conf").write_text(site.replace("listen 80;", f"listen unix:{tmp_path}/http.sock;"))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "\n".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    main = tmp_path / "nginx.conf"
    main.write_text(f"pid {tmp_path}/pid; events {{}} http {{ access_log off; {folders} include site.conf; }}")
    done = run(require("nginx"), "-t", "-q", "-e", "stderr", "-c", main)
    assert (done.returncode, done.stderr) == (0, "")
