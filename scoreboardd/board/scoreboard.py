"""The documents of a contest, kept up to date solve by solve.

Made from rows it is complete; `add` then costs what the solves change, and gives documents equal to the byte to those
made anew from all rows. An exception from either leaves it in pieces: throw it away and make another.
"""

from collections.abc import Iterator
from hashlib import blake2b

import zstandard

from scoreboardd.board.contest import Contest
from scoreboardd.board.documents import leaderboard_key, timeline_key
from scoreboardd.board.rows import Rows, Solves
from scoreboardd.board.sheet import Piece
from scoreboardd.board.standings import Standings
from scoreboardd.compression import LEVEL


class Document(tuple[Piece, ...]):
    """One document of one version, in pieces. Versions share what they have in common."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """Bytes of the plain text."""
        return sum(piece.size for piece in self)

    @property
    def digest(self) -> bytes:
        """Of equal documents alike, as long as the zstd library is the same."""
        return blake2b(b"".join([piece.digest for piece in self]), digest_size=16).digest()

    def text(self) -> Iterator[bytes]:
        """The plain text, piece by piece."""
        decompressor = zstandard.ZstdDecompressor()
        return (decompressor.decompress(piece.frame) for piece in self)

    def joined(self) -> bytes:
        """The document as zstd."""
        return b"".join([piece.frame for piece in self])


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
        self.documents = dict(self._collected())

    @property
    def size(self) -> int:
        """Bytes of the plain text of all documents."""
        return sum(document.size for document in self.documents.values())

    def joined(self) -> list[tuple[str, bytes]]:
        """Every document as zstd, whole."""
        return [(name, document.joined()) for name, document in self.documents.items()]

    @property
    def digest(self) -> str:
        """Over all documents: equal digests, equal documents."""
        digest = blake2b()
        for name, document in self.documents.items():
            digest.update(name.encode() + document.digest)
        return digest.hexdigest()

    def _collected(self) -> Iterator[tuple[str, Document]]:
        for division_id, standings in self._standings.items():
            for owner, leaderboard, timeline in standings.documents():
                yield leaderboard_key(owner, division_id), Document(leaderboard)
                yield timeline_key(owner, division_id), Document(timeline)
