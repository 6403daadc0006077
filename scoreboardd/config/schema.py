"""The schema of the configuration: every section, key, default and bound.

The error text of a validator says what is wrong and what to write instead. It never contains the value, except the name
of a file. Durations are in seconds.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from scoreboardd.backends.factory import BACKENDS
from scoreboardd.backends.redis.tls import FILE_OPTIONS, file_problem
from scoreboardd.platforms.engines.dsn import source_dsn_problem
from scoreboardd.platforms.engines.factory import engine_of
from scoreboardd.platforms.platform import load_platform
from scoreboardd.postgres import dsn

# --- validators ------------------------------------------------------------------------------------


def _host(value: str) -> str:
    try:
        ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})", value):
            raise ValueError("not an address; name one IP address or host name, without a port") from None
    return value


def _name(value: str) -> str:
    if not (0 < len(value) <= 100 and value.isprintable()):
        raise ValueError("not a name; use 1 to 100 characters on one line")
    return value


def _origin(value: str) -> str:
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", value):
        raise ValueError('not an origin; write "*" or scheme://host[:port], in lower case, without a path')
    return value


def _network(value: object) -> object:
    try:
        return value if isinstance(value, IPv4Network | IPv6Network) else ip_network(str(value))
    except ValueError:
        raise ValueError("not an address or network; write it like 10.1.2.3 or 10.1.0.0/16") from None


def _redis_url(secret: SecretStr) -> SecretStr:
    host_and_database = r"([^/?#\s]*@)?([^/?#@:\s\[\]]+|\[[0-9A-Fa-f:]+\])(:(?P<port>[0-9]{1,5}))?(/[0-9]{0,5})?"
    # Of redis-py's options only those that identify the server and its certificate are allowed. The others could change
    # deadlines, protocol or encoding, which the daemon sets itself.
    tls = r"(\?(ssl_(ca_certs|certfile|keyfile)=[^&\s]+&?)+)?"
    found = re.fullmatch(
        rf"redis://{host_and_database}|rediss://{host_and_database.replace('port', 'tls_port')}{tls}|"
        r"unix://[^?\s]*/[^?\s]+(\?db=[0-9]{1,5})?",
        secret.get_secret_value(),
    )
    if found is None and (problem := _redis_option_problem(secret.get_secret_value())) is not None:
        raise ValueError(problem)
    if found is None or int(found["port"] or found["tls_port"] or 0) > 65_535:
        fix = "write redis://user:password@host:6379/0, rediss://… or unix:///path"
        raise ValueError(f"not a Redis URL; {fix}, with special characters of the password %-encoded")
    if (problem := file_problem(secret.get_secret_value())) is not None:
        raise ValueError(problem)
    return secret


_REDIS_OPTIONS = {"redis": (), "rediss": FILE_OPTIONS, "unix": ("db",)}
"The options that may follow the question mark, by scheme."


def _redis_option_problem(url: str) -> str | None:
    """Return why the first option of `url` that is not allowed is wrong, without any value. None if all are allowed."""
    scheme, _, rest = url.partition("://")
    if scheme not in _REDIS_OPTIONS or "?" not in rest:
        return None
    allowed = _REDIS_OPTIONS[scheme]
    listed = f"{scheme}:// takes {', '.join(allowed) if allowed else 'no options'}"
    for option in rest.partition("?")[2].split("&"):
        name, _, value = option.partition("=")
        if name in allowed and value and not (name == "db" and not re.fullmatch("[0-9]{1,5}", value)):
            continue
        known = name if re.fullmatch("[a-z_]{1,40}", name) else "an option"
        if name in allowed:
            why = "has no value, or one that is not a number" if name == "db" else "has no value"
        elif name in ("ssl_cert_reqs", "ssl_check_hostname"):
            why = "is not allowed: the certificate is always verified; name its authority with ssl_ca_certs"
        elif name in _REDIS_OPTIONS["rediss"]:
            why = "is not allowed: it needs TLS; write rediss://"
        else:
            why = "is not allowed: the daemon sets deadlines, protocol and encoding itself; remove it"
        return f"{known} in the Redis URL {why} ({listed})"
    return None


def _dsn(secret: SecretStr) -> SecretStr:
    if (problem := dsn.problem(secret.get_secret_value())) is not None:
        raise ValueError(problem)
    return secret


def _key_prefix(value: str) -> str:
    if not re.fullmatch(r"[!-~]{0,64}", value):
        raise ValueError("not a prefix; use at most 64 ASCII characters without spaces")
    return value


def _token(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]{0,512}", secret.get_secret_value()):
        raise ValueError("cannot be sent in a header; use at most 512 ASCII characters without spaces")
    return secret


def _source_kind(value: str) -> str:
    load_platform(value)  # raises a `ValueError` for a person
    return value


def _source_dsn(secret: SecretStr) -> SecretStr:
    if (problem := source_dsn_problem(secret.get_secret_value())) is not None:
        raise ValueError(problem)
    return secret


def _directory(value: str) -> str:
    if not Path(value).is_absolute():
        raise ValueError("not an absolute path; write one that begins with /")
    return value


def _timezone(value: str) -> str:
    # `ZoneInfo(value)` is no check: it accepts the name of any file below its folder.
    if value != "UTC" and value not in available_timezones():
        raise ValueError('not a time zone of this system; write an IANA name like "Europe/Berlin"')
    return value


# In seconds. The upper bound is a day: a larger value is probably in another unit.
Duration = Annotated[float, Field(ge=0.001, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Host = Annotated[str, AfterValidator(_host)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], Field(strict=False)]
Feeds = Annotated[tuple[Literal["ctfd", "ctftime"], ...], Field(strict=False)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Networks = Annotated[tuple[Network, ...], Field(strict=False)]


# --- the sections -------------------------------------------------------------------------------------------


class Section(BaseModel):
    """One table of the file. Defaults are validated, too: a key may contradict the default of another key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class Server(Section):
    """The public listener."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    name: Annotated[str, AfterValidator(_name)] = "Scoreboard"
    page: bool = True
    cors_origins: Origins = ()
    feeds: Feeds = ()
    trusted_proxies: Networks = (ip_network("127.0.0.1"), ip_network("::1"))
    drain: Duration = 5


class Admin(Section):
    """The listener for `/healthz`, `/readyz` and `/metrics`."""

    host: Host = "127.0.0.1"
    port: Port = 8081


class Redis(Section):
    """The shared state and the bus. After loading, `url` also holds a value from `url_file` or a systemd credential."""

    url: Annotated[SecretStr, AfterValidator(_redis_url)] = SecretStr("redis://127.0.0.1:6379/0")
    url_file: str = ""
    key_prefix: Annotated[str, AfterValidator(_key_prefix)] = ""
    encoding: Literal["identity", "zstd"] = "identity"


class Postgres(Section):
    """The platform's database. After loading, `dsn` also holds a value from `dsn_file` or a systemd credential."""

    dsn: Annotated[SecretStr, AfterValidator(_dsn)] = SecretStr("postgresql://127.0.0.1/ctf")
    dsn_file: str = ""
    statement_timeout: Duration = 30


