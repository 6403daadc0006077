"""What `scoreboardd check` says of a platform's database: every problem in one run, one line each, with its mend."""

from typing import Any

import pytest

from scoreboardd.demo.servers import free_port
from scoreboardd.platforms import check
from scoreboardd.platforms.postgres import PostgresSource
from tests.contests import SCHEMA_SQL, insert
from tests.platforms.conftest import Role
from tests.platforms.test_postgres import CONTEST

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


class TestWhatTheDaemonWouldNotSee:
    """Without an error: a live, ready and empty board."""

    @pytest.fixture
    async def reader(self, admin: Any, role: Role) -> Role:
        """Who may read everything, in a contest that has one of each."""
        await insert(admin, CONTEST)
        await admin.execute(INDEX)
        await admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role.name}")
        await admin.execute("SELECT pg_stat_force_next_flush()")
        assert await problems(role.dsn) == []
        return role

    @staticmethod
    async def the_daemon_says_so_too(dsn: str, found: list[str]) -> None:
        async with PostgresSource(dsn, "smctf", statement_timeout=10) as source:
            reading = await source.read()
        assert [str(finding) for finding in reading.findings] == found
        assert not any(finding.is_altered for finding in reading.findings)

    @pytest.mark.parametrize("table", ["users", "teams", "challenges", "submissions"])
    async def test_row_level_security_without_a_policy(self, admin: Any, reader: Role, table: str):
        await admin.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        found = await problems(reader.dsn)
        (problem,) = found
        assert f"{table}: row-level security hides every row from role {reader.name}" in problem
        await self.the_daemon_says_so_too(reader.dsn, found)
        await admin.execute(problem[problem.index("CREATE POLICY") :])
        assert await problems(reader.dsn) == []

    @pytest.mark.parametrize(
        "policy",
        [
            "CREATE POLICY p ON users USING (current_setting('app.tenant', true) = 'us')",
            "CREATE POLICY p ON users FOR SELECT TO postgres USING (true)",
            "CREATE POLICY p ON users FOR INSERT WITH CHECK (true)",
            "CREATE POLICY p ON users USING (true); CREATE POLICY q ON users AS RESTRICTIVE USING (false)",
        ],
    )
    async def test_policies_that_let_us_see_nothing(self, admin: Any, reader: Role, policy: str):
        await admin.execute(f"ALTER TABLE users ENABLE ROW LEVEL SECURITY; {policy}")
        (problem,) = await problems(reader.dsn)
        assert "users: row-level security hides every row" in problem

    async def test_row_level_security_without_a_policy_on_a_table_that_is_still_empty(self, admin: Any, reader: Role):
        await admin.execute("TRUNCATE submissions; ALTER TABLE submissions ENABLE ROW LEVEL SECURITY")
        (problem,) = await problems(reader.dsn)
        assert "submissions: row-level security hides every row" in problem

    @pytest.mark.parametrize("options", ["", "WITH (security_barrier)", "WITH (security_invoker)"])
    async def test_row_level_security_beneath_a_view(self, admin: Any, reader: Role, options: str):
        await admin.execute(f"""
            ALTER TABLE users RENAME TO accounts;
            ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
            CREATE VIEW users {options} AS SELECT id, username, role, team_id FROM accounts;
            ALTER VIEW users OWNER TO {reader.name};
        """)
        found = await problems(reader.dsn)
        (problem,) = found
        assert "users: row-level security hides every row" in problem
        await self.the_daemon_says_so_too(reader.dsn, found)

    async def test_what_is_bypassed_or_let_through_is_no_problem(self, admin: Any, reader: Role):
        await admin.execute(f"""
            ALTER TABLE users ENABLE ROW LEVEL SECURITY;
            ALTER TABLE teams ENABLE ROW LEVEL SECURITY;
            CREATE POLICY everybody ON teams USING (true);
            ALTER ROLE {reader.name} BYPASSRLS;
        """)
        assert await problems(reader.dsn) == []
        await admin.execute(f"""
            ALTER ROLE {reader.name} NOBYPASSRLS;
            CREATE POLICY reader ON users FOR SELECT TO {reader.name} USING (true);
        """)
        assert await problems(reader.dsn) == []

    async def test_a_contest_that_has_not_begun_is_no_problem(self, admin: Any, platform: str, role: Role):
        await admin.execute(INDEX)
        await admin.execute("INSERT INTO users VALUES (1, 'root', 'admin', NULL)")
        await admin.execute("INSERT INTO challenges VALUES (1, 'sums', 'misc', 500, 100)")
        await admin.execute("INSERT INTO submissions VALUES (1, 1, 1, false, false, now())")
        await admin.execute("SELECT pg_stat_force_next_flush()")
        await admin.execute("VACUUM ANALYZE")
        assert await problems(platform) == []

    async def test_a_contest_that_was_emptied_is_no_problem(self, admin: Any, reader: Role):
        await admin.execute("VACUUM ANALYZE")
        await admin.execute("DELETE FROM submissions")
        await admin.execute("SELECT pg_stat_force_next_flush()")
        assert await problems(reader.dsn) == []

    async def test_a_view_that_we_may_read_and_whose_table_we_may_not(self, admin: Any, reader: Role):
        await admin.execute(f"""
            ALTER TABLE users RENAME TO accounts;
            REVOKE ALL ON accounts FROM {reader.name};
            CREATE VIEW users WITH (security_invoker) AS SELECT * FROM accounts;
            GRANT SELECT ON users TO {reader.name};
        """)
        (problem,) = await problems(reader.dsn)
        assert "permission denied for table accounts" in problem
        assert "GRANT SELECT" in problem

    async def test_a_function_that_we_may_not_call(self, admin: Any, reader: Role):
        await admin.execute(f"""
            ALTER TABLE users RENAME TO accounts;
            CREATE FUNCTION shown(name text) RETURNS text LANGUAGE sql AS 'SELECT name';
            REVOKE ALL ON FUNCTION shown FROM PUBLIC;
            CREATE VIEW users AS SELECT id, shown(username) AS username, role, team_id FROM accounts;
            GRANT SELECT ON users TO {reader.name};
        """)
        (problem,) = await problems(reader.dsn)
        assert "permission denied for function shown" in problem
        assert "GRANT EXECUTE" in problem

    async def test_a_view_that_fails_at_a_row(self, admin: Any, reader: Role):
        await admin.execute(f"""
            ALTER TABLE users RENAME TO accounts;
            CREATE VIEW users AS SELECT id, username, role, team_id / (id - 2) AS team_id FROM accounts;
            GRANT SELECT ON users TO {reader.name};
            INSERT INTO accounts VALUES (2, 'bob', 'user', 1);
        """)
        (problem,) = await problems(reader.dsn)
        assert "division by zero" in problem

    async def test_a_table_that_hides_another(self, admin: Any, reader: Role):
        await admin.execute(f"""
            CREATE SCHEMA {reader.name};
            CREATE TABLE {reader.name}.users (LIKE public.users);
            GRANT USAGE ON SCHEMA {reader.name} TO {reader.name};
            GRANT SELECT ON {reader.name}.users TO {reader.name};
        """)
        (problem,) = await problems(reader.dsn)
        assert f"users is read from {reader.name}.users, which hides public.users" in problem
        assert "search_path" in problem
        await admin.execute(f"ALTER ROLE {reader.name} SET search_path = public")
        assert await problems(reader.dsn) == []

    async def test_a_timeout_that_is_too_small(self, admin: Any, reader: Role):
        await admin.execute(f"""
            ALTER TABLE users RENAME TO accounts;
            CREATE VIEW users AS SELECT id, username, role, team_id FROM accounts, pg_sleep(0.4);
            GRANT SELECT ON users TO {reader.name};
        """)

        async def found(statement_timeout: float) -> list[str]:
            return [p async for p in check.problems(reader.dsn, "smctf", statement_timeout=statement_timeout)]

        assert await found(60) == []
        (problem,) = await found(0.3)
        assert "statement timeout" in problem
        assert "0.3 s" in problem


async def test_an_index_is_wanted_without_a_condition_where_correct_is_no_boolean(admin: Any, platform: str):
    await admin.execute("ALTER TABLE submissions ALTER correct TYPE smallint USING correct::int")
    (problem,) = await problems(platform)
    assert "WHERE" not in problem
    await admin.execute(problem[problem.index("CREATE INDEX") :])
    assert await problems(platform) == []
