"""Chooses the engine for the URL of a platform's database."""

from collections.abc import Callable
from urllib.parse import urlsplit

from scoreboardd.platforms.engines import Engine
from scoreboardd.platforms.engines.mysql import MysqlEngine
from scoreboardd.platforms.engines.postgresql import PostgresEngine
from scoreboardd.platforms.engines.sqlite import SqliteEngine

SCHEMES = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
}
"The name of the engine for each scheme of a URL."
_ENGINES: dict[str, Callable[..., Engine]] = {
    "postgresql": PostgresEngine,
    "mysql": MysqlEngine,
    "sqlite": SqliteEngine,
}


def engine_of(dsn: str) -> str:
    """Return the name of the engine that a URL needs. Raises `KeyError` for an unknown scheme."""
    return SCHEMES[urlsplit(dsn).scheme]


def open_engine(dsn: str, *, statement_timeout_seconds: float) -> Engine:
    """Return the engine for a URL. Raises `KeyError` for an unknown scheme."""
    return _ENGINES[engine_of(dsn)](dsn, statement_timeout_seconds=statement_timeout_seconds)
