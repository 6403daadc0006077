"""Moments, as numbers and as the documents have them."""

from datetime import UTC, datetime, timedelta

#: Microseconds since 1970-01-01T00:00:00Z, the precision of a PostgreSQL `timestamptz`.
Micros = int

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(at: Micros) -> str:
    """UTC with `Z`; at most six fraction digits, trailing zeros trimmed, no fraction when it is zero."""
    text = (_UNIX_EPOCH + timedelta(microseconds=at)).isoformat()[:-6]
    return (text.rstrip("0") if "." in text else text) + "Z"


def micros(text: str) -> Micros:
    """The inverse of `rfc3339`."""
    return (datetime.fromisoformat(text) - _UNIX_EPOCH) // timedelta(microseconds=1)
