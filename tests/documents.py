"""Documents of few pieces, for whoever stages or keeps some and does not care how they are cut."""

import zstandard

from scoreboardd.board.scoreboard import Document
from scoreboardd.board.sheet import Piece
from scoreboardd.compression import LEVEL

_COMPRESSOR = zstandard.ZstdCompressor(level=LEVEL)


def document(*texts: bytes) -> Document:
    """A piece for each of the texts."""
    return Document(Piece(text, _COMPRESSOR) for text in texts)
