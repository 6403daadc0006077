"""What `scoreboardd check` says of a platform's database: every problem in one run, one line each, with its mend."""

from typing import Any

import pytest

from scoreboardd.demo.servers import free_port
from scoreboardd.source import check
from tests.contests import SCHEMA_SQL
from tests.source.conftest import Role

INDEX = "CREATE INDEX ON submissions (user_id, challenge_id) INCLUDE (submitted_at, is_first_blood) WHERE correct"


async def problems(dsn: str) -> list[str]:
    found = [problem async for problem in check.problems(dsn, "smctf", statement_timeout=10)]
    for problem in found:
        assert problem.startswith("postgres: ")
        assert "\n" not in problem
    return found


@pytest.mark.parametrize("divisions", [True, False], ids=["with divisions", "without divisions"])
async def test_a_platform_as_it_should_be_has_none(admin: Any, database: str, divisions: bool):
    await admin.execute(SCHEMA_SQL(divisions))
    await admin.execute(INDEX)
    assert await problems(database) == []


async def test_every_problem_is_found_in_one_run(admin: Any, role: Role):
    await admin.execute(f"""
        ALTER TABLE challenges DROP COLUMN minimum_points, DROP COLUMN category;
        ALTER TABLE users DROP COLUMN role CASCADE;
        ALTER TABLE teams DROP COLUMN division_id;
        GRANT SELECT ON challenges, submissions, teams, divisions TO {role.name};
        GRANT SELECT (id, team_id) ON users TO {role.name};
        ALTER TABLE submissions DROP COLUMN is_first_blood;
    """)
    found = await problems(role.dsn)
    for expected in [
        ("submissions.is_first_blood is missing",),
        ("users.role is missing",),
        ("users (username)", "may not be read", "GRANT SELECT"),
        ("challenges.category is missing",),
        ("challenges.minimum_points is missing",),
        ("teams.division_id is missing",),
        (
            "no index on submissions (user_id, challenge_id) WHERE correct",
            "run `scoreboardd migrate`",
            "CREATE INDEX CONCURRENTLY",
        ),
    ]:
        matching = [problem for problem in found if all(word in problem for word in expected)]
        assert len(matching) == 1, expected
        found.remove(matching[0])
    assert found == []


async def test_an_empty_database_misses_every_table(database: str):
    found = await problems(database)
    missing = [problem for problem in found if "is missing" in problem]
    assert [problem.split()[2] for problem in missing] == ["submissions", "users", "teams", "challenges"]
    assert all("postgres.dsn" in problem for problem in missing)


async def test_the_columns_that_are_read_are_enough(admin: Any, role: Role):
    await admin.execute(INDEX)
    await admin.execute("ALTER TABLE teams ADD COLUMN invite_code text")
    await admin.execute(f"""
        GRANT SELECT ON users, submissions, challenges, divisions TO {role.name};
        GRANT SELECT (id, name, division_id) ON teams TO {role.name};
    """)
    assert await problems(role.dsn) == []


async def test_what_it_says_to_create_mends_it(admin: Any, platform: str):
    (problem,) = await problems(platform)
    await admin.execute(problem[problem.index("CREATE INDEX") :])
    assert await problems(platform) == []


@pytest.mark.parametrize(
    ("index", "serves"),
    [
        ("(user_id, challenge_id)", True),  # not partial: bigger, but as good
        ("(user_id, challenge_id, submitted_at) WHERE correct", True),
        ("(user_id, challenge_id) WHERE correct = true", True),
        ("(user_id) WHERE correct", False),
        ("(challenge_id, user_id) WHERE correct", False),
        ("(user_id, challenge_id) WHERE NOT correct", False),
        ("(user_id, challenge_id) WHERE correct AND is_first_blood", False),
    ],
)
async def test_which_indexes_serve(admin: Any, platform: str, index: str, serves: bool):
    await admin.execute(f"CREATE INDEX ON submissions {index}")
    assert (await problems(platform) == []) == serves


async def test_an_index_whose_creation_failed_does_not_serve(admin: Any, platform: str):
    await admin.execute("CREATE INDEX half_made ON submissions (user_id, challenge_id) WHERE correct")
    await admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half_made'::regclass")
    assert len(await problems(platform)) == 1


async def test_a_database_that_cannot_be_reached_is_the_one_problem():
    (problem,) = await problems(f"postgresql://ada:s3cret@127.0.0.1:{free_port()}/ctf")
    assert "s3cret" not in problem
