"""`text/event-stream`, from bytes in any pieces to events, as the WHATWG HTML standard (section 9.2.6) interprets it.

The standard decodes the stream to text and splits that into lines. Here each line is decoded on its own, which gives
the same text: no byte of a multi-byte character is a CR or LF.
"""

from typing import NamedTuple

MOST = 8 * 1024 * 1024
"Bytes that a line, and the data of an event, may have; a change larger than some kilobytes is a reset, not a delta."

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class TooLong(ValueError):
    """A line or the data of an event is longer than `MOST`."""


class StreamEvent(NamedTuple):
    id: str
    "The last `id` that the stream sent, in this event's block or in an earlier one."
    name: str
    data: bytes
    "Well-formed UTF-8."


class Parser:
    retry: float | None = None
    "Seconds to wait before connecting again, as the server said last; inf if that is more than a float holds."

    def __init__(self) -> None:
        self._line = bytearray()
        "The beginning of a line whose end has not come."
        self._first_line = True
        self._after_cr = False
        "The last byte was a CR: an LF that comes now belongs to it."
        self._id = self._name = ""
        self._data: list[str] = []
        self._data_bytes = 0
        "Bytes of `_data`, with an LF for each line."

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """The events that `chunk` completes. Raises `TooLong`; the stream cannot be used after that."""
        events: list[StreamEvent] = []
        if not chunk:
            return events
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        for piece in chunk.splitlines(keepends=True):
            text = piece.rstrip(b"\r\n")
            self._line += text
            if len(self._line) > MOST:
                raise TooLong(f"a line of more than {MOST} bytes")
            if len(text) == len(piece):
                break  # the last piece, whose end has not come
            line = bytes(self._line)
            self._line.clear()
            if self._first_line:
                self._first_line, line = False, line.removeprefix(BYTE_ORDER_MARK)
            if line:
                self._process(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        return events

    def _process(self, line: bytes) -> None:
        """A line that is not empty. Comments have an empty name, and so are ignored as any unknown field is."""
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"data":
                self._data_bytes += len(value) + 1
                if self._data_bytes > MOST:
                    raise TooLong(f"an event of more than {MOST} bytes")
                self._data.append(value.decode(errors="replace"))
            case b"event":
                self._name = value.decode(errors="replace")
            case b"id" if b"\0" not in value:
                self._id = value.decode(errors="replace")
            case b"retry" if value.isdigit():
                self.retry = float(value) / 1000

    def _dispatch(self) -> StreamEvent | None:
        name, data = self._name, self._data
        self._name, self._data, self._data_bytes = "", [], 0
        return StreamEvent(self._id, name or "message", "\n".join(data).encode()) if data else None
