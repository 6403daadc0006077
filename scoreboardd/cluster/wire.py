"""What is said on the bus, as bytes: three channels of small JSON objects (protocol §3 and §4).

`scoreboard.events` and `scoreboard.rebuilt` are read and written by platforms and tools too. `scoreboard.building` is
the daemon's own, written by the scripts beside this file: `{"state": "begun" | "confirmed" | "abandoned", "epoch": …,
"version": …}`, if confirmed with `"committed": "<epoch>-<version>", "as_of": <Unix time>`.

Whatever arrives on `scoreboard.events` counts as a change; nothing that arrives anywhere raises.
"""

from typing import Any

import orjson

from scoreboardd.backends.base import Abandoned, Begun, Changed, Confirmed, Rebuilt
from scoreboardd.model import MAX_DIVISION_IDS, UPDATED, ChangeEvent, Version, now_rfc3339

EVENTS = "scoreboard.events"
BUILDING = "scoreboard.building"
REBUILT = "scoreboard.rebuilt"
ECHO = "scoreboard.echo"
"Where a node publishes a random mark, to hear whether its subscription is on the server that takes its commands."

REQUEST_ID = "scoreboardd_request"
"""Field of an event that a node published to ask for a rebuild. Platforms have fields of their own, such as `id`, which
mean nothing to us."""

MAX_PAYLOAD = 16 * 1024
"Bytes. A longer payload is not looked into."
MAX_FIELD = 256
"Characters. A longer field counts as missing: so what we say ourselves fits into the 8,000 bytes of a NOTIFY."
MAX_DIVISION_ID = 2**53 - 1
"The largest number that JavaScript holds exactly."


def changed(payload: bytes) -> Changed:
    fields = _object(payload)
    return Changed(_event(fields or {}), _field(fields or {}, REQUEST_ID), readable=fields is not None)


def change(event: ChangeEvent, id: str | None) -> bytes:
    return orjson.dumps(event.as_dict() if id is None else event.as_dict() | {REQUEST_ID: id})


def building(payload: bytes) -> Begun | Confirmed | Abandoned | None:
    fields = _object(payload) or {}
    version = _version(fields)
    match fields:
        case {"state": "begun"} if version is not None:
            return Begun(version)
        case {"state": "confirmed", "committed": str(text), "as_of": int() | float() as as_of} if version is not None:
            committed = Version.parse(text)
            return Confirmed(version, committed, float(as_of)) if committed is not None else None
        case {"state": "abandoned"} if version is not None:
            return Abandoned(version)
    return None


def rebuilt(payload: bytes) -> Rebuilt | None:
    fields = _object(payload) or {}
    number = _number(fields)
    return None if number is None else Rebuilt(number, _event(fields))


def announcement(version: Version, event: ChangeEvent) -> bytes:
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


def _version(fields: dict[str, Any]) -> Version | None:
    epoch, number = _field(fields, "epoch"), _number(fields)
    return None if epoch is None or number is None else Version.parse(f"{epoch}-{number}")


def _number(fields: dict[str, Any]) -> int | None:
    number = fields.get("version")
    return number if type(number) is int and number > 0 else None


def _event(fields: dict[str, Any]) -> ChangeEvent:
    return ChangeEvent(
        scope=_field(fields, "scope") or "all",
        reason=_field(fields, "reason") or UPDATED,
        ts=_field(fields, "ts") or now_rfc3339(),
        division_ids=_division_ids(fields),
    )


def _division_ids(fields: dict[str, Any]) -> tuple[int, ...] | None:
    """None, which is all divisions, unless the field is a short list of ids and nothing else."""
    ids = fields.get("division_ids")
    if not isinstance(ids, list) or not 0 < len(ids) <= MAX_DIVISION_IDS:
        return None
    if not all(type(id) is int and 0 < id <= MAX_DIVISION_ID for id in ids):
        return None
    return tuple(sorted(set(ids)))


def _field(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= MAX_FIELD else None
