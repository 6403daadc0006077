"""Configuration: one TOML file, overridden by the environment, checked as a whole before anything starts.

Rules:
- A value is the first of: `SCOREBOARDD_<SECTION>__<KEY>`, the file, for a secret its `_file` or its systemd
  credential, the default. A key that stands at its default counts as not set.
- TOML has types, so its values must have the right one; the environment has text, which is converted.
- Every problem is found in one run, one line each: where it is, what it is, how to mend it.
- No value is repeated in a problem (it may be a secret in the wrong place), and no secret is in a `repr`.
- `load` depends on its arguments and the files they name, and on nothing else.

Durations are in seconds.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

DEFAULT_PATH = Path("/etc/scoreboardd/config.toml")
PATH_VARIABLE = "SCOREBOARDD_CONFIG"
PREFIX = "SCOREBOARDD_"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds every reason, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# --- what a value may be ------------------------------------------------------------------------------------


def _host(value: str) -> str:
    try:
        ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})", value):
            raise ValueError("not an address; name one IP address or host name, without a port") from None
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
    host_and_database = r"([^/?#\s]*@)?([^/?#@:\s]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[0-9]{0,5})?(\?\S*)?"
    if not re.fullmatch(rf"rediss?://{host_and_database}|unix://\S*/\S+", secret.get_secret_value()):
        mend = "write redis://user:password@host:6379/0, rediss://… or unix:///path"
        raise ValueError(f"not a Redis URL; {mend}, with special characters of the password %-encoded")
    return secret


def _dsn(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"postgres(ql)?://\S*", secret.get_secret_value()):
        mend = "write postgresql://user:password@host:5432/database"
        raise ValueError(f"not a PostgreSQL URL; {mend}, with special characters of the password %-encoded")
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
    known = sorted(folder.name for folder in (Path(__file__).parent / "source").glob("[a-z]*/"))
    if value not in known:
        raise ValueError(f"no such source; there is {', '.join(known)}")
    return value


# A day: whoever writes more has mistaken the unit.
Duration = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Host = Annotated[str, AfterValidator(_host)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], Field(strict=False)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Networks = Annotated[tuple[Network, ...], Field(strict=False)]


# --- the sections -------------------------------------------------------------------------------------------


class Section(BaseModel):
    """One table of the file. Defaults are validated too: a key may be impossible beside another's default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class Server(Section):
    """The public listener."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    cors_origins: Origins = ()
    trusted_proxies: Networks = (ip_network("127.0.0.1"), ip_network("::1"))
    drain: Duration = 5


class Admin(Section):
    """The listener for `/healthz`, `/readyz` and `/metrics`."""

    host: Host = "127.0.0.1"
    port: Port = 8081


class Redis(Section):
    """The shared state and the bus. `url` is resolved: it holds what `url_file` or a credential said."""

    url: Annotated[SecretStr, AfterValidator(_redis_url)] = SecretStr("redis://127.0.0.1:6379/0")
    url_file: str = ""
    key_prefix: Annotated[str, AfterValidator(_key_prefix)] = ""
    encoding: Literal["identity", "zstd"] = "identity"


class Postgres(Section):
    """The platform's database. `dsn` is resolved: it holds what `dsn_file` or a credential said."""

    dsn: Annotated[SecretStr, AfterValidator(_dsn)] = SecretStr("postgresql://127.0.0.1/ctf")
    dsn_file: str = ""
    statement_timeout: Duration = 30


class Source(Section):
    """Which platform's tables are read."""

    kind: Annotated[str, AfterValidator(_source_kind)] = "smctf"


class Rebuild(Section):
    """When a rebuild happens. `token` is resolved, and empty where the endpoint is switched off."""

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
    """How old a document may grow."""

    persist: bool = False
    persist_interval: Duration = 15
    stale_after: Duration = 120

    @field_validator("persist")
    @classmethod
    def _not_yet(cls, value: bool) -> bool:
        if value:
            raise ValueError("not available in this release yet; set it to false")
        return value


