"""What coordinates, the world that makes, and the faults it has."""

from dataclasses import dataclass

from tests.chaos import faults
from tests.chaos.faults import Fault
from tests.chaos.world import ArchivedWorld, PostgresWorld, RedisWorld, World


@dataclass(frozen=True)
class Backend:
    world: type[World]
    faults: list[Fault]


BACKENDS = {
    "redis": Backend(RedisWorld, faults.REDIS),
    "archived": Backend(ArchivedWorld, faults.ARCHIVED),
    "postgres": Backend(PostgresWorld, faults.POSTGRES),
}
"`archived` is Redis with `cache.persist`."
