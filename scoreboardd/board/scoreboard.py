"""The documents of a contest, kept up to date solve by solve.

Made from rows it is complete; `add` then costs what the solves change, and gives documents equal to the byte to those
made anew from all rows. An exception from either leaves it in pieces: throw it away and make another.
"""

from hashlib import blake2b

import zstandard

from scoreboardd.board.contest import Contest
from scoreboardd.board.rows import Rows, Solves
from scoreboardd.board.sheet import DIGEST, Document
from scoreboardd.board.standings import Standings
from scoreboardd.compression import LEVEL


class Scoreboard:
    """Everyone's board and each division's. Not to be used by two threads at once; documents may be."""

    def __init__(self, rows: Rows) -> None:
        self.roster = rows.roster
        self._contest = Contest(rows.roster)
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        self._standings = {
            division_id: Standings(self._contest, division_id, compressor)
            for division_id in (None, *rows.roster.divisions)
        }
        self.documents: dict[str, Document] = {}
        "Every document as it is now, by the names of `documents.keys`. Replaced whole by `add`, never changed."
        self.add(rows.solves)

    def add(self, solves: Solves) -> None:
        """Solves that came since, in any order; some may be known."""
        news = self._contest.news(solves)
        printing = [standings.change(news) for standings in self._standings.values()]
        self._contest.apply(news)
        for each in printing:
            each()
        self.documents = {
            name: document for standings in self._standings.values() for name, document in standings.documents()
        }

    @property
    def size(self) -> int:
        """Bytes of the plain text of all documents."""
        return sum(document.size for document in self.documents.values())

    @property
    def digest(self) -> str:
        """Over all documents. Equal digests, equal documents; and the other way, if the zstd libraries are equal."""
        digest = blake2b(digest_size=DIGEST)
        for name, document in self.documents.items():
            digest.update(b"%d:%b" % (len(document.digests), name.encode()))
            digest.update(document.opening.digest)
            digest.update(document.digests)
        return digest.hexdigest()