class Source(Section):
    """The platform whose tables are read. `timezone` applies to times that are stored without a zone.

    After loading, `dsn` also holds a value from `dsn_file` or a systemd credential; empty, it is `postgres.dsn`. `poll`
    is in seconds, 0 for never; it applies to platforms with a `probe.sql`.
    """

    kind: Annotated[str, AfterValidator(_source_kind)] = "smctf"
    dsn: Annotated[SecretStr, AfterValidator(_source_dsn)] = SecretStr("")
    dsn_file: str = ""
    poll: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 2.0
    freeze: Literal["sealed", "platform"] = "sealed"
    ties: Literal["platform", "time"] = "platform"
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"


class Rebuild(Section):
    """When rebuilds happen. After loading, `token` also holds a value from `token_file` or a systemd credential.

    An empty `token` disables the rebuild endpoint.
    """

    debounce: Duration = 0.3
    max_wait: Duration = 2.0
    lock_ttl: Annotated[Duration, Field(ge=1)] = 10
    timeout: Duration = 60
    reconcile: Duration = 60
    token: Annotated[SecretStr, AfterValidator(_token)] = SecretStr("")
    token_file: str = ""

    @field_validator("max_wait")
    @classmethod
    def _not_below_debounce(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("debounce", 0):
            raise ValueError("below rebuild.debounce; raise it, or lower debounce")
        return value


class Cache(Section):
    """When a document counts as stale, and where documents are stored beside the cluster's store.

    `directory` holds the file of the local backend.
    """

    directory: Annotated[str, AfterValidator(_directory)] = "/var/lib/scoreboardd"

    persist: bool = False
    persist_interval: Duration = 15
    stale_after: Duration = 120


class Sse(Section):
    """Limits of the event streams and their clients."""

    max_clients: Annotated[int, Field(ge=1, le=1_000_000)] = 18_000
    max_clients_per_ip: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    queue: Annotated[int, Field(ge=1, le=1_024)] = 16
    # Many proxies close a connection after 60 s without data.
    heartbeat: Annotated[Duration, Field(lt=60)] = 15
    stall_timeout: Duration = 30
    retry_min: Duration = 1
    retry_max: Duration = 5

    @field_validator("retry_max")
    @classmethod
    def _not_below_retry_min(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("retry_min", 0):
            raise ValueError("below sse.retry_min; raise it, or lower retry_min")
        return value


class Log(Section):
    """The level and the format of the logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Coordination(Section):
    """The backend that holds the lock and carries the bus."""

    backend: Literal["redis", "postgres", "local"] = "redis"


class Settings(Section):
    """The whole configuration. `load` creates it; `Settings()` holds the defaults."""

    server: Server = Server()
    admin: Admin = Admin()
    redis: Redis = Redis()
    postgres: Postgres = Postgres()
    source: Source = Source()
    rebuild: Rebuild = Rebuild()
    cache: Cache = Cache()
    sse: Sse = Sse()
    log: Log = Log()
    coordination: Coordination = Coordination()

    @field_validator("source")
    @classmethod
    def _engine_fits_platform(cls, source: Source, info: ValidationInfo) -> Source:
        postgres = info.data.get("postgres")
        platform = load_platform(source.kind)
        url = source.dsn.get_secret_value() or (postgres and postgres.dsn.get_secret_value())
        if url and (engine := engine_of(url)) not in platform.engines:
            raise ValueError(
                f"{source.kind} cannot be read from {engine}; write a URL for {' or '.join(platform.engines)} into "
                "source.dsn"
            )
        server = info.data.get("server")
        if server and "ctfd" in server.feeds and platform.reader != "snapshots":
            raise ValueError(f"{source.kind} has not what the feed ctfd needs; remove it from server.feeds")
        return source

    @field_validator("coordination")
    @classmethod
    def _prefix_fits_channel_names(cls, coordination: Coordination, info: ValidationInfo) -> Coordination:
        redis = info.data.get("redis")
        limit = BACKENDS[coordination.backend].max_prefix_length
        if redis and limit is not None and len(redis.key_prefix) > limit:
            raise ValueError(
                f"redis.key_prefix is too long for the names of {coordination.backend.capitalize()} channels; "
                f"use at most {limit} characters"
            )
        return coordination

    @field_validator("admin")
    @classmethod
    def _differs_from_public_listener(cls, admin: Admin, info: ValidationInfo) -> Admin:
        server = info.data.get("server")
        if server and admin.port and (admin.host, admin.port) == (server.host, server.port):
            raise ValueError("the same address as [server]; give one of them another port")
        return admin
