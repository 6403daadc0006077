"""Which backend a configuration asks for. The daemon's loop opens the store; its builder child opens the vault, from
options that travel as JSON."""

from typing import Any

from scoreboardd.backends.base import Store, Vault
from scoreboardd.backends.postgres.backend import PostgresStore, PostgresVault
from scoreboardd.backends.redis.backend import RedisStore, RedisVault
from scoreboardd.config import Settings


def open_store(settings: Settings) -> Store:
    if settings.coordination.backend == "postgres":
        return open_table(settings)
    redis = settings.redis
    return RedisStore(
        redis.url.get_secret_value(),
        prefix=redis.key_prefix,
        lock_ttl=settings.rebuild.lock_ttl,
        encoding=redis.encoding,
    )


def open_table(settings: Settings) -> PostgresStore:
    """The store in Postgres, whoever coordinates."""
    return PostgresStore(
        settings.postgres.dsn.get_secret_value(),
        prefix=settings.redis.key_prefix,
        lock_ttl=settings.rebuild.lock_ttl,
    )


def vault_options(settings: Settings) -> dict[str, Any]:
    """Of the vault beside the store, for `open_vault`."""
    if settings.coordination.backend == "postgres":
        return {"backend": "postgres"} | archive_options(settings)
    redis = settings.redis
    return {
        "backend": "redis",
        "url": redis.url.get_secret_value(),
        "prefix": redis.key_prefix,
        "encoding": redis.encoding,
        "stage_ttl": _stage_ttl(settings),
    }


def archive_options(settings: Settings) -> dict[str, Any]:
    """Of the vault in Postgres, whoever coordinates: the arguments of `PostgresVault`."""
    return {
        "dsn": settings.postgres.dsn.get_secret_value(),
        "prefix": settings.redis.key_prefix,
        "stage_ttl": _stage_ttl(settings),
    }


def _stage_ttl(settings: Settings) -> float:
    """Longer than any build whose commit could still be accepted."""
    return settings.rebuild.timeout + settings.rebuild.lock_ttl


def open_vault(backend: str, **options: Any) -> Vault:
    return PostgresVault(**options) if backend == "postgres" else RedisVault(**options)
