"""The command line. Every command reads the same configuration; a mistake in it is told in one line each, exit 2."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import structlog
import uvloop

from scoreboardd import __version__, check, config, migrate
from scoreboardd.backends.base import Begun, Changed, ClusterBackend, Confirmed, Rebuilt, Subscribed, Unavailable
from scoreboardd.backends.factory import backend_of, open_cluster_backend
from scoreboardd.cluster import wire
from scoreboardd.cluster.echoes import Echoes
from scoreboardd.config import ConfigError, Settings
from scoreboardd.daemon import Daemon
from scoreboardd.model import UPDATED, ChangeEvent, now_rfc3339
from scoreboardd.stream import hijack
from scoreboardd.system import descriptors
from scoreboardd.telemetry import logs
from scoreboardd.web.listener import CannotListen

T = TypeVar("T")

FAILED = 1
MISCONFIGURED = 2

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file; else $SCOREBOARDD_CONFIG, else /etc/scoreboardd/config.toml.",
)


def _field(context: click.Context, option: click.Parameter, value: str) -> str:
    if not 0 < len(value) <= wire.MAX_FIELD:
        raise click.BadParameter(f"use 1 to {wire.MAX_FIELD} characters", context, option)
    return value


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="scoreboardd")
def main() -> None:
    """A live CTF scoreboard daemon."""


@main.command()
@config_option
def serve(config_file: Path | None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    settings = _settings(config_file)
    logs.configure(settings.log.level, settings.log.format)
    descriptors.raise_limit()

    async def run() -> None:
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        await Daemon(settings).run(stop)

    try:
        _run(run)
    except (CannotListen, hijack.Incompatible) as error:
        _fail(str(error))
    except Exception:  # noqa: BLE001
        # A fault of ours: systemd starts us again, and the log keeps its one line an event.
        structlog.stdlib.get_logger("scoreboardd").critical("the daemon failed, please report", exc_info=True)
        sys.exit(FAILED)


@main.command(name="check")
@config_option
def check_command(config_file: Path | None) -> None:
    """Find every problem with the configuration, Redis or our table, and the platform's tables; exit 1 if any."""
    settings = _settings(config_file, exit_code=FAILED)

    async def found() -> list[str]:
        return [problem async for problem in check.problems(settings)]

    problems = _run(found)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(FAILED)
    click.echo("all is well")


@main.command(name="migrate")
@config_option
@click.option("--triggers", is_flag=True, help="The platform's tables too: have them announce changes by NOTIFY.")
@click.option("--undo", is_flag=True, help="Remove all that this command makes, triggers included.")
@click.option("--dry-run", is_flag=True, help="Only print the SQL, for a role that may run it.")
def migrate_command(config_file: Path | None, *, triggers: bool, undo: bool, dry_run: bool) -> None:
    """Create what the daemon needs in Postgres, as far as it is missing; exit 1 if something cannot be had."""
    settings = _settings(config_file)
    if triggers and undo:
        raise click.UsageError("--undo removes the triggers too; leave --triggers out")
    if triggers and not backend_of(settings).receives_notify:
        click.echo('warning: with coordination.backend = "redis" nodes do not receive what triggers announce', err=True)
    exit_code = FAILED
    try:
        problems = _run(
            lambda: migrate.migrate(settings, triggers=triggers, undo=undo, dry_run=dry_run, report=click.echo)
        )
    except ConfigError as error:
        problems, exit_code = error.problems, MISCONFIGURED
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(exit_code)


@main.command()
@config_option
@click.option("--reason", default=UPDATED, show_default=True, callback=_field, help="Why, as clients are told.")
@click.option("--scope", default="all", show_default=True, callback=_field)
def publish(config_file: Path | None, reason: str, scope: str) -> None:
    """Announce a change by hand, as a platform would."""
    _with_backend(config_file, lambda backend: backend.publish(ChangeEvent(scope, reason, now_rfc3339())))


@main.command()
@config_option
@click.option("--wait", is_flag=True, help="Until the rebuild is committed; prints its version.")
def rebuild(config_file: Path | None, *, wait: bool) -> None:
    """Ask the running cluster for a rebuild."""
    timeout = _settings(config_file).rebuild.timeout
    event = ChangeEvent.updated()
    if not wait:
        _with_backend(config_file, lambda backend: backend.publish(event))
        return

    async def ask(backend: ClusterBackend) -> None:
        try:
            async with asyncio.timeout(timeout):
                click.echo(f"version {await _rebuilt(backend, event)}")
        except TimeoutError:
            _fail(f"not rebuilt within {timeout:g} s; see that a daemon runs, and its log")

    _with_backend(config_file, ask)


async def _rebuilt(backend: ClusterBackend, event: ChangeEvent) -> int:
    """Ask for a rebuild, and return the number of the version that contains what came before: that of a build which
    begins after our own event."""
    echoes = Echoes(backend)
    is_asked, begun = False, None
    async with backend.subscribe() as messages:
        async for message in messages:
            match message:
                case Subscribed():
                    await echoes.send(event)
                case Changed():
                    is_asked |= echoes.received(message)
                case Begun(version) if is_asked and begun is None:
                    begun = version.number
                case Rebuilt(number) if begun is not None and number >= begun:
                    return number
                case Confirmed(version, committed) if begun is not None and version.number >= begun:
                    return committed.number
    raise Unavailable("the subscription ended; try again")


@main.command()
@click.option("--platform", default="smctf", show_default=True, type=click.Choice(["smctf", "ctfd"]))
@click.option("--teams", default=40, show_default=True, type=click.IntRange(1, 20_000))
@click.option("--challenges", default=24, show_default=True, type=click.IntRange(1, 500))
@click.option("--rate", default=1.0, show_default=True, type=click.FloatRange(0.01, 1000), help="Solves a second.")
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1, 20))
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65_000), help="Of the first node.")
@click.option("--seed", default=1337, show_default=True)
def demo(**options: Any) -> None:
    """A simulated contest on real, throw-away servers, and the daemon. Ctrl-C leaves nothing behind."""
    try:
        from scoreboardd.demo import demo as demonstration  # noqa: PLC0415  its servers are an optional extra
    except ImportError as error:
        _fail(f"the demo needs its servers ({error.name} is missing): pip install 'scoreboardd[server,demo]'")
    demonstration.run(**options)


def _with_backend(config_file: Path | None, work: Callable[[ClusterBackend], Coroutine[Any, Any, None]]) -> None:
    settings = _settings(config_file)
    if not backend_of(settings).is_shared:
        _fail(
            f'coordination.backend = "{settings.coordination.backend}": the bus is within the daemon; ask the daemon: '
            "POST /api/leaderboard/rebuild with rebuild.token, as scoreboardd-rebuild.service does"
        )

    async def run() -> None:
        backend = open_cluster_backend(settings)
        try:
            await work(backend)
        finally:
            await backend.aclose()

    try:
        _run(run)
    except Unavailable as error:
        _fail(str(error))


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def _settings(config_file: Path | None, *, exit_code: int = MISCONFIGURED) -> Settings:
    try:
        return config.load(config_file)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        sys.exit(exit_code)


def _fail(text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(FAILED)
