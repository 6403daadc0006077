"""The configuration: where a value comes from, what it may be, and what its problems sound like."""

import subprocess
import tomllib
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from scoreboardd.config import CREDENTIALS, DEFAULT_PATH, KEYS, ConfigError, Settings, load

EXAMPLE = Path(__file__).parents[1] / "config.example.toml"

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the configuration file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def problems(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(path, environ or {})
    assert str(raised.value) == "\n".join(raised.value.problems)
    assert all(line.isprintable() for line in raised.value.problems)
    return raised.value.problems


# --- the contract's defaults, and the example ---------------------------------------------------------------


def test_the_defaults_are_the_contract_s() -> None:
    settings = Settings()
    plain = settings.model_dump(mode="json")
    plain["redis"]["url"] = settings.redis.url.get_secret_value()
    plain["postgres"]["dsn"] = settings.postgres.dsn.get_secret_value()
    assert plain == {
        "server": {
            "host": "127.0.0.1",
            "port": 8080,
            "name": "Scoreboard",
            "page": True,
            "feeds": [],
            "cors_origins": [],
            "trusted_proxies": ["127.0.0.1/32", "::1/128"],
            "drain": 5,
        },
        "admin": {"host": "127.0.0.1", "port": 8081},
        "redis": {
            "url": "redis://127.0.0.1:6379/0",
            "url_file": "",
            "key_prefix": "",
            "encoding": "identity",
        },
        "postgres": {"dsn": "postgresql://127.0.0.1/ctf", "dsn_file": "", "statement_timeout": 30},
        "source": {
            "kind": "smctf",
            "dsn": "",
            "dsn_file": "",
            "poll": 2.0,
            "freeze": "sealed",
            "ties": "platform",
            "timezone": "UTC",
        },
        "rebuild": {
            "debounce": 0.3,
            "max_wait": 2.0,
            "lock_ttl": 10,
            "timeout": 60,
            "reconcile": 60,
            "token": "",
            "token_file": "",
        },
        "cache": {"directory": "/var/lib/scoreboardd", "persist": False, "persist_interval": 15, "stale_after": 120},
        "coordination": {"backend": "redis"},
        "sse": {
            "max_clients": 18000,
            "max_clients_per_ip": 0,
            "queue": 16,
            "heartbeat": 15,
            "stall_timeout": 30,
            "retry_min": 1,
            "retry_max": 5,
        },
        "log": {"level": "info", "format": "json"},
    }


def test_the_example_is_every_key_at_its_default() -> None:
    assert load(EXAMPLE, {}) == Settings()
    example = tomllib.loads(EXAMPLE.read_text("utf-8"))
    assert {(section, key) for section, table in example.items() for key in table} == set(KEYS)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]


# --- where a value comes from -------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(write: Write) -> None:
    path = write("[server]\nport = 1\n[admin]\nport = 2")
    settings = load(path, {"SCOREBOARDD_SERVER__PORT": "3"})
    assert (settings.server.port, settings.admin.port, settings.sse.queue) == (3, 2, 16)


def test_the_path_is_the_argument_else_the_variable(write: Write, tmp_path: Path) -> None:
    path = write("[server]\nport = 1")
    assert load(None, {"SCOREBOARDD_CONFIG": str(path)}).server.port == 1
    assert load(path, {"SCOREBOARDD_CONFIG": str(tmp_path / "other.toml")}).server.port == 1


def test_only_the_default_file_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "none.toml"
    assert problems(missing) == [f"{missing}: no such file; create it, or name another"]
    assert problems(None, {"SCOREBOARDD_CONFIG": str(missing)}) == problems(missing)
    assert Path("/etc/scoreboardd/config.toml") == DEFAULT_PATH
    monkeypatch.setattr("scoreboardd.config.loading.DEFAULT_PATH", missing)
    assert load(None, {}) == load(None, {"SCOREBOARDD_CONFIG": ""}) == Settings()


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://a.example, http://b.example:8000,", ("https://a.example", "http://b.example:8000")),
        ('["https://a.example", "http://[::1]:8000"]', ("https://a.example", "http://[::1]:8000")),
    ],
)
def test_lists_in_the_environment(text: str, origins: tuple[str, ...]) -> None:
    assert load(EXAMPLE, {"SCOREBOARDD_SERVER__CORS_ORIGINS": text}).server.cors_origins == origins


