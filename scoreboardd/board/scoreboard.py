"""The documents of a contest, kept up to date solve by solve.

Made from rows it is complete; `add` then costs what the solves change, and gives documents equal to the byte to those
made anew from all rows. An exception from either leaves it in pieces: throw it away and make another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import zstandard

from scoreboardd.board.contest import Contest
from scoreboardd.board.rows import Rows, Solves
from scoreboardd.board.sheet import DIGEST, LEVEL, Piece
from scoreboardd.board.standings import Standings


@dataclass(frozen=True, slots=True)
class Document:
    """One document of one version, in pieces. Versions share what they have in common."""

    opening: Piece
    chunks: Sequence[Piece]
    closing: Piece
    digests: bytes
    "Those of the chunks."

    def __iter__(self) -> Iterator[Piece]:
        return chain((self.opening,), self.chunks, (self.closing,))

    def __len__(self) -> int:
        return 2 + len(self.chunks)

    @property
    def size(self) -> int:
        """Bytes of the plain text."""
        return sum(piece.size for piece in self)

    def text(self) -> Iterator[bytes]:
        """The plain text, piece by piece."""
        decompressor = zstandard.ZstdDecompressor()
        return (decompressor.decompress(piece.frame) for piece in self)


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
    def digest(self) -> str:
        """Over all documents. Equal digests, equal documents; and the other way, if the zstd libraries are equal."""
        digest = blake2b(digest_size=DIGEST)
        for name, document in self.documents.items():
            digest.update(b"%d:%b" % (len(document.digests), name.encode()))
            digest.update(document.opening.digest)
            digest.update(document.digests)
        return digest.hexdigest()

    def _collected(self) -> Iterator[tuple[str, Document]]:
        for division_id, standings in self._standings.items():
            for key, owner, opening, sheet, closing in standings.documents():
                yield key(owner, division_id), Document(opening, sheet.chunks, closing, sheet.digests)
