"""How a document lies in a value of the store, so that its next version can be written over what differs.

- A value is a row of *slots*. A slot is the frame of a piece and the room behind it, which is a skippable frame
  (RFC 8878 §3.1.2) or nothing. So a value is valid zstd, whatever its slots hold, as long as they tile it.
- Room is zeros but for its header: nothing that was once in a document stays behind. So a value is a matter of its
  layout and its pieces alone, however it came about.
- What is new takes the slots of what it replaces. If it does not fit it takes the neighbours behind as well, and moves
  them. The last slot has room for a document that grows at its end. A value never gets longer: then it is made anew.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scoreboardd.board.contest import Ints
from scoreboardd.render.chunk_diff import Run, differing
from scoreboardd.render.chunked_document import Document, Segment

SPARE_BYTES_PER_SEGMENT = 160
"Free bytes behind each segment, of some thousand bytes, in a new value."
TAIL_DIVISOR = 32
"A new value has a free tail of its used bytes divided by this."
MAX_NEIGHBOUR_SLOTS = 64
"Following slots that one change may move. If it needs more, free bytes are short everywhere."
MAX_PATCH_DIVISOR = 2
"A patch of more bytes than the value's size divided by this is no better than a new value."

_MAGIC = b"\x50\x2a\x4d\x18"
_HEADER = len(_MAGIC) + 4

SLOT = np.dtype([("used", np.int64), ("room", np.int64)])
"Where one piece is: `used` bytes are its frame's; `room`, behind them, is 0 or at least a header's."
Slots = NDArray[Any]
"An array of `SLOT`."
Write = tuple[int, bytes]
"An offset in the value, and what to put there."


class Layout(NamedTuple):
    """The slots of a value, in order, one for each piece of the document, and the digests of those."""

    slots: Slots
    digests: bytes


def size(layout: Layout) -> int:
    """Returns the length of the value, in bytes."""
    return int(_ends(layout.slots)[-1])


def new_layout(document: Document) -> Layout:
    """Returns the layout of a new value."""
    segments = document.segments
    return Layout(
        _slots(segments, SPARE_BYTES_PER_SEGMENT * len(segments) + _used(segments) // TAIL_DIVISOR),
        document.segment_digests,
    )


def value(layout: Layout, document: Document) -> bytes:
    """Returns the bytes of a value with this layout that holds this document."""
    return _filled(layout.slots, document.segments)


def patch(layout: Layout, document: Document) -> tuple[Layout, list[Write]] | None:
    """Returns how to make a value with this layout hold this document: the new layout, and the writes. Returns None if
    a new value costs less. The time grows with what differs."""
    slots, segments, digests = layout.slots, document.segments, document.segment_digests
    offsets = np.append(0, _ends(slots))
    left = int(offsets[-1]) // MAX_PATCH_DIVISOR
    patched: list[Slots] = []
    writes: list[Write] = []
    kept = 0
    runs = deque(differing(layout.digests, digests))
    while runs:
        fitted = _fitted(runs, offsets, segments)
        if fitted is None:
            return None
        (start, end, first, last), spare = fitted
        fresh = _slots(segments[first:last], spare)
        written = _filled(fresh, segments[first:last])
        # At the end is what was zeros before, behind the old frame, and is zeros still, behind the new one.
        zeros = max(0, min(int(slots["room"][end - 1]), int(fresh["room"][-1])) - _HEADER)
        writes.append((int(offsets[start]), written[: len(written) - zeros]))
        left -= len(written) - zeros
        if left < 0:
            return None
        patched += [slots[kept:start], fresh]
        kept = end
    return Layout(np.concatenate([*patched, slots[kept:]]), digests), writes


def _ends(slots: Slots) -> Ints:
    """Returns the offset at which each slot ends, in bytes."""
    return np.cumsum(slots["used"] + slots["room"])


def _filled(slots: Slots, segments: Sequence[Segment]) -> bytes:
    parts = []
    for room, segment in zip(slots["room"].tolist(), segments, strict=True):
        parts.append(segment.frame)
        if room:
            parts.append((_MAGIC + (room - _HEADER).to_bytes(4, "little")).ljust(room, b"\0"))
    return b"".join(parts)


def _fitted(runs: deque[Run], offsets: Ints, segments: Sequence[Segment]) -> tuple[Run, int] | None:
    """Takes the next run and as many following slots as it needs. Returns it, and its free bytes."""
    start, end, first, last = runs.popleft()
    spare = int(offsets[end] - offsets[start]) - _used(segments[first:last])
    limit = min(end + MAX_NEIGHBOUR_SLOTS, len(offsets) - 1)
    while first == last or not (spare == 0 or spare >= _HEADER):
        if runs and runs[0].start == end:
            *_, next_end, _, next_last = runs.popleft()
        elif end < limit:
            next_end, next_last = end + 1, last + 1
        else:
            return None
        spare += int(offsets[next_end] - offsets[end]) - _used(segments[last:next_last])
        end, last = next_end, next_last
    return Run(start, end, first, last), spare


def _slots(segments: Sequence[Segment], spare: int) -> Slots:
    """Slots for these pieces with so many bytes to spare: shared out alike, but to none more than it has in a new
    value. What is over goes to the last."""
    share = min(spare // len(segments), SPARE_BYTES_PER_SEGMENT)
    share = share if share >= _HEADER else 0
    slots = np.empty(len(segments), SLOT)
    slots["used"] = [len(segment.frame) for segment in segments]
    slots["room"] = share
    slots["room"][-1] = spare - share * (len(segments) - 1)
    return slots


def _used(segments: Sequence[Segment]) -> int:
    return sum(len(segment.frame) for segment in segments)
