"""Which event sources a configuration has."""

from collections.abc import Coroutine
from typing import Any

from scoreboardd.backends.base import ClusterBackend
from scoreboardd.backends.local.cluster import LocalClusterBackend
from scoreboardd.cluster.health import Health
from scoreboardd.config import Settings
from scoreboardd.config.schema import Redis
from scoreboardd.events.postgres import PostgresEvents
from scoreboardd.events.redis import RedisEvents
from scoreboardd.events.source import EventSource, pass_on
from scoreboardd.platforms.engines.factory import engine_of
from scoreboardd.platforms.factory import SourceOptions
from scoreboardd.telemetry.metrics import Metrics


def event_sources(settings: Settings) -> list[EventSource]:
    """Return the servers on which the platform may publish, if the bus is within the process.

    A Redis at the default URL is none: that URL is in every copy of the example, whether or not a Redis is there.
    """
    found: list[EventSource] = []
    prefix, url = settings.redis.key_prefix, settings.redis.url.get_secret_value()
    if url != Redis().url.get_secret_value():
        found.append(RedisEvents(url, prefix=prefix))
    dsn = SourceOptions.of(settings).dsn
    if engine_of(dsn) == "postgresql":
        found.append(PostgresEvents(dsn, prefix=prefix))
    return found


def event_relays(
    settings: Settings, backend: ClusterBackend, health: Health, metrics: Metrics
) -> list[Coroutine[Any, Any, None]]:
    """Return what passes the events of each source on to the bus of `backend`, each to be run until cancelled.

    A backend whose bus other processes can use needs none.
    """
    if not isinstance(backend, LocalClusterBackend):
        return []
    return [
        pass_on(source, backend.publish, backend.interrupted, health=health, metrics=metrics)
        for source in event_sources(settings)
    ]
