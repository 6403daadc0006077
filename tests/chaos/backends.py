"""What coordinates, the world that makes, and the faults it has."""

from dataclasses import dataclass

from tests.chaos import faults
from tests.chaos.faults import Fault
from tests.chaos.world import ArchivedWorld, LocalWorld, PostgresWorld, RedisWorld, World


@dataclass(frozen=True)
class Backend:
    world: type[World]
    faults: list[Fault]
    most_nodes: int | None = None


BACKENDS = {
    "redis": Backend(RedisWorld, faults.REDIS),
    "archived": Backend(ArchivedWorld, faults.ARCHIVED),
    "postgres": Backend(PostgresWorld, faults.POSTGRES),
    "local": Backend(LocalWorld, faults.LOCAL, most_nodes=1),
}
"`archived` is Redis with `cache.persist`."