class Sse(Section):
    """The stream's clients."""

    max_clients: Annotated[int, Field(ge=1, le=1_000_000)] = 18_000
    max_clients_per_ip: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    queue: Annotated[int, Field(ge=1, le=1_024)] = 16
    # Proxies give up on a silent upstream after 60 s.
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
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Coordination(Section):
    """Who holds the lock and carries the bus."""

    backend: Literal["redis", "postgres"] = "redis"

    @field_validator("backend")
    @classmethod
    def _not_yet(cls, value: str) -> str:
        if value == "postgres":
            raise ValueError('not available in this release yet; set it to "redis"')
        return value


class Settings(Section):
    """Everything the daemon can be told. Build it with `load`; `Settings()` is the defaults."""

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

    @field_validator("admin")
    @classmethod
    def _not_the_public_listener(cls, admin: Admin, info: ValidationInfo) -> Admin:
        server = info.data.get("server")
        if server and admin.port and (admin.host, admin.port) == (server.host, server.port):
            raise ValueError("the same address as [server]; give one of them another port")
        return admin


# --- loading ------------------------------------------------------------------------------------------------

Place = tuple[str, str]
"""A section and a key."""


class Given(NamedTuple):
    """A value somebody set, and where, in the words of a problem."""

    value: Any
    where: str


def _variable(place: Place) -> str:
    return PREFIX + "__".join(place).upper()


KEYS: dict[Place, FieldInfo] = {
    (section, key): field
    for section, table in Settings.model_fields.items()
    for key, field in type(table.default).model_fields.items()
}
VARIABLES = {_variable(place): place for place in KEYS}
CREDENTIALS: dict[Place, str] = {
    ("redis", "url"): "redis-url",
    ("postgres", "dsn"): "postgres-dsn",
    ("rebuild", "token"): "rebuild-token",
}


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the file at `path`, else `$SCOREBOARDD_CONFIG`, else the default path, and the environment.

    Only the file at the default path may be missing. Raises `ConfigError` with every problem there is.
    """
    named = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else None)
    file = named or DEFAULT_PATH
    problems: list[str] = []
    given = _from_file(file, problems, may_be_missing=named is None) | _from_environment(environ, problems)
    _read_secrets(given, environ, problems)
    values: dict[str, dict[str, Any]] = {section: {} for section in Settings.model_fields}
    for (section, key), found in given.items():
        values[section][key] = found.value
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += _invalid(error, given, file)
    if problems:
        raise ConfigError([_one_line(problem) for problem in problems])
    return settings


def _from_file(file: Path, problems: list[str], *, may_be_missing: bool) -> dict[Place, Given]:
    given: dict[Place, Given] = {}
    for section, table in _tables(file, problems, may_be_missing=may_be_missing).items():
        if not isinstance(table, dict):
            problems.append(f"{file}:{section}: not in a section; write [section] and its keys below it")
        elif section not in Settings.model_fields:
            near = difflib.get_close_matches(section, Settings.model_fields, n=1)
            problems.append(f"{file}:{section}: unknown section; {_instead(near)}")
        else:
            for key, value in table.items():
                where = f"{file}:{section}.{key}"
                if (section, key) in KEYS:
                    given[section, key] = Given(value, where)
                else:
                    near = [".".join(place) for place in _nearest(section, key)]
                    problems.append(f"{where}: unknown key; {_instead(near)}")
    return given


def _tables(file: Path, problems: list[str], *, may_be_missing: bool) -> dict[str, Any]:
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        if not may_be_missing:
            problems.append(f"{file}: no such file; create it, or name another")
    except OSError as error:
        problems.append(f"{file}: {error.strerror}; make it a file that the daemon may read")
    except UnicodeDecodeError:
        problems.append(f"{file}: not text; save it as UTF-8")
    else:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            what = str(error).replace("at end of document", f"at line {text.count(chr(10)) + 1}, the end")
            problems.append(f"{file}: not TOML: {what}; correct that line")
    return {}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[Place, Given]:
    # Further SCOREBOARDD_… names are let be: container platforms set some for a service of that name.
    misspelt = {name.replace("__", "_"): name for name in VARIABLES}
    given: dict[Place, Given] = {}
    for name, text in environ.items():
        if name in VARIABLES:
            place = VARIABLES[name]
            given[place] = Given(_converted(text, KEYS[place]), name)
        elif name in misspelt:
            problems.append(f"{name}: unknown variable; {_instead([misspelt[name]])}")
        elif name.startswith(PREFIX) and "__" in name:
            section, _, key = name.removeprefix(PREFIX).lower().partition("__")
            near = [_variable(place) for place in _nearest(section, key)]
            problems.append(f"{name}: unknown variable; {_instead(near)}")
    return given


def _converted(text: str, field: FieldInfo) -> object:
    """What `text` stands for; `text` itself where it stands for nothing, so that the type check says so."""
    try:
        if get_origin(field.annotation) is tuple:
            listed = text.lstrip().startswith("[")
            return json.loads(text) if listed else [item.strip() for item in text.split(",") if item.strip()]
        if field.annotation in {bool, int, float}:
            return TypeAdapter(field.annotation).validate_python(text)
    except ValueError:  # pydantic's and json's are of this kind
        pass
    return text


def _read_secrets(given: dict[Place, Given], environ: Mapping[str, str], problems: list[str]) -> None:
    """Put the content of each secret's file, or its credential, where the secret itself belongs."""
    for place, credential in CREDENTIALS.items():
        section, key = place
        own, source = _set(given, place), _set(given, (section, f"{key}_file"))
        if own:
            if source:
                problems.append(f"{source.where}: set beside {section}.{key}; keep one of the two")
            continue
        if not source and (folder := environ.get("CREDENTIALS_DIRECTORY")):
            file = Path(folder, credential)
            source = Given(str(file), f"credential {credential}") if file.exists() else None
        if source and isinstance(source.value, str):
            try:
                text = Path(source.value).read_text("utf-8").rstrip("\r\n")
            except OSError as error:
                problems.append(f"{source.where}: its file: {error.strerror}; name one the daemon may read")
            except ValueError:
                problems.append(f"{source.where}: its file is not text; save the secret as UTF-8")
            else:
                given[place] = Given(text or _default(place), source.where)
                if not text:
                    problems.append(f"{source.where}: its file is empty; write the secret into it")


