"""Documents in pieces, for whoever stages some and does not mind how they are cut."""

import zstandard

from scoreboardd.render.chunked_document import Document, Segment
from scoreboardd.system.compression import LEVEL

_COMPRESSOR = zstandard.ZstdCompressor(level=LEVEL)


def segments(*texts: bytes) -> list[Segment]:
    """One for each text."""
    return [Segment(text, _COMPRESSOR) for text in texts]


def document_of(*texts: bytes) -> Document:
    """Of these texts, one behind the other, a piece for each."""
    opening, *chunks, closing = segments(*texts) if len(texts) > 1 else segments(*texts, b"")
    return Document(opening, chunks, closing, b"".join(chunk.digest for chunk in chunks))
