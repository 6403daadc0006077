"""Opens the source that the configuration names."""

from dataclasses import dataclass
from typing import Self

from scoreboardd.config import Settings
from scoreboardd.platforms.platform import load_platform
from scoreboardd.platforms.postgres import PostgresSource
from scoreboardd.platforms.snapshots import SnapshotSource
from scoreboardd.platforms.source import Source


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What the builder process needs to open the source, and to make boards of it."""

    dsn: str
    platform: str
    "The value of source.kind."
    statement_timeout: float
    "In seconds."
    timezone: str = "UTC"
    "The IANA name of the zone of times that are stored without one."
    freeze: str = "sealed"
    ties: str = "platform"
    feed: bool = False
    "Whether to make the document of the CTFd feed."

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the options in the configuration."""
        source, postgres = settings.source, settings.postgres
        return cls(
            source.dsn.get_secret_value() or postgres.dsn.get_secret_value(),
            source.kind,
            postgres.statement_timeout,
            source.timezone,
            source.freeze,
            source.ties,
            "ctfd" in settings.server.feeds,
        )


def open_source(options: SourceOptions) -> Source:
    """Return the source of a platform. Raises `PlatformError`."""
    platform = load_platform(options.platform)
    if platform.reader == "snapshots":
        return SnapshotSource(options.dsn, platform, statement_timeout=options.statement_timeout)
    return PostgresSource(
        options.dsn, options.platform, statement_timeout=options.statement_timeout, timezone=options.timezone
    )
