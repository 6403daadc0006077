"""Checks the URL of a platform's database. No text repeats a part of the URL."""

from urllib.parse import urlsplit

from scoreboardd.platforms.engines import mysql
from scoreboardd.platforms.engines.factory import SCHEMES
from scoreboardd.postgres import dsn as postgres

EXAMPLES = "postgresql://user:password@host:5432/database, mysql://user:password@host:3306/database or sqlite:////path"


def source_dsn_problem(dsn: str) -> str | None:
    """Return one line on what is wrong with `dsn` and how to fix it. None if it is valid, or empty."""
    if not dsn:
        return None
    try:
        url = urlsplit(dsn)
        engine = SCHEMES.get(url.scheme.partition("+")[0])
        port = url.port
    except ValueError:
        return f"not a URL; write {EXAMPLES}, with special characters of the password %-encoded"
    if engine is None:
        return f"not a URL of a known database; write {EXAMPLES}"
    if "+" in url.scheme:
        return f"the scheme names a driver; write {engine}://… without the part from the +"
    if engine == "postgresql":
        return postgres.problem(dsn)
    if engine == "sqlite":
        is_path = not url.netloc and url.path.startswith("//") and len(url.path) > 2 and not url.query
        return None if is_path else "not the path of a file; write sqlite:////absolute/path/of/the.db"
    if not url.hostname or not url.path.strip("/") or port == 0:
        return "no host or no database in it; write mysql://user:password@host:3306/database"
    return mysql.options_problem(url.query)