@pytest.mark.parametrize(
    ("text", "directory"),
    [
        ("", "/var/lib/private/board"),
        ('[cache]\ndirectory = "/var/lib/scoreboardd"', "/var/lib/private/board"),  # as in a copy of the example
        ('[cache]\ndirectory = "/srv/board"', "/srv/board"),
    ],
)
def test_the_folder_of_the_unit_is_the_default(write: Write, text: str, directory: str) -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/private/board:/var/lib/other"}
    assert load(write(text), environ).cache.directory == directory


def test_text_in_the_environment_is_converted() -> None:
    environ = {
        "SCOREBOARDD_REBUILD__DEBOUNCE": "0.5",
        "SCOREBOARDD_SSE__QUEUE": "32",
        "SCOREBOARDD_CACHE__PERSIST": "false",
        "SCOREBOARDD_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, fd00::1",
        "SCOREBOARDD_LOG__LEVEL": "debug",
    }
    settings = load(EXAMPLE, environ)
    assert (settings.rebuild.debounce, settings.sse.queue, settings.cache.persist) == (0.5, 32, False)
    assert settings.server.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("fd00::1"))
    assert settings.log.level == "debug"


def test_variables_of_a_container_platform_are_let_be() -> None:
    environ = {"SCOREBOARDD_SERVICE_HOST": "10.0.0.1", "SCOREBOARDD_PORT": "tcp://10.0.0.1:8080", "HOME": "/"}
    assert load(EXAMPLE, environ) == Settings()


# --- secrets ------------------------------------------------------------------------------------------------

SECRETS = {
    ("redis", "url"): "redis://:hunter2@cache:6379/1",
    ("postgres", "dsn"): "postgresql://ctf:hunter2@db/ctf",
    ("rebuild", "token"): "hunter2",
}


def secret_of(settings: Settings, section: str, key: str) -> str:
    value: str = getattr(getattr(settings, section), key).get_secret_value()
    return value


