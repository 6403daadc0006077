"""Findings: problems in a platform's data, each with the table, the number of rows and the ids of some of them."""

from dataclasses import dataclass, field

MAX_EXAMPLES = 5
"How many ids a finding lists."
MAX_ID_CHARACTERS = 100
"The length to which an id in a log line is cut."


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of some rows of a table. The builder sends it to the daemon as JSON."""

    table: str
    problem: str
    "What is wrong, how scoreboardd handles it, and how to fix it."
    rows: int
    "How many rows are affected. 0 if the problem concerns the table as a whole."
    ids: tuple[str, ...]
    "The ids of some of the rows."
    is_altered: bool
    "Whether the rows are left out, or shown with other values than in the database."
    source: str = "postgres"
    "What was read: the beginning of the line."

    def __str__(self) -> str:
        """Return the finding as one line for the operator."""
        if not self.rows:
            return f"{self.source}: {self.table}: {self.problem}"
        more = ", ..." if self.rows > len(self.ids) else ""
        ids = f", id {', '.join(self.ids)}{more}" if self.ids else ""
        return f"{self.source}: {self.table}: {self.rows} row{'s' * (self.rows > 1)}{ids}: {self.problem}"


@dataclass(slots=True)
class Findings:
    """Collects findings. Rows of the same table with the same problem become one finding with a few examples."""

    source: str = "postgres"
    _found: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(self, table: str, problem: str, id: object = None, *, rows: int = 1, is_altered: bool = True) -> None:
        """Count `rows` more rows with this problem. `id` is the id of one of them, if it is known."""
        before = self._found.get((table, problem))
        ids = before.ids if before else ()
        if id is not None and len(ids) < MAX_EXAMPLES:
            ids = (*ids, printable(str(id)))
        rows += before.rows if before else 0
        self._found[table, problem] = Finding(table, problem, rows, ids, is_altered, self.source)

    @property
    def all(self) -> list[Finding]:
        """Every finding so far."""
        return list(self._found.values())


def printable(text: str) -> str:
    """Return `text` for use in a log line: cut to `MAX_ID_CHARACTERS`, with U+FFFD for unprintable characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:MAX_ID_CHARACTERS])
