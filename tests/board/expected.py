"""The real documents and the oracle's, in the same form."""

import json
from collections.abc import Mapping
from typing import Any

from scoreboardd.board.scoreboard import ScoreboardState
from scoreboardd.board.source_rows import SourceRows
from scoreboardd.builder.loader import LoadResult
from scoreboardd.system import compression as zstd
from scoreboardd.system.compression import Frames
from tests import oracle


def rendered(rows: SourceRows) -> dict[str, bytes]:
    """Every document of these rows that the contract knows, by name."""
    return plain(ScoreboardState(rows))


def plain(scoreboard: ScoreboardState | LoadResult) -> dict[str, bytes]:
    return {name: b"".join(document.text()) for name, document in scoreboard.documents.items() if _is_board(name)}


def parsed(bodies: Mapping[str, bytes | Frames]) -> dict[str, Any]:
    """Of documents as text, or as frames, those that the contract knows."""
    return {
        name: json.loads(body if isinstance(body, bytes) else zstd.plain(body))
        for name, body in bodies.items()
        if _is_board(name)
    }


def _is_board(name: str) -> bool:
    return name.startswith(("leaderboard:", "timeline:"))


def expected(tables: oracle.Tables) -> dict[str, Any]:
    """What the oracle says of everyone and every division, by the names that the documents have."""
    return {
        name if division_id is None else f"{name}:div:{division_id}": body
        for division_id in (None, *(division.id for division in tables.divisions or []))
        for name, body in oracle.documents(tables, division_id=division_id).items()
    }
