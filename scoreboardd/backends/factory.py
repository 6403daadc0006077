"""Which backend a configuration asks for. The daemon's loop opens the store; its builder child opens the vault, from
options that travel as JSON."""

from typing import Any

from scoreboardd.backends.base import ClusterBackend, DocumentStore
from scoreboardd.backends.postgres.cluster import PostgresClusterBackend
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.backends.redis.cluster import RedisClusterBackend
from scoreboardd.backends.redis.documents import RedisDocumentStore
from scoreboardd.config import Settings


def open_cluster_backend(settings: Settings) -> ClusterBackend:
    if settings.coordination.backend == "postgres":
        return open_postgres_cluster_backend(settings)
    redis = settings.redis
    return RedisClusterBackend(
        redis.url.get_secret_value(),
        prefix=redis.key_prefix,
        lock_ttl=settings.rebuild.lock_ttl,
        encoding=redis.encoding,
    )


def open_postgres_cluster_backend(settings: Settings) -> PostgresClusterBackend:
    """The store in Postgres, whoever coordinates."""
    return PostgresClusterBackend(
        settings.postgres.dsn.get_secret_value(),
        prefix=settings.redis.key_prefix,
        lock_ttl=settings.rebuild.lock_ttl,
    )


def document_store_options(settings: Settings) -> dict[str, Any]:
    """Of the vault beside the store, for `open_document_store`."""
    if settings.coordination.backend == "postgres":
        return {"backend": "postgres"} | persister_options(settings)
    redis = settings.redis
    return {
        "backend": "redis",
        "url": redis.url.get_secret_value(),
        "prefix": redis.key_prefix,
        "encoding": redis.encoding,
        "stage_ttl": _stage_ttl(settings),
    }


def persister_options(settings: Settings) -> dict[str, Any]:
    """Of the vault in Postgres, whoever coordinates: the arguments of `PostgresDocumentStore`."""
    return {
        "dsn": settings.postgres.dsn.get_secret_value(),
        "prefix": settings.redis.key_prefix,
        "stage_ttl": _stage_ttl(settings),
    }


def _stage_ttl(settings: Settings) -> float:
    """Longer than any build whose commit could still be accepted."""
    return settings.rebuild.timeout + settings.rebuild.lock_ttl


def open_document_store(backend: str, **options: Any) -> DocumentStore:
    return PostgresDocumentStore(**options) if backend == "postgres" else RedisDocumentStore(**options)
