"""Editions as the builder delivers them: documents in a real parcel."""

import time
from collections.abc import Mapping
from typing import Any

import orjson

from scoreboardd.board.documents import keys, ring_key
from scoreboardd.board.ring import Ring
from scoreboardd.builder.parcel import Parcel, pack
from scoreboardd.compression import compressed
from scoreboardd.edition import Edition, Version
from tests.board.expected import rendered
from tests.contests import to_rows
from tests.oracle import Tables


def edition(
    version: Version,
    documents: Mapping[str, Any] | None = None,
    *,
    divisions: tuple[int, ...] = (),
    rings: Mapping[int | None, Ring] | None = None,
    as_of: float | None = None,
) -> Edition:
    """`documents` by name, as `bytes` or whatever JSON can say; small ones that tell each other apart stand in for
    those not given. `rings` by division, None for everyone; those not given are empty. `as_of` is Unix time, now by
    default."""
    given: dict[str, Any] = {name: {"name": name, "version": str(version)} for name in keys(divisions)}
    for division_id in (None, *divisions):
        given[ring_key(division_id)] = (rings or {}).get(division_id, Ring()).text()
    given |= documents or {}
    bodies = {name: body if isinstance(body, bytes) else orjson.dumps(body) for name, body in given.items()}
    return Edition(version, time.time() if as_of is None else as_of, divisions, str(version), parcel(bodies))


def edition_of(version: Version, tables: Tables) -> Edition:
    """What the real path makes of these tables."""
    rows = to_rows(tables)
    return Edition(version, time.time(), tuple(rows.roster.divisions), str(version), parcel(rendered(rows)))


def parcel(texts: Mapping[str, bytes]) -> Parcel:
    return Parcel(*pack([(name, [compressed(text)]) for name, text in texts.items()]))