@pytest.mark.parametrize(("section", "key"), SECRETS)
class TestSecrets:
    def test_from_the_key(self, write: Write, section: str, key: str) -> None:
        secret = SECRETS[section, key]
        settings = load(write(f'[{section}]\n{key} = "{secret}"'), {})
        assert secret_of(settings, section, key) == secret
        assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()

    def test_from_its_file_without_the_newline(self, write: Write, tmp_path: Path, section: str, key: str) -> None:
        (tmp_path / "secret").write_text(SECRETS[section, key] + "\n")
        by_key = load(write(f'[{section}]\n{key}_file = "{tmp_path}/secret"'), {})
        by_environment = load(EXAMPLE, {f"SCOREBOARDD_{section}__{key}_FILE".upper(): f"{tmp_path}/secret"})
        assert secret_of(by_key, section, key) == secret_of(by_environment, section, key) == SECRETS[section, key]

    def test_from_the_credential_unless_given(self, write: Write, tmp_path: Path, section: str, key: str) -> None:
        environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
        (tmp_path / CREDENTIALS[section, key]).write_text(SECRETS[section, key] + "\n")
        assert secret_of(load(EXAMPLE, environ), section, key) == SECRETS[section, key]

        other = SECRETS[section, key].replace("hunter2", "other")
        assert secret_of(load(write(f'[{section}]\n{key} = "{other}"'), environ), section, key) == other
        (tmp_path / "secret").write_text(other)
        by_file = load(write(f'[{section}]\n{key}_file = "{tmp_path}/secret"'), environ)
        assert secret_of(by_file, section, key) == other

    def test_both_the_key_and_its_file(self, write: Write, tmp_path: Path, section: str, key: str) -> None:
        (tmp_path / "secret").write_text("other")
        path = write(f'[{section}]\n{key} = "{SECRETS[section, key]}"\n{key}_file = "{tmp_path}/secret"')
        assert problems(path) == [f"{path}:{section}.{key}_file: {section}.{key} is set, too; keep one of the two"]

    def test_a_file_that_cannot_be_used(self, write: Write, tmp_path: Path, section: str, key: str) -> None:
        secret = tmp_path / "secret"
        path = write(f'[{section}]\n{key}_file = "{secret}"')
        where = f"{path}:{section}.{key}_file: its file"
        assert problems(path) == [f"{where}: No such file or directory; name one the daemon may read"]
        secret.write_bytes(b"\xff\xfe")
        assert problems(path) == [f"{where} is not text; save the secret as UTF-8"]
        secret.write_text("\n")
        assert problems(path) == [f"{where} is empty; write the secret into it"]

    def test_what_is_wrong_with_one_is_said_without_it(
        self, write: Write, tmp_path: Path, section: str, key: str
    ) -> None:
        impossible = "hunter2 und ein Leerzeichen"
        path = write(f'[{section}]\n{key} = "{impossible}"')
        (tmp_path / CREDENTIALS[section, key]).write_text(impossible)
        of_key = problems(path)
        of_credential = problems(EXAMPLE, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        assert len(of_key) == len(of_credential) == 1
        assert of_key[0].startswith(f"{path}:{section}.{key}: ")
        assert of_credential[0].startswith(f"credential {CREDENTIALS[section, key]}: ")
        assert "hunter2" not in of_key[0] + of_credential[0]


# --- problems -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[server]\nport = '8080'", "server.port: should be a valid integer; the default is 8080"),
        ("[server]\nport = true", "server.port: should be a valid integer; the default is 8080"),
        (
            "[server]\nport = 65536",
            "server.port: should be less than or equal to 65535; the default is 8080",
        ),
        (
            "[server]\nhost = 'localhost:8080'",
            "server.host: not an address; name one IP address or host name, without a port",
        ),
        ("[server]\ncors_origins = '*'", "server.cors_origins: should be a valid list; the default is []"),
        (
            "[server]\ncors_origins = ['*', 'https://a.example/']",
            'server.cors_origins[1]: not an origin; write "*" or scheme://host[:port], in lower case, without a path',
        ),
        (
            "[server]\ntrusted_proxies = ['10.0.0.1/8']",
            "server.trusted_proxies[0]: not an address or network; write it like 10.1.2.3 or 10.1.0.0/16",
        ),
        ("[server]\ndrain = 0", "server.drain: should be greater than or equal to 0.001; the default is 5"),
        ("[server]\ndrain = inf", "server.drain: should be a finite number; the default is 5"),
        ("[admin]\nport = 8080", "admin: the same address as [server]; give one of them another port"),
        (
            "[redis]\nkey_prefix = 'a b'",
            "redis.key_prefix: not a prefix; use at most 64 ASCII characters without spaces",
        ),
        (
            "[redis]\nencoding = 'gzip'",
            "redis.encoding: should be 'identity' or 'zstd'; the default is \"identity\"",
        ),
        (
            "[source]\nkind = 'rctf'",
            "source.kind: no such platform; write one of ctfd, smctf, or the path of a folder of your own",
        ),
        (
            "[source]\nkind = '/nowhere/at/all'",
            "source.kind: /nowhere/at/all is not a folder; name the folder that holds platform.toml and the .sql files",
        ),
        (
            "[source]\ndsn = 'mysql://u:p@localhost/db'",
            "source: smctf cannot be read from mysql; write a URL for postgresql into source.dsn",
        ),
        (
            "[source]\nkind = 'ctfd'\ndsn = 'mysql+pymysql://u:p@localhost/db'",
            "source.dsn: the scheme names a driver; write mysql://… without the part from the +",
        ),
        (
            "[source]\nkind = 'ctfd'\ndsn = 'sqlite:///relative.db'",
            "source.dsn: not the path of a file; write sqlite:////absolute/path/of/the.db",
        ),
        (
            "[source]\nkind = 'ctfd'\ndsn = 'mysql://u:p@localhost/'",
            "source.dsn: no host or no database in it; write mysql://user:password@host:3306/database",
        ),
        (
            "[source]\nkind = 'ctfd'\ndsn = 'oracle://secret@localhost/x'",
            "source.dsn: not a URL of a known database; write postgresql://user:password@host:5432/database, "
            "mysql://user:password@host:3306/database or sqlite:////path",
        ),
        (
            "[rebuild]\nmax_wait = 0.2",
            "rebuild.max_wait: below rebuild.debounce; raise it, or lower debounce",
        ),
        (
            "[rebuild]\ndebounce = 3",
            "rebuild.max_wait: below rebuild.debounce; raise it, or lower debounce",
        ),
        (
            "[rebuild]\nlock_ttl = 0.5",
            "rebuild.lock_ttl: should be greater than or equal to 1; the default is 10",
        ),
        ("[rebuild]\ntoken_file = 3", 'rebuild.token_file: should be a valid string; the default is ""'),
        ("[sse]\nretry_max = 0.5", "sse.retry_max: below sse.retry_min; raise it, or lower retry_min"),
        ("[sse]\nheartbeat = 60", "sse.heartbeat: should be less than 60; the default is 15"),
        ("[sse]\nqueue = 0", "sse.queue: should be greater than or equal to 1; the default is 16"),
        (
            f"[redis]\nkey_prefix = '{'x' * 41}'\n[coordination]\nbackend = 'postgres'",
            "coordination: redis.key_prefix is too long for the names of Postgres channels; use at most 40 characters",
        ),
        ("[redsi]\nurl = ''", "redsi: unknown section; did you mean redis?"),
        ("[sever]\nhsot = ''", "sever: unknown section; did you mean server?"),
        ("[server]\nhsot = ''", "server.hsot: unknown key; did you mean server.host?"),
        ("[server]\nmax_clients = 1", "server.max_clients: unknown key; did you mean sse.max_clients?"),
        ("[server]\nxyzzy = 1", "server.xyzzy: unknown key; remove it"),
        ("port = 1", "port: not in a section; write [section] and its keys below it"),
        ("redis = 1", "redis: not in a section; write [section] and its keys below it"),
        ('[server]\n"a\\nb" = 1', r"server.a\nb: unknown key; remove it"),
    ],
)
def test_a_problem_of_the_file(write: Write, text: str, problem: str) -> None:
    path = write(text)
    assert problems(path) == [f"{path}:{problem}"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("SERVER__PORT", "http", "should be a valid integer; the default is 8080"),
        ("SERVER__PORT", "", "should be a valid integer; the default is 8080"),
        ("SERVER__CORS_ORIGINS", "[1", "should be a valid list; the default is []"),
        ("SSE__HEARTBEAT", "nan", "should be a finite number; the default is 15"),
        ("SERVER__PROT", "1", "unknown variable; did you mean SCOREBOARDD_SERVER__PORT?"),
        ("ADMN__PORT", "1", "unknown variable; did you mean SCOREBOARDD_ADMIN__PORT?"),
        ("SERVER_PORT", "1", "unknown variable; did you mean SCOREBOARDD_SERVER__PORT?"),
        ("PLUGH__XYZZY", "1", "unknown variable; remove it"),
    ],
)
def test_a_problem_of_the_environment(name: str, text: str, problem: str) -> None:
    assert problems(EXAMPLE, {f"SCOREBOARDD_{name}": text}) == [f"SCOREBOARDD_{name}: {problem}"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://user:p%40ss@cache:6379/2",
        "rediss://:secret@[::1]:6380",
        "unix:///run/redis/redis.sock?db=1",
    ],
)
def test_redis_urls(url: str) -> None:
    assert load(EXAMPLE, {"SCOREBOARDD_REDIS__URL": url}).redis.url.get_secret_value() == url


