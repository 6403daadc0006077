"""The registry's entry of the Redis backend."""

from typing import TYPE_CHECKING, Any

from scoreboardd.backends.base import Backend, stage_ttl_seconds
from scoreboardd.backends.redis.cluster import RedisClusterBackend
from scoreboardd.backends.redis.documents import RedisDocumentStore
from scoreboardd.cache.document_cache import CacheTier

if TYPE_CHECKING:
    from scoreboardd.config import Settings


def _open(settings: "Settings") -> RedisClusterBackend:
    redis = settings.redis
    return RedisClusterBackend(
        redis.url.get_secret_value(),
        prefix=redis.key_prefix,
        lock_ttl=settings.rebuild.lock_ttl,
        encoding=redis.encoding,
    )


def _document_store_options(settings: "Settings") -> dict[str, Any]:
    redis = settings.redis
    return {
        "url": redis.url.get_secret_value(),
        "prefix": redis.key_prefix,
        "encoding": redis.encoding,
        "stage_ttl": stage_ttl_seconds(settings),
    }


REDIS = Backend(
    name="redis",
    tier=CacheTier.REDIS,
    persisted=True,
    receives_notify=False,
    is_shared=True,
    max_prefix_length=None,
    open_cluster_backend=_open,
    document_store_options=_document_store_options,
    open_document_store=RedisDocumentStore,
)
