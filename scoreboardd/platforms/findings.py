"""What a read finds odd about a platform's data: which table, what is wrong, how many rows, and the ids of some."""

from dataclasses import dataclass, field

MAX_EXAMPLES = 5
MAX_ID_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with some rows of a table. It travels as JSON from the builder to the daemon."""

    table: str
    problem: str
    "What is wrong, what is done about it, and how to fix it."
    rows: int
    "How many rows are concerned; 0: the table as a whole."
    ids: tuple[str, ...]
    "Of some of the rows."
    is_altered: bool
    "The rows are left out, or shown with other values than they have."

    def __str__(self) -> str:
        """One line for a person."""
        if not self.rows:
            return f"postgres: {self.table}: {self.problem}"
        more = ", ..." if self.rows > len(self.ids) else ""
        ids = f", id {', '.join(self.ids)}{more}" if self.ids else ""
        return f"postgres: {self.table}: {self.rows} row{'s' * (self.rows > 1)}{ids}: {self.problem}"


@dataclass(slots=True)
class Findings:
    """Collects findings, one for each table and problem, with a few examples."""

    _found: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(self, table: str, problem: str, id: object = None, *, rows: int = 1, is_altered: bool = True) -> None:
        """`id`: of one of the `rows`, if it is known."""
        before = self._found.get((table, problem))
        ids = before.ids if before else ()
        if id is not None and len(ids) < MAX_EXAMPLES:
            ids = (*ids, printable(str(id)))
        rows += before.rows if before else 0
        self._found[table, problem] = Finding(table, problem, rows, ids, is_altered)

    @property
    def all(self) -> list[Finding]:
        return list(self._found.values())


def printable(text: str) -> str:
    """`text` as it may stand in a line of the log."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:MAX_ID_CHARACTERS])
