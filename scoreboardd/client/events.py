"""`text/event-stream`, from bytes in any pieces to events."""

from typing import NamedTuple

MOST = 8 * 1024 * 1024
"Bytes that one event may have; a change that is larger than some kilobytes is no delta but a reset."


class TooLong(ValueError):
    """An event is longer than `MOST`."""


class Event(NamedTuple):
    id: str
    name: str
    data: bytes


class Parser:
    """Lines end in LF or CRLF. An event without data is none."""

    retry: float | None = None
    "Seconds to wait before connecting again, as the server said last."

    def __init__(self) -> None:
        self._line = bytearray()
        "What there is of a line that has not ended."
        self._fields: dict[bytes, bytes] = {}
        self._data: list[bytes] = []
        self._length = 0
        "Of the data."

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Raises `TooLong`."""
        events = []
        rest, *lines = chunk.split(b"\n")
        self._line += rest
        for following in lines:
            event = self._end(bytes(self._line.removesuffix(b"\r")))
            if event is not None:
                events.append(event)
            self._line[:] = following
        if len(self._line) + self._length > MOST:
            raise TooLong(f"an event of more than {MOST} bytes")
        return events

    def _end(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._length += len(value)
        elif field in (b"id", b"event"):
            self._fields[field] = value
        elif field == b"retry" and value.isdigit() and len(value) < 10:
            self.retry = int(value) / 1000
        return None

    def _dispatch(self) -> Event | None:
        fields, data = self._fields, self._data
        self._fields, self._data, self._length = {}, [], 0
        if not data:
            return None
        id, name = (fields.get(field, default).decode(errors="replace") for field, default in _DEFAULTS.items())
        return Event(id, name, b"\n".join(data))


_DEFAULTS = {b"id": b"", b"event": b"message"}
