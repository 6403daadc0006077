"""Histories of a contest: versions of its tables, each changed a little from the one before, or out of the blue."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from tests.contests import TEXTS, TIMES, challenges, contests
from tests.oracle import Submission, Tables

EXACT = 2**53 - 1
"The largest id that JSON in a browser tells from its neighbours."


@st.composite
def histories(draw: st.DrawFn, *, length: int = 4) -> list[Tables]:
    """At least two versions, without divisions. Ids are at most `EXACT`."""
    history = [_exact(draw(contests(divisions=False)))]
    for _ in range(draw(st.integers(1, length - 1))):
        if draw(st.integers(0, 5)) == 0:
            history.append(_exact(draw(contests(divisions=False))))
            continue
        tables = history[-1]
        for _ in range(draw(st.integers(1, 3))):
            tables = draw(st.sampled_from(CHANGES))(draw, tables)
        history.append(tables)
    return history


def _solve(draw: st.DrawFn, tables: Tables) -> Tables:
    if not (tables.users and tables.challenges):
        return tables
    row = Submission(
        id=max((row.id for row in tables.submissions), default=0) + 1,
        user_id=draw(st.sampled_from(tables.users)).id,
        challenge_id=draw(st.sampled_from(tables.challenges)).id,
        correct=True,
        is_first_blood=draw(st.booleans()),
        submitted_at=draw(TIMES),
    )
    return replace(tables, submissions=[*tables.submissions, row])


def _unsolve(draw: st.DrawFn, tables: Tables) -> Tables:
    return replace(tables, submissions=_without_one(draw, tables.submissions))


def _judge(draw: st.DrawFn, tables: Tables) -> Tables:
    return replace(tables, users=_changed(draw, tables.users, role=draw(st.sampled_from(["user", "blocked"]))))


def _rename_user(draw: st.DrawFn, tables: Tables) -> Tables:
    return replace(tables, users=_changed(draw, tables.users, username=draw(TEXTS)))


def _rename_team(draw: st.DrawFn, tables: Tables) -> Tables:
    return replace(tables, teams=_changed(draw, tables.teams, name=draw(TEXTS)))


def _move_user(draw: st.DrawFn, tables: Tables) -> Tables:
    team_id = draw(st.sampled_from([None, *(team.id for team in tables.teams)]))
    return replace(tables, users=_changed(draw, tables.users, team_id=team_id))


def _edit_challenge(draw: st.DrawFn, tables: Tables) -> Tables:
    edit = draw(st.sampled_from([{"title": draw(TEXTS)}, {"points": draw(st.integers(0, 1000))}]))
    return replace(tables, challenges=_changed(draw, tables.challenges, **edit))


def _add_challenge(draw: st.DrawFn, tables: Tables) -> Tables:
    new = draw(challenges(draw(st.integers(1, 40))))
    return replace(tables, challenges=[*(row for row in tables.challenges if row.id != new.id), new])


def _drop_challenge(draw: st.DrawFn, tables: Tables) -> Tables:
    return replace(tables, challenges=_without_one(draw, tables.challenges))


def _drop_team(draw: st.DrawFn, tables: Tables) -> Tables:
    return replace(tables, teams=_without_one(draw, tables.teams))


CHANGES: list[Callable[[st.DrawFn, Tables], Tables]] = [
    *(_solve, _solve, _unsolve, _judge, _rename_user, _rename_team, _move_user),
    *(_edit_challenge, _add_challenge, _drop_challenge, _drop_team),
]


def _changed(draw: st.DrawFn, rows: Any, **changes: Any) -> list[Any]:
    if not rows:
        return []
    chosen = draw(st.sampled_from(rows))
    return [replace(row, **changes) if row is chosen else row for row in rows]


def _without_one(draw: st.DrawFn, rows: Any) -> list[Any]:
    if not rows:
        return []
    chosen = draw(st.sampled_from(rows))
    return [row for row in rows if row is not chosen]


def _exact(tables: Tables) -> Tables:
    """With all ids small enough."""

    def small(row: Any) -> Any:
        ids = [name for name in ("id", "user_id", "team_id", "challenge_id") if getattr(row, name, None) is not None]
        return replace(row, **{name: getattr(row, name) & EXACT for name in ids})

    parts = {
        name: [small(row) for row in getattr(tables, name)] for name in ("submissions", "users", "teams", "challenges")
    }
    for rows in parts.values():
        ids = [row.id for row in rows]
        assume(0 not in ids and len(set(ids)) == len(ids))
    return replace(tables, **parts)
