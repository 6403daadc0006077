"""Which event sources a configuration has."""

from scoreboardd.backends.factory import backend_of
from scoreboardd.config import Settings
from scoreboardd.events.sources import EventSource, PostgresEvents, RedisEvents
from scoreboardd.platforms.engines.factory import engine_of
from scoreboardd.platforms.factory import SourceOptions


def event_sources(settings: Settings) -> list[EventSource]:
    """Return the servers on which the platform may publish, beside the cluster's bus.

    A backend whose bus other processes can use needs none. A Redis counts only if its URL is given.
    """
    if backend_of(settings).is_shared:
        return []
    found: list[EventSource] = []
    prefix = settings.redis.key_prefix
    if "url" in settings.redis.model_fields_set:
        found.append(RedisEvents(settings.redis.url.get_secret_value(), prefix=prefix))
    dsn = SourceOptions.of(settings).dsn
    if engine_of(dsn) == "postgresql":
        found.append(PostgresEvents(dsn, prefix=prefix))
    return found
