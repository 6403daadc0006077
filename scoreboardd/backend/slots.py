"""How a document lies in a value of the store, so that its next version can be written over what differs.

- A value is a row of *slots*. A slot is the frame of a piece and the room behind it, which is a skippable frame
  (RFC 8878 §3.1.2) or nothing. So a value is valid zstd, whatever its slots hold, as long as they tile it.
- Room is zeros but for its header: nothing that was once in a document stays behind. So a value is a matter of its
  layout and its pieces alone, however it came about.
- What is new takes the slots of what it replaces. If it does not fit it takes the neighbours behind as well, and moves
  them. The last slot has room for a document that grows at its end. A value never gets longer: then it is made anew.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from scoreboardd.board.sheet import Piece

ROOM = 160
"Bytes behind each piece, of some thousands, in a new value."
TAIL = 32
"A new value has one part in so many more at its end."
REACH = 64
"Slots that one change may take from its neighbours. If it needs more, room has become short all over."
MOST = 2
"To write more than one part in so many of a value is hardly better than to write it whole."

_MAGIC = b"\x50\x2a\x4d\x18"
_HEADER = len(_MAGIC) + 4


class Slot(NamedTuple):
    """Where one piece is: `used` bytes are its frame's; `room`, behind them, is 0 or at least a header's."""

    digest: bytes
    used: int
    room: int


Layout = list[Slot]
"The slots of a value, in order, one for each piece of the document."
Write = tuple[int, bytes]
"An offset in the value, and what to put there."


class Run(NamedTuple):
    """Slots, from `start` to `end`, that are to hold the pieces from `first` to `last`."""

    start: int
    end: int
    first: int
    last: int


def size(layout: Layout) -> int:
    """Bytes of the value."""
    return sum(slot.used + slot.room for slot in layout)


def lay(pieces: Sequence[Piece]) -> Layout:
    """The slots of a new value. There must be a piece at least."""
    return _slots(pieces, ROOM * len(pieces) + _used(pieces) // TAIL)


def value(layout: Layout, pieces: Sequence[Piece]) -> bytes:
    """The bytes of these slots, holding these pieces."""
    parts = []
    for slot, piece in zip(layout, pieces, strict=True):
        parts.append(piece.frame)
        if slot.room:
            parts.append((_MAGIC + (slot.room - _HEADER).to_bytes(4, "little")).ljust(slot.room, b"\0"))
    return b"".join(parts)


def patch(layout: Layout, pieces: Sequence[Piece]) -> tuple[Layout, list[Write]] | None:
    """How to make a value that is laid out like this hold these pieces: its layout then, and what to write. None if it
    had better be made anew. Takes what differs, and a quick pass over the rest."""
    offsets = [0, *accumulate(slot.used + slot.room for slot in layout)]
    left = offsets[-1] // MOST
    patched: Layout = []
    writes: list[Write] = []
    kept = 0
    runs = deque(_differing(layout, pieces))
    while runs:
        fitted = _fitted(runs, offsets, pieces)
        if fitted is None:
            return None
        (start, end, first, last), spare = fitted
        slots = _slots(pieces[first:last], spare)
        written = value(slots, pieces[first:last])
        # At the end is what was zeros before, behind the old frame, and is zeros still, behind the new one.
        zeros = max(0, min(layout[end - 1].room, slots[-1].room) - _HEADER)
        writes.append((offsets[start], written[: len(written) - zeros]))
        left -= len(written) - zeros
        if left < 0:
            return None
        patched += layout[kept:start]
        patched += slots
        kept = end
    patched += layout[kept:]
    return patched, writes


def _differing(layout: Layout, pieces: Sequence[Piece]) -> Iterator[Run]:
    places = {slot.digest: place for place, slot in enumerate(layout)}
    start = first = 0
    for number, piece in enumerate(pieces):
        place = places.get(piece.digest, -1)
        if place < start:
            continue  # it is new; or it is in another order, which is not worth more than that
        if place > start or number > first:
            yield Run(start, place, first, number)
        start, first = place + 1, number + 1
    if start < len(layout) or first < len(pieces):
        yield Run(start, len(layout), first, len(pieces))


def _fitted(runs: deque[Run], offsets: list[int], pieces: Sequence[Piece]) -> tuple[Run, int] | None:
    """The next of the runs with as many slots behind it as it takes, and the bytes it then has to spare."""
    start, end, first, last = runs.popleft()
    spare = offsets[end] - offsets[start] - _used(pieces[first:last])
    limit = min(end + REACH, len(offsets) - 1)
    while first == last or not (spare == 0 or spare >= _HEADER):
        if runs and runs[0].start == end:
            *_, next_end, _, next_last = runs.popleft()
        elif end < limit:
            next_end, next_last = end + 1, last + 1
        else:
            return None
        spare += offsets[next_end] - offsets[end] - _used(pieces[last:next_last])
        end, last = next_end, next_last
    return Run(start, end, first, last), spare


def _slots(pieces: Sequence[Piece], spare: int) -> Layout:
    """Slots for these pieces with so many bytes to spare: shared out alike, but to none more than it has in a new
    value. What is over goes to the last."""
    share = min(spare // len(pieces), ROOM)
    share = share if share >= _HEADER else 0
    slots = [Slot(piece.digest, len(piece.frame), share) for piece in pieces]
    slots[-1] = slots[-1]._replace(room=spare - share * (len(pieces) - 1))
    return slots


def _used(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.frame) for piece in pieces)
