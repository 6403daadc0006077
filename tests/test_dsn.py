"""The URL of the platform's database: what is wrong with it is told at the start, and its secret never."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from scoreboardd.backends.base import Unavailable
from scoreboardd.backends.postgres.cluster import PostgresClusterBackend
from scoreboardd.cli import main
from scoreboardd.config import ConfigError, Settings, load
from scoreboardd.demo.servers import free_port
from scoreboardd.migrate import migrate
from scoreboardd.platforms import check
from scoreboardd.platforms.postgres import PostgresSource
from scoreboardd.platforms.source import SourceError
from scoreboardd.postgres import dsn
from tests.external_tools import require

EXAMPLE = Path(__file__).parents[1] / "config.example.toml"


def problem(url: str) -> str | None:
    """What the configuration says of it, without the place."""
    try:
        load(EXAMPLE, {"SCOREBOARDD_POSTGRES__DSN": url})
    except ConfigError as error:
        (line,) = error.problems
        assert line.isprintable()
        assert line.startswith("SCOREBOARDD_POSTGRES__DSN: ")
        return line.removeprefix("SCOREBOARDD_POSTGRES__DSN: ")
    return None


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSSLMODE", "PGSSLROOTCERT", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://127.0.0.1/ctf", "127.0.0.1:5432/ctf"),
        ("postgres://board:s3cret@db.example:6543/ctf", "db.example:6543/ctf"),
        ("postgresql://u:p%40ss%2Fw%23%25@db/ctf", "db:5432/ctf"),
        ("postgresql://u@[2001:db8::1]:5433/ctf", "[2001:db8::1]:5433/ctf"),
        ("postgresql://a:1,b:2/ctf", "a:1,b:2/ctf"),
        ("postgresql://a,b/ctf?port=7", "a:5432,b:5432/ctf"),
        ("postgresql:///ctf?host=a,b&port=1,2", "a:1,b:2/ctf"),
        ("postgresql://u@/ctf?host=/run/postgresql&port=5433", "/run/postgresql/.s.PGSQL.5433/ctf"),
        ("postgresql://%2Frun%2Fpostgresql/ctf", "/run/postgresql/.s.PGSQL.5432/ctf"),
        ("postgresql://db/ctf?sslmode=require", "db:5432/ctf"),
        ("postgresql://db/ctf?application_name=x&search_path=app", "db:5432/ctf"),
        ("postgresql://db/ctf?options=-csearch_path%3Dapp%20-cjit%3Doff", "db:5432/ctf"),
        ("postgresql://db/ctf?target_session_attrs=read-write", "db:5432/ctf"),
        ("postgresql://db/%ED%95%9C%EA%B5%AD", "db:5432/한국"),
        ("postgresql://db/a%0Ab", "db:5432/a?b"),
    ],
)
@pytest.mark.usefixtures("no_environment")
def test_what_is_one(url: str, place: str):
    assert problem(url) is None
    assert dsn.place(url) == place


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "not a PostgreSQL URL"),
        ("db:5432", "not a PostgreSQL URL"),
        ("host=db dbname=ctf", "not a PostgreSQL URL"),
        ("mysql://u:hunter2@db/ctf", "not a PostgreSQL URL"),
        ("postgresql+asyncpg://u:hunter2@db/ctf", "not a PostgreSQL URL"),
        ("jdbc:postgresql://db/ctf", "not a PostgreSQL URL"),
        ("postgresql://u:hunter2 @db/ctf", "not a PostgreSQL URL"),
        ("postgresql://[::1/ctf", "not a PostgreSQL URL"),
        ("postgresql://db/ctf?sslmode", "option=value"),
        *((f"postgresql://db:{port}/ctf", "port") for port in ("0", "65536", "99999", "-1", "5432x", "5432:1", "٥")),
        *((f"postgresql:///ctf?host=db&port={port}", "port") for port in ("0", "70000", "x", "1,", "1,x")),
        ("postgresql://a:1,b:x/ctf", "port"),
        ("postgresql:///ctf?host=a,b&port=1,2,3", "number of ports differs"),
        ("postgresql://u:hun%zzter2@db/ctf", "%25"),
        ("postgresql://u:hunter2%@db/ctf", "%25"),
        ("postgresql://u:hunter2%4@db/ctf", "%25"),
        ("postgresql://u:%ff@db/ctf", "UTF-8"),
        ("postgresql://u:%00@db/ctf", "%00"),
        ("postgresql://u:hunter2/x@db/ctf", "%-encode"),
        ("postgresql://u:12/34@db/ctf", "%-encode"),
        ("postgresql://u:hunter2#x@db/ctf", "%-encode"),
        ("postgresql://u:12#34@db/ctf", "%-encode"),
        ("postgresql://u:12?34=5@db/ctf", "%-encode"),
        ("postgresql://u:hunter2@x@db/ctf", "%-encode"),
        ("postgresql://db/ctf/", "%-encode"),
        ("postgresql://,db/ctf", "cannot read"),
        (f"postgresql://{'x' * 64}.example/ctf", "host"),
        ("postgresql://a..b/ctf", "host"),
        *(
            (f"postgresql://db/ctf?sslmode={mode}", "sslmode is not one of")
            for mode in ("yes", "verify_full", "VERIFY-FULL")
        ),
        ("postgresql://db/ctf?sslmode=", "sslmode is not one of"),
        ("postgresql://db/ctf?sslmode=verify-full&sslrootcert=system", "sslrootcert=system"),
        ("postgresql://db/ctf?sslmode=verify-full&sslrootcert=/no/such/file", "No such file"),
        ("postgresql://db/ctf?sslmode=require&sslcert=/no/such/file", "No such file"),
        ("postgresql://db/ctf?sslmode=verify-ca&sslrootcert=/etc/passwd", "PEM"),
        ("postgresql://db/ctf?sslmode=require&ssl_min_protocol_version=TLSv9", "TLS version"),
        ("postgresql://db/ctf?sslmode=require&sslnegotiation=indirect", "sslnegotiation"),
        ("postgresql://db/ctf?target_session_attrs=writable", "target_session_attrs"),
        *(
            (f"postgresql://db/ctf?{name}=1", f"{name} is not an option of this driver")
            for name in ("channel_binding", "connect_timeout", "keepalives", "gssencmode", "require_auth", "pgbouncer")
        ),
        ("postgresql://db/ctf?sslmod=require", "did you mean sslmode?"),
    ],
)
@pytest.mark.usefixtures("no_environment")
def test_what_is_none(url: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = problem(url)
    assert found is not None
    assert words in found
    for secret in ("hunter2", "hun", "ter2", "12", "34"):
        assert secret not in found.replace("5432", "")
    assert dsn.place(url) == ""


@pytest.mark.usefixtures("no_environment")
def test_verification_needs_a_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "needs sslrootcert=FILE" in str(problem("postgresql://db/ctf?sslmode=verify-full"))


@pytest.mark.parametrize("command", ["serve", "migrate", "publish", "rebuild", "check"])
def test_a_malformed_url_ends_every_command_with_one_line(command: str, tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text('[postgres]\ndsn = "postgresql://u:hunter2@db:99999/ctf"\n')
    result = CliRunner().invoke(main, [command, "--config", str(config)])
    assert result.exit_code == (1 if command == "check" else 2)
    (line,) = result.output.splitlines()
    assert "postgres.dsn" in line
    assert "port" in line
    assert "hunter2" not in line


def test_what_the_parser_would_refuse_is_refused_whoever_connects():
    async def read() -> None:
        async with PostgresSource("postgresql://u:hunter2@db:x/ctf", "smctf", statement_timeout=1) as source:
            await source.read()

    with pytest.raises(
        SourceError, match=r"^postgres: postgres\.dsn cannot be read: a port is not a number((?!hunter2).)*$"
    ):
        asyncio.run(read())


# --- messages -----------------------------------------------------------------------------------------------


async def everywhere(url: str) -> list[str]:
    """What all who use the database say when that fails."""
    said = [problem async for problem in check.problems(url, "smctf", statement_timeout=5)]
    async with PostgresSource(url, "smctf", statement_timeout=5) as source:
        with pytest.raises(SourceError) as by_source:
            await source.read()
    store = PostgresClusterBackend(url, prefix="", lock_ttl=5)
    with pytest.raises(Unavailable) as by_store:
        await store.acquire("token", None)
    with pytest.raises(Unavailable) as by_bus:
        async with store.subscribe():
            pass
    await store.aclose()
    settings = Settings.model_validate({"postgres": {"dsn": url}})
    said += await migrate(settings, triggers=False, undo=False, dry_run=True, report=lambda line: None)
    return [*said, str(by_source.value), str(by_store.value), str(by_bus.value)]


async def test_every_failure_names_host_port_and_database():
    port = free_port()
    found = await everywhere(f"postgresql://ada:s3cret@127.0.0.1:{port}/ctf")
    assert len(found) == 5
    for line in found:
        assert line.startswith("postgres: ")
        assert f" (127.0.0.1:{port}/ctf); " in line
        assert "s3cret" not in line


async def test_failures_of_statements_name_them_too(database: str):
    place = database.rpartition("@")[2]
    found = await everywhere(database.replace(database.rpartition("/")[2], "no_such_database"))
    assert len(found) == 5
    assert all("/no_such_database); " in line for line in found)
    async with PostgresSource(database, "smctf", statement_timeout=5) as source:
        with pytest.raises(SourceError, match=rf'^postgres: relation "\w+" does not exist \({place}\); '):
            await source.read()


# --- TLS ----------------------------------------------------------------------------------------------------


def self_signed(file: Path, host: str) -> Path:
    """A certificate for `host`, and its key."""
    subject = ("-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", file)
    subprocess.run([require("openssl"), "req", "-x509", *key, *subject, "-out", file], check=True, capture_output=True)
    return file


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "server.pem", "db.example")


@pytest.fixture(scope="module")
def another_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "other.pem", "other.example")


@pytest.fixture
async def tls_server(certificate: Path) -> AsyncIterator[int]:
    """The port of a server that begins as PostgreSQL does with TLS, and goes no further."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"S")
        try:
            await writer.start_tls(context)
            await reader.read()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_certificate_of_an_unknown_authority(tls_server: int, mode: str, another_certificate: Path):
    url = f"postgresql://127.0.0.1:{tls_server}/ctf?sslmode={mode}&sslrootcert={another_certificate}"
    for line in await everywhere(url):
        assert line.startswith("postgres: the server's certificate cannot be verified: self-signed certificate")
        assert f" (127.0.0.1:{tls_server}/ctf); " in line
        assert "sslrootcert" in line


async def test_a_certificate_of_another_host(tls_server: int, certificate: Path):
    url = f"postgresql://127.0.0.1:{tls_server}/ctf?sslmode=verify-full&sslrootcert={certificate}"
    for line in await everywhere(url):
        assert "the server's certificate cannot be verified: " in line
        assert "127.0.0.1" in line


async def test_a_server_without_tls(database: str):
    for line in await everywhere(f"{database}?sslmode=require"):
        assert "sslmode" in line
        assert "ssl = on" in line
