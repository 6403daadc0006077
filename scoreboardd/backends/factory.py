"""The registry of backends. A new backend is a folder beside this file, its entry in `BACKENDS`, and its name in
`config.schema.Coordination`; `tests/backends/test_factory.py` compares the two."""

from typing import TYPE_CHECKING, Any

from scoreboardd.backends.base import Backend, ClusterBackend, DocumentStore
from scoreboardd.backends.local.entry import LOCAL
from scoreboardd.backends.postgres.entry import POSTGRES
from scoreboardd.backends.redis.entry import REDIS

if TYPE_CHECKING:
    from scoreboardd.config import Settings

BACKENDS = {backend.name: backend for backend in (REDIS, POSTGRES, LOCAL)}
PERSISTER = POSTGRES
"The backend whose document store outlives the others; `cache.persist` stores documents there."


def backend_of(settings: "Settings") -> Backend:
    """Returns the backend that the configuration selects."""
    return BACKENDS[settings.coordination.backend]


def open_cluster_backend(settings: "Settings") -> ClusterBackend:
    """Opens the cluster backend that the configuration selects."""
    return backend_of(settings).open_cluster_backend(settings)


def document_store_options(settings: "Settings") -> dict[str, Any]:
    """Returns the keyword arguments of `open_document_store`, as JSON takes them; secrets are among them."""
    backend = backend_of(settings)
    return {"backend": backend.name} | backend.document_store_options(settings)


def open_document_store(backend: str, **options: Any) -> DocumentStore:
    """Opens the document store of the backend of that name."""
    return BACKENDS[backend].open_document_store(**options)
