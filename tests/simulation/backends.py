"""The worlds a cluster may live in: what is true on one backend and not on another, as data.

`redis` is a store and a bus beside the database. `archived` is the same with `cache.persist`: Postgres keeps an edition
for a day without Redis. `postgres` is one server for everything: what befalls it befalls all at once.
`local` is a file and the one node that uses it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from tests.simulation import faults
from tests.simulation.faults import Calamity, Faults


@dataclass(frozen=True, slots=True)
class Backend:
    name: str
    draw: Callable[[Random], Faults]
    harmless: tuple[Calamity, ...]
    "To what the store and the database have."
    harmful: tuple[Calamity, ...]
    one_server: bool = False
    "The database is in the store: they are out of reach, down, and taken back in time together."
    transactions: bool = False
    """A request is a statement that may take its time. Its clock stands still, what it sees is what there was when it
    began, and if what it changes was changed meanwhile it is run again, if its client still waits; a client that waits
    no more does not stop it. Whoever reads documents reads them all from one state."""
    sends_again: bool = True
    "The client library sends a request again when its connection breaks, so that it may be done twice."
    restarts_as_another: bool = True
    "A server that restarts is another run of it, even if it has lost nothing."
    triggers: bool = False
    "The database may publish by itself, in the step that makes a change visible."
    one_node: bool = False
    "The store and the bus are within the one node's machine, so no request and no message is lost between them."
    archive: bool = False
    "What is served is kept outside the store, and a node that starts with nothing begins from it."


REDIS = Backend(
    "redis",
    draw=faults.draw,
    harmless=faults.HARMLESS_TO_DATA,
    harmful=(faults.restart_empty, faults.flush, faults.fail_over, faults.fail_over),
)
ARCHIVED = replace(REDIS, name="archived", archive=True)
POSTGRES = Backend(
    "postgres",
    draw=faults.draw_for_one_connection,
    harmless=(*faults.HARMLESS_TO_DATA, faults.fail_over_in_step),
    harmful=(faults.restart_empty, faults.flush, faults.fail_over, faults.fail_over_silently),
    one_server=True,
    transactions=True,
    sends_again=False,
    restarts_as_another=False,
    triggers=True,
)
LOCAL = Backend(
    "local",
    draw=faults.draw_for_one_process,
    harmless=(faults.crash, faults.stop, faults.freeze, faults.part_from_database, faults.hold_for_long, faults.damage),
    harmful=(faults.flush, faults.flush),
    sends_again=False,
    restarts_as_another=False,
    one_node=True,
)
BACKENDS = {backend.name: backend for backend in (REDIS, ARCHIVED, POSTGRES, LOCAL)}
