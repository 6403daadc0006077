"""What is said on the bus, as bytes: three channels of small JSON objects (contract §3 and §4).

`scoreboard.events` and `scoreboard.rebuilt` are read and written by platforms and tools too. `scoreboard.building` is
the daemon's own: `{"state": "begun" | "confirmed" | "abandoned", "epoch": …, "version": …, "as_of": …}`.

Whatever arrives on `scoreboard.events` counts as a change; nothing that arrives anywhere raises.
"""

from typing import Any

import orjson

from scoreboardd.backend.base import Abandoned, Begun, Changed, Confirmed, Rebuilt
from scoreboardd.edition import UPDATED, Event, Version, now_rfc3339

EVENTS = "scoreboard.events"
BUILDING = "scoreboard.building"
REBUILT = "scoreboard.rebuilt"

MAX_PAYLOAD = 16 * 1024
"Bytes. A longer payload is not looked into."
MAX_FIELD = 64
"Characters. A longer field counts as missing."


def changed(payload: bytes) -> Changed:
    fields = _object(payload)
    return Changed(_event(fields or {}), _field(fields or {}, "id"), readable=fields is not None)


def change(event: Event, id: str | None) -> bytes:
    return orjson.dumps(event.as_dict() if id is None else event.as_dict() | {"id": id})


def building(payload: bytes) -> Begun | Confirmed | Abandoned | None:
    fields = _object(payload) or {}
    match fields:
        case {"state": "begun", "epoch": str(epoch), "version": int(number)}:
            return Begun(Version(epoch, number))
        case {"state": "confirmed", "epoch": str(epoch), "version": int(number), "as_of": float(as_of)}:
            return Confirmed(Version(epoch, number), as_of)
        case {"state": "abandoned", "epoch": str(epoch), "version": int(number)}:
            return Abandoned(Version(epoch, number))
    return None


def confirmed(version: Version, as_of: float) -> bytes:
    return orjson.dumps(
        {"state": "confirmed", "epoch": version.epoch, "version": version.number, "as_of": float(as_of)}
    )


def abandoned(version: Version) -> bytes:
    return orjson.dumps({"state": "abandoned", "epoch": version.epoch, "version": version.number})


def rebuilt(payload: bytes) -> Rebuilt | None:
    fields = _object(payload) or {}
    match fields:
        case {"version": int(number)}:
            return Rebuilt(number, _event(fields))
    return None


def announcement(version: Version, event: Event) -> bytes:
    """What nodes tell each other on `scoreboard.rebuilt`, and clients as the data of a `scoreboard` event."""
    return orjson.dumps(event.as_dict() | {"version": version.number})


def _object(payload: bytes) -> dict[str, Any] | None:
    if len(payload) > MAX_PAYLOAD:
        return None
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None


def _event(fields: dict[str, Any]) -> Event:
    return Event(
        scope=_field(fields, "scope") or "all",
        reason=_field(fields, "reason") or UPDATED,
        ts=_field(fields, "ts") or now_rfc3339(),
    )


def _field(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= MAX_FIELD else None
