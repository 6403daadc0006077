"""A whole daemon beside a platform whose data is not as it should be."""

import secrets

from tests.integration.conftest import SOLVED, document, score
from tests.nodes import metric, nodes, until
from tests.platforms.conftest import as_user

ODD = "invalid data in the platform's database"


async def test_one_bad_row_is_one_bad_row(platform, session, settings):
    """Points that are infinite, a solve in the year infinity: told, counted, and everything else goes on."""
    await platform.connection.execute("ALTER TABLE challenges ALTER points TYPE double precision")
    await platform.connection.execute("UPDATE challenges SET points = 'Infinity' WHERE id = 3")
    await platform.connection.execute(
        "INSERT INTO submissions (user_id, challenge_id, correct, submitted_at) VALUES (1, 2, true, 'infinity')"
    )
    async with nodes(1, **settings) as (node,):
        await platform.solve(1, 1)
        await until(lambda: _has(session, node.url, SOLVED), "the solve is on the board")
        challenges = (await document(session, node.url))["challenges"]
        assert [challenge["points"] for challenge in challenges] == [SOLVED, 500, 0, 500, 500]
        for table, id in [("challenges", "3"), ("submissions", "1")]:
            (line,) = [line for line in node.said(ODD) if line["table"] == table]
            assert line["level"] == "warning"
            assert (line["ids"], line["rows"]) == ([id], 1)
            assert await metric(session, node, f'scoreboardd_source_bad_rows{{table="{table}"}}') == 1

        # Each is told once, and not with every build.
        await platform.solve(2, 1)
        await platform.publish("challenge_updated")
        await until(lambda: _has(session, node.url, 436, team=2), "the next solve is on the board")
        assert len(node.said(ODD)) == 2

        await platform.connection.execute("UPDATE challenges SET points = 500; DELETE FROM submissions WHERE id = 1")
        await platform.publish("challenge_updated")
        for table in ("challenges", "submissions"):
            name = f'scoreboardd_source_bad_rows{{table="{table}"}}'
            await until(lambda name=name: _is(session, node, name, 0), "the metric says that all is well")


async def test_a_board_that_is_empty_for_a_policy_is_told(platform, session, settings, database):
    name = f"test_{secrets.token_hex(8)}"
    await platform.connection.execute(f"""
        CREATE ROLE {name} LOGIN PASSWORD 'secret';
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name};
        ALTER TABLE teams ENABLE ROW LEVEL SECURITY;
    """)
    try:
        await _says_what_hides_the_teams(settings | {"postgres__dsn": as_user(database, name, "secret")})
    finally:
        await platform.connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def _says_what_hides_the_teams(settings):
    async with nodes(1, **settings) as (node,):
        await until(lambda: node.said(ODD), "the log says so")
        (line,) = node.said(ODD)
        assert line["table"] == "teams"
        assert "row-level security" in line["problem"]


async def test_times_without_a_zone_are_in_the_configured_one(platform, session, settings):
    await platform.connection.execute("ALTER TABLE submissions ALTER submitted_at TYPE timestamp")
    await platform.connection.execute(
        "INSERT INTO submissions (user_id, challenge_id, correct, submitted_at) VALUES (1, 1, true, '2026-02-28 03:00')"
    )
    async with nodes(1, **settings | {"source__timezone": "Asia/Seoul"}) as (node,):
        await until(lambda: _has(session, node.url, SOLVED), "the solve is on the board")
        (solve,) = [solve for entry in (await document(session, node.url))["entries"] for solve in entry["solves"]]
        assert solve["solved_at"] == "2026-02-27T18:00:00Z"


async def _has(session, url, points, team=1):
    async with session.get(f"{url}/api/leaderboard/teams") as response:
        if response.status != 200:
            return False
    return await score(session, url, team) == points


async def _is(session, node, name, value):
    return await metric(session, node, name) == value