def _set(given: dict[Place, Given], place: Place) -> Given | None:
    found = given.get(place)
    return found if found and found.value not in ("", _default(place)) else None


def _default(place: Place) -> Any:
    default = KEYS[place].default
    return default.get_secret_value() if isinstance(default, SecretStr) else default


def _invalid(error: ValidationError, given: dict[Place, Given], file: Path) -> Iterator[str]:
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        section, *rest = map(str, detail["loc"])
        place = section, "".join(rest[:1])  # no key: two sections do not go together
        where = given[place].where if place in given else f"{file}:{'.'.join(place).rstrip('.')}"
        where += "".join(f"[{index}]" for index in rest[1:])
        what = detail["msg"].removeprefix("Value error, ")
        if detail["type"] != "value_error":  # ours bring their mend along
            what = what.replace("Input should", "should").replace("tuple", "list")
            what += f"; the default is {json.dumps(_default(place), default=str)}"
        yield f"{where}: {what}"


def _nearest(section: str, key: str) -> list[Place]:
    """The known place most like an unknown one, if any is: by its key, in the section most like."""
    places = sorted(KEYS, key=lambda place: difflib.SequenceMatcher(None, section, place[0]).ratio())
    by_key = {place[1]: place for place in places}
    return [by_key[name] for name in difflib.get_close_matches(key, by_key, n=1)]


def _instead(near: list[str]) -> str:
    return f"did you mean {near[0]}?" if near else "remove it"


def _one_line(problem: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in problem)
