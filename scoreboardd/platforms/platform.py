"""A platform: a folder with a `platform.toml` and one `.sql` file per query.

`kind` in the configuration names a folder in this package, or the path of a folder of the organiser's own. A query is
in `<name>.sql`, or in `<name>.<engine>.sql` where the dialects differ. docs/platforms.md says what each query returns.
"""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from scoreboardd.board.order import Listing, Order
from scoreboardd.board.rules import Rules
from scoreboardd.board.standings import POINTS

PACKED = {
    "solves": ("id", "user_id", "team_id", "challenge_id", "at"),
    "adjustments": ("id", "user_id", "team_id", "at", "points"),
}
"The queries with many rows, all of integers, and their columns in order."
ROWS = {
    "settings": ("name", "value"),
    "challenges": (
        "id",
        "title",
        "category",
        "points",
        "listed",
        "opens_at",
        "function",
        "initial",
        "minimum",
        "decay",
    ),
    "teams": ("id", "name", "division_id"),
    "users": ("id", "name", "team_id", "division_id"),
    "divisions": ("id", "name", "participants"),
}
"The queries with few rows, and their columns in order."
ENGINES = ("postgresql", "mysql", "sqlite")
READERS = ("increments", "snapshots")


class PlatformError(ValueError):
    """The folder of a platform is not valid. The text is one line: what, where, and how to fix it."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform, as its `platform.toml` describes it."""

    kind: str
    "As in the configuration."
    folder: Traversable
    reader: str
    "One of `READERS`: whether solves are followed by their ids, or everything is read and compared."
    engines: tuple[str, ...]
    rules: Rules
    description: dict[str, Any]
    "All of `platform.toml`."

    @property
    def name(self) -> str:
        """The name in messages."""
        return self.folder.name

    def query(self, name: str, engine: str) -> str | None:
        """Return the text of a query for a database engine. None if the platform has no such query."""
        for file in (f"{name}.{engine}.sql", f"{name}.sql"):
            if (path := self.folder / file).is_file():
                return path.read_text("utf-8").strip().rstrip(";")
        return None


def known_platforms() -> list[str]:
    """Return the names of the platforms in this package."""
    return sorted(folder.name for folder in files(__package__).iterdir() if (folder / "platform.toml").is_file())


def load_platform(kind: str) -> Platform:
    """Return the platform that `kind` names. Raises `PlatformError`."""
    folder: Traversable
    if "/" in kind:
        folder = Path(kind)
        if not folder.is_dir():
            raise PlatformError(f"{kind} is not a folder; name the folder that holds platform.toml and the .sql files")
    elif kind in known_platforms():
        folder = files(__package__) / kind
    else:
        choice = ", ".join(known_platforms())
        raise PlatformError(f"no such platform; write one of {choice}, or the path of a folder of your own")
    file = folder / "platform.toml"
    try:
        description = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise PlatformError(f"{file}: {error.strerror}; write it as docs/platforms.md describes") from None
    except ValueError as error:
        raise PlatformError(f"{file}: not TOML: {error}; correct it") from None
    platform = _parsed(kind, folder, description, str(file))
    if platform.reader == "snapshots":
        _require_queries(platform)
    return platform


def _parsed(kind: str, folder: Traversable, description: dict[str, Any], file: str) -> Platform:
    rules = description.get("rules", {})

    def one_of(name: str, allowed: Any, default: str) -> str:
        value = rules.get(name, default)
        if value not in list(allowed):
            raise PlatformError(f"{file}: rules.{name} is not one of {', '.join(allowed)}; correct it")
        return str(value)

    reader = description.get("reader", "snapshots")
    if reader not in READERS:
        raise PlatformError(f"{file}: reader is not one of {', '.join(READERS)}; correct it")
    engines = tuple(description.get("engines", ENGINES))
    if not engines or not set(engines) <= set(ENGINES):
        raise PlatformError(f"{file}: engines is not a list of {', '.join(ENGINES)}; correct it")
    return Platform(
        kind,
        folder,
        reader,
        engines,
        Rules(
            one_of("points", POINTS, "given"),
            Order(one_of("order", Order, Order.LAST_ROW)),
            Listing(one_of("listed", Listing, Listing.COUNTED)),
        ),
        description,
    )


def _require_queries(platform: Platform) -> None:
    for engine in platform.engines:
        if platform.query("users", engine) is None and platform.query("teams", engine) is None:
            raise PlatformError(f"{platform.folder}: neither users.sql nor teams.sql is there; write one of them")
        if platform.query("solves", engine) is None and platform.query("adjustments", engine) is None:
            raise PlatformError(
                f"{platform.folder}: neither solves.sql nor adjustments.sql is there; write one of them"
            )