@pytest.mark.parametrize("url", ["cache:6379", "http://cache", "redis://", "redis://cache:port", "redis://c/x"])
def test_what_is_no_redis_url(url: str) -> None:
    (problem,) = problems(EXAMPLE, {"SCOREBOARDD_REDIS__URL": url})
    assert problem.startswith("SCOREBOARDD_REDIS__URL: not a Redis URL; write redis://")


@pytest.mark.parametrize("dsn", ["postgres://db/ctf", "postgresql://a:1,b:2/ctf?host=/run/postgresql"])
def test_dsns(dsn: str) -> None:
    assert load(EXAMPLE, {"SCOREBOARDD_POSTGRES__DSN": dsn}).postgres.dsn.get_secret_value() == dsn


@pytest.mark.parametrize("dsn", ["host=db dbname=ctf", "mysql://db/ctf"])
def test_what_is_no_dsn(dsn: str) -> None:
    (problem,) = problems(EXAMPLE, {"SCOREBOARDD_POSTGRES__DSN": dsn})
    assert problem.startswith("SCOREBOARDD_POSTGRES__DSN: not a PostgreSQL URL; write postgresql://")


@pytest.mark.parametrize(
    ("text", "line"),
    [("[server]\nport = \n", "at line 2, column 8"), ('[log]\nlevel = """info\n', "at line 3, the end")],
)
def test_a_file_that_is_not_toml(write: Write, text: str, line: str) -> None:
    path = write(text)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: not TOML: ")
    assert line in problem


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert problems(tmp_path) == [f"{tmp_path}: Is a directory; make it a file that the daemon may read"]
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert problems(binary) == [f"{binary}: not text; save it as UTF-8"]


