"""The registry's entry of the Postgres backend."""

from typing import TYPE_CHECKING, Any

from scoreboardd.backends.base import Backend, stage_ttl_seconds
from scoreboardd.backends.postgres.cluster import PostgresClusterBackend
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.cache.document_cache import CacheTier

if TYPE_CHECKING:
    from scoreboardd.config import Settings


def _open(settings: "Settings") -> PostgresClusterBackend:
    return PostgresClusterBackend(
        settings.postgres.dsn.get_secret_value(),
        prefix=settings.redis.key_prefix,
        lock_ttl=settings.rebuild.lock_ttl,
    )


def _document_store_options(settings: "Settings") -> dict[str, Any]:
    return {
        "dsn": settings.postgres.dsn.get_secret_value(),
        "prefix": settings.redis.key_prefix,
        "stage_ttl": stage_ttl_seconds(settings),
    }


POSTGRES = Backend(
    name="postgres",
    tier=CacheTier.POSTGRES,
    persisted=False,
    receives_notify=True,
    is_shared=True,
    max_prefix_length=40,  # channel names have at most 63 bytes
    open_cluster_backend=_open,
    document_store_options=_document_store_options,
    open_document_store=PostgresDocumentStore,
)
