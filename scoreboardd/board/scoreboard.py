"""The documents of a contest, kept up to date solve by solve.

A new `ScoreboardState` has all rows. `add` then costs only what the addition changes, and its documents equal those
made from all rows, to the byte. After an exception the state is inconsistent: drop it and make a new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

import orjson
import zstandard

from scoreboardd.board.contest import Contest
from scoreboardd.board.delta import Delta
from scoreboardd.board.document_names import DIVISIONS
from scoreboardd.board.rules import Rules
from scoreboardd.board.source_rows import OWNED_SOLVE, Adjustments, ChallengeRow, Solves, SourceRows
from scoreboardd.board.standings import Change, Standings
from scoreboardd.render.chunked_document import Document
from scoreboardd.system.compression import DIGEST_BYTES, LEVEL

Deltas = Mapping[int | None, Delta]
"What changed on each division's boards; None stands for everyone."


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """What can be added to a scoreboard without making a new one."""

    solves: Solves
    "New ones, in any order; some may be known already."
    adjustments: Adjustments | None = None
    "New ones only."
    challenges: list[ChallengeRow] | None = None
    "All challenges, if some of them have other points; all else is as before."


class ScoreboardState:
    """The boards of everyone and of each division. For one thread at a time; its documents may be shared."""

    def __init__(self, rows: SourceRows, rules: Rules = Rules()) -> None:  # noqa: B008  immutable
        self.roster = rows.roster
        self._contest = Contest(rows.roster, rules.order, sequenced=rows.solves.dtype == OWNED_SOLVE)
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        self._standings = {
            division_id: Standings(self._contest, rules, division_id, compressor, adjusted=rows.adjustments is not None)
            for division_id in (None, *rows.roster.division_ids)
        }
        self._divisions = Document.of(orjson.dumps([division._asdict() for division in rows.roster.divisions]))
        self.documents: dict[str, Document] = {}
        "Every document by name, without the delta logs. A change replaces this dict and never modifies it."
        self._change(Addition(rows.solves, rows.adjustments))

    def add(self, addition: Addition) -> Deltas:
        """Add what is new. Returns what changed."""
        return {division_id: change.delta() for division_id, change in self._change(addition).items()}

    def _change(self, addition: Addition) -> dict[int | None, Change]:
        if addition.challenges is not None:
            self._contest.replace_points(addition.challenges)
            self.roster = replace(self.roster, challenges=addition.challenges)
        solve_changes = self._contest.solve_changes(addition.solves)
        adjustments = self._contest.adjustments(addition.adjustments)
        changes = {
            division_id: standings.change(solve_changes, adjustments)
            for division_id, standings in self._standings.items()
        }
        self._contest.apply(solve_changes, adjustments)
        for change in changes.values():
            change.print()
        self.documents = {
            name: document for standings in self._standings.values() for name, document in standings.documents()
        } | {DIVISIONS: self._divisions}
        return changes

    @property
    def size(self) -> int:
        """Bytes of the plain text of all documents."""
        return sum(document.size for document in self.documents.values())

    @property
    def digest(self) -> str:
        """A hash over all documents: equal digests mean equal documents. The reverse holds for equal zstd libraries."""
        return digest_of_documents(self.documents)


def digest_of_documents(documents: Mapping[str, Document]) -> str:
    """A hash over all `documents`: equal digests mean equal documents. The reverse holds for equal zstd libraries."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for name, document in documents.items():
        digest.update(b"%d:%b" % (len(document.digests), name.encode()))
        digest.update(document.opening.digest)
        digest.update(document.digests)
    return digest.hexdigest()
