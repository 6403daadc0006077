"""Editions as the builder delivers them: documents in a real parcel."""

import os
import time
from collections.abc import Mapping
from typing import Any

import orjson

from scoreboardd.board.delta_log import DeltaLog
from scoreboardd.board.document_names import SETTINGS, delta_log_key, document_names
from scoreboardd.builder.shared_documents import Manifest, MemfdFile, SharedDocuments, pack
from scoreboardd.model import Snapshot, Version
from scoreboardd.system.compression import Frames, compressed
from tests.board.expected import rendered
from tests.contests import to_rows
from tests.oracle import Tables


def snapshot(
    version: Version,
    documents: Mapping[str, Any] | None = None,
    *,
    divisions: tuple[int, ...] = (),
    delta_logs: Mapping[int | None, DeltaLog] | None = None,
    as_of: float | None = None,
) -> Snapshot:
    """`documents` by name, as `bytes` or whatever JSON can say; small ones that tell each other apart stand in for
    those not given. `delta_logs` by division, None for everyone; those not given are empty. `as_of` is Unix time, now
    by default."""
    given: dict[str, Any] = {name: {"name": name, "version": str(version)} for name in document_names(divisions)}
    for division_id in (None, *divisions):
        given[delta_log_key(division_id)] = (delta_logs or {}).get(division_id, DeltaLog()).text()
    given |= documents or {}
    bodies = {name: body if isinstance(body, bytes) else orjson.dumps(body) for name, body in given.items()}
    return Snapshot(version, time.time() if as_of is None else as_of, divisions, str(version), shared_documents(bodies))


def edition_of(version: Version, tables: Tables) -> Snapshot:
    """What the real path makes of these tables."""
    rows = to_rows(tables)
    return Snapshot(
        version,
        time.time(),
        rows.roster.division_ids,
        str(version),
        shared_documents({**rendered(rows), SETTINGS: b"{}"}),
    )


def joined(documents: Mapping[str, Frames]) -> dict[str, bytes]:
    """Whatever stretches they are in."""
    return {name: b"".join(frames) for name, frames in documents.items()}


def shared_documents(texts: Mapping[str, bytes]) -> SharedDocuments:
    return received(*pack([(name, [compressed(text)]) for name, text in texts.items()]))


def received(memfd: MemfdFile, manifest: Manifest) -> SharedDocuments:
    """As by another process: with a descriptor of its own."""
    return SharedDocuments(os.dup(memfd.descriptor), manifest)