def test_every_problem_in_one_run(write: Write, tmp_path: Path) -> None:
    text = """
        [rebuild]
        debounce = 3
        token_file = "/nonexistent"
        tokn = "hunter2"
        [sse]
        queue = 0
        [web]
        port = 1
    """
    environ: dict[str, Any] = {"SCOREBOARDD_SERVER__PORT": "hunter2", "SCOREBOARDD_REDIS_URL": "hunter2"}
    path = write(text)
    assert sorted(line.removeprefix(f"{path}:").split(":")[0] for line in problems(path, environ)) == [
        "SCOREBOARDD_REDIS_URL",
        "SCOREBOARDD_SERVER__PORT",
        "rebuild.max_wait",
        "rebuild.token_file",
        "rebuild.tokn",
        "sse.queue",
        "web",
    ]
    assert "hunter2" not in "".join(problems(path, environ))


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:99999/0",
        "redis://h:6379/0?socket_timeout=1",
        "redis://h:6379/0?decode_responses=true",
        "redis://h/0?ssl_ca_certs=/x",
        "redis://[1.2]/0",
        "unix:///run/redis.sock?nope=1",
    ],
)
def test_a_redis_url_that_redis_py_would_stumble_over(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, {"SCOREBOARDD_REDIS__URL": url})
    assert len(raised.value.problems) == 1
    assert url not in raised.value.problems[0]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (
            "rediss://:s3cret@h/0?ssl_cert_reqs=none",
            "ssl_cert_reqs in the Redis URL is not allowed: the certificate is",
        ),
        (
            "rediss://h/0?ssl_check_hostname=false",
            "ssl_check_hostname in the Redis URL is not allowed: the certificate",
        ),
        ("redis://h/0?protocol=3", "protocol in the Redis URL is not allowed: the daemon sets"),
        ("redis://h/0?ssl_ca_certs=/x", "ssl_ca_certs in the Redis URL is not allowed: it needs TLS; write rediss://"),
        ("rediss://h/0?ssl_ca_certs=", "ssl_ca_certs in the Redis URL has no value"),
        ("unix:///run/redis.sock?db=x", "db in the Redis URL has no value, or one that is not a number"),
        ("redis://h/0?S3CRET!=1", "an option in the Redis URL is not allowed"),
    ],
)
def test_an_option_that_a_redis_url_may_not_have(url: str, why: str) -> None:
    (problem,) = problems(EXAMPLE, {"SCOREBOARDD_REDIS__URL": url})
    assert problem.startswith(f"SCOREBOARDD_REDIS__URL: {why}")
    assert " takes " in problem
    assert "s3cret" not in problem.lower()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate, its key, the same key with a password, and a file that is no PEM."""
    folder = tmp_path_factory.mktemp("pem")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 2 -keyout key -out certificate",
        "rsa -in key -out locked -aes256 -passout pass:x",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    (folder / "text").write_text("no PEM")
    return folder


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("ssl_ca_certs={0}/nope", "ssl_ca_certs in the Redis URL: {0}/nope: No such file or directory; name a file"),
        ("ssl_ca_certs={0}", "ssl_ca_certs in the Redis URL: {0}: Is a directory; name a file"),
        ("ssl_ca_certs=%00", "ssl_ca_certs in the Redis URL: \\x00: not the name of a file; name a file"),
        ("ssl_ca_certs={0}/text", "ssl_ca_certs in the Redis URL: {0}/text has no certificate; name a file in PEM"),
        ("ssl_certfile={0}/nope", "ssl_certfile in the Redis URL: {0}/nope: No such file or directory; name a file"),
        ("ssl_keyfile={0}/key", "ssl_keyfile in the Redis URL: {0}/key has no certificate; name its file with ssl_"),
        ("ssl_certfile={0}/certificate", "ssl_certfile {0}/certificate in the Redis URL: not a certificate with its"),
        (
            "ssl_certfile={0}/certificate&ssl_keyfile={0}/locked",
            "ssl_certfile {0}/certificate and ssl_keyfile {0}/locked in the Redis URL: not a certificate with its key;",
        ),
    ],
)
def test_a_tls_file_that_the_redis_client_cannot_load(pem: Path, options: str, why: str) -> None:
    (problem,) = problems(EXAMPLE, {"SCOREBOARDD_REDIS__URL": f"rediss://:s3cret@h/0?{options.format(pem)}"})
    assert problem.startswith(f"SCOREBOARDD_REDIS__URL: {why.format(pem)}")
    assert "s3cret" not in problem


def test_tls_files_that_the_redis_client_can_load(pem: Path) -> None:
    files = f"ssl_ca_certs={pem}/certificate&ssl_certfile={pem}/certificate&ssl_keyfile={pem}/key"
    url = f"rediss://u:p@h:6380/1?{files}"
    assert load(None, {"SCOREBOARDD_REDIS__URL": url}).redis.url.get_secret_value() == url


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://u:p@h:6380/1", "unix:///run/redis.sock?db=2", "redis://[::1]:1/0"]
)
def test_a_redis_url_that_is_right(url: str) -> None:
    assert load(None, {"SCOREBOARDD_REDIS__URL": url}).redis.url.get_secret_value() == url
