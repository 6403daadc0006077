"""Loads the configuration from the file, the environment and secret files. Reports each problem in one line."""

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_origin

from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from scoreboardd.config.schema import Settings

DEFAULT_PATH = Path("/etc/scoreboardd/config.toml")
PATH_VARIABLE = "SCOREBOARDD_CONFIG"
"The environment variable with the path of the configuration file."
PREFIX = "SCOREBOARDD_"
"The prefix of every environment variable that sets a value."


class ConfigError(Exception):
    """The configuration is invalid. `problems` lists every problem, each as one line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


Place = tuple[str, str]
"""The section and the key of a value."""


class Given(NamedTuple):
    """A value that was set, and the place where it was set, as problems name it."""

    value: Any
    where: str


def _variable(place: Place) -> str:
    """Return the name of the environment variable that sets the value at `place`."""
    return PREFIX + "__".join(place).upper()


KEYS: dict[Place, FieldInfo] = {
    (section, key): field
    for section, table in Settings.model_fields.items()
    for key, field in type(table.default).model_fields.items()
}
"Every key of the configuration."
VARIABLES = {_variable(place): place for place in KEYS}
"The environment variables that set a value."
CREDENTIALS: dict[Place, str] = {
    ("redis", "url"): "redis-url",
    ("postgres", "dsn"): "postgres-dsn",
    ("source", "dsn"): "source-dsn",
    ("rebuild", "token"): "rebuild-token",
}
"The names of the systemd credentials, by the secret that each sets."


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Load and validate the configuration.

    The file is the one at `path`, else at `$SCOREBOARDD_CONFIG` in `environ`, else at `DEFAULT_PATH`. Only the file at
    `DEFAULT_PATH` may be missing. Raises `ConfigError` with every problem.
    """
    named = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else None)
    file = named or DEFAULT_PATH
    problems: list[str] = []
    given = _from_file(file, problems, may_be_missing=named is None) | _from_environment(environ, problems)
    _read_secrets(given, environ, problems)
    if (states := environ.get("STATE_DIRECTORY")) and not _set(given, ("cache", "directory")):
        given["cache", "directory"] = Given(states.split(":")[0], "STATE_DIRECTORY")  # systemd's, a list of folders
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
    # Other SCOREBOARDD_… variables are ignored: container platforms set some for a service of that name.
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
    """Return `text` as a value of the field's type. If that fails, return `text`, which the validation then rejects."""
    try:
        if get_origin(field.annotation) is tuple:
            listed = text.lstrip().startswith("[")
            return json.loads(text) if listed else [item.strip() for item in text.split(",") if item.strip()]
        if field.annotation in {bool, int, float}:
            return TypeAdapter(field.annotation).validate_python(text)
    except ValueError:  # the errors of pydantic and json derive from it
        pass
    return text


def _read_secrets(given: dict[Place, Given], environ: Mapping[str, str], problems: list[str]) -> None:
    """Read each secret that is given as a file or a systemd credential, and add it to `given` as the secret's value."""
    for place, credential in CREDENTIALS.items():
        section, key = place
        direct, source = _set(given, place), _set(given, (section, f"{key}_file"))
        if direct:
            if source:
                problems.append(f"{source.where}: {section}.{key} is set, too; keep one of the two")
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
    """Return the value at `place`, or None if it is empty or the default."""
    found = given.get(place)
    return found if found and found.value not in ("", _default(place)) else None


def _default(place: Place) -> Any:
    default = KEYS[place].default
    return default.get_secret_value() if isinstance(default, SecretStr) else default


def _invalid(error: ValidationError, given: dict[Place, Given], file: Path) -> Iterator[str]:
    """Yield a problem for each error of the validation."""
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        section, *rest = map(str, detail["loc"])
        place = section, "".join(rest[:1])  # without a key if the error is about a whole section
        where = given[place].where if place in given else f"{file}:{'.'.join(place).rstrip('.')}"
        where += "".join(f"[{index}]" for index in rest[1:])
        what = detail["msg"].removeprefix("Value error, ")
        if detail["type"] != "value_error":  # the validators of `schema` say how to fix it
            what = what.replace("Input should", "should").replace("tuple", "list")
            what += f"; the default is {json.dumps(_default(place), default=str)}"
        yield f"{where}: {what}"


def _nearest(section: str, key: str) -> list[Place]:
    """Return the known place with the most similar key, or nothing if no key is similar.

    If several sections have this key, the section with the most similar name is chosen.
    """
    places = sorted(KEYS, key=lambda place: difflib.SequenceMatcher(None, section, place[0]).ratio())
    by_key = {place[1]: place for place in places}
    return [by_key[name] for name in difflib.get_close_matches(key, by_key, n=1)]


def _instead(near: list[str]) -> str:
    """Return how to fix an unknown name: use the first of `near`, or remove the name if `near` is empty."""
    return f"did you mean {near[0]}?" if near else "remove it"


def _one_line(problem: str) -> str:
    """Return `problem` with unprintable characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in problem)
