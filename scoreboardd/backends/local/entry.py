"""What the rest of the daemon has to know of the local backend."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scoreboardd.backends.base import Backend, stage_ttl_seconds
from scoreboardd.backends.local.cluster import LocalClusterBackend
from scoreboardd.backends.local.documents import LocalDocumentStore
from scoreboardd.cache.document_cache import CacheTier

if TYPE_CHECKING:
    from scoreboardd.config import Settings


def _open_cluster_backend(settings: "Settings") -> LocalClusterBackend:
    return LocalClusterBackend(Path(settings.cache.directory), prefix="", lock_ttl=settings.rebuild.lock_ttl)


def _document_store_options(settings: "Settings") -> dict[str, Any]:
    return {"directory": settings.cache.directory, "prefix": "", "stage_ttl": stage_ttl_seconds(settings)}


LOCAL = Backend(
    name="local",
    tier=CacheTier.LOCAL,
    persisted=False,
    receives_notify=True,  # by `events.postgres`
    is_shared=False,
    max_prefix_length=None,
    open_cluster_backend=_open_cluster_backend,
    document_store_options=_document_store_options,
    open_document_store=LocalDocumentStore,
)
