"""A contest of a given size, made inside PostgreSQL: the platform's own tables, filled by `generate_series`.

Strong users solve more, easy challenges are solved more, times are spread over two days to the microsecond, and ids
follow time, as on a real platform. The same size gives the same contest (`setseed`).
"""

from dataclasses import dataclass
from typing import Any

from scoreboardd.demo.contest import SCHEMA


@dataclass(frozen=True, slots=True)
class Size:
    teams: int
    users: int
    challenges: int
    submissions: int
    correct: int
    "About so many of them."


SIZES = {
    "typical": Size(2_000, 5_000, 70, 75_000, 15_000),
    "stress": Size(10_000, 30_000, 100, 2_000_000, 466_000),
    "4x": Size(40_000, 120_000, 100, 8_000_000, 1_866_000),
}

_FILL = """
SET synchronous_commit = off;
SET maintenance_work_mem = '256MB';
SET work_mem = '256MB';
SET max_parallel_workers_per_gather = 0; -- which would make the order of `random()` a matter of chance
SELECT setseed(0.42);
DROP INDEX scoreboardd_submissions_correct, submissions_user_id, submissions_challenge_id;
ALTER TABLE submissions DROP CONSTRAINT submissions_pkey, DROP CONSTRAINT submissions_user_id_fkey,
  DROP CONSTRAINT submissions_challenge_id_fkey;
INSERT INTO teams (name) SELECT 'team ' || md5(n::text)::varchar(12) FROM generate_series(1, {teams}) n;
INSERT INTO users (username, team_id)
  SELECT 'user_' || md5(n::text)::varchar(8), 1 + n % {teams} FROM generate_series(1, {users}) n;
INSERT INTO challenges (title, category, points, minimum_points)
  SELECT 'Challenge ' || n, (ARRAY['web', 'pwn', 'crypto', 'rev', 'misc'])[1 + n % 5], 500, 100
  FROM generate_series(1, {challenges}) n;
WITH solves AS (
  SELECT u AS user_id, c AS challenge_id FROM generate_series(1, {users}) u, generate_series(1, {challenges}) c
  WHERE random() < {correct} / ({users}::float * {challenges})
                   * (0.4 + 1.2 * u / {users}) * (0.4 + 1.2 * c / {challenges})
), attempts AS (
  SELECT user_id, challenge_id, true AS correct FROM solves
  UNION ALL
  SELECT 1 + floor(random() * {users})::bigint, 1 + floor(random() * {challenges})::bigint, false
  FROM generate_series(1, {submissions} - (SELECT count(*) FROM solves))
), timed AS (
  SELECT *, '2026-02-27T18:00:00Z'::timestamptz + random() * interval '48 hours' AS submitted_at FROM attempts
)
INSERT INTO submissions (user_id, challenge_id, correct, submitted_at) SELECT * FROM timed ORDER BY submitted_at;
ALTER TABLE submissions ADD PRIMARY KEY (id);
UPDATE submissions SET is_first_blood = true WHERE id IN (
  SELECT DISTINCT ON (challenge_id) id FROM submissions WHERE correct ORDER BY challenge_id, submitted_at);
"""


async def fill(connection: Any, size: Size) -> None:
    """Fills an empty database. Takes about 10 s a million submissions."""
    await connection.execute(SCHEMA)
    numbers = {name: getattr(size, name) for name in Size.__slots__}
    await connection.execute(_FILL.format(**numbers), timeout=600)
    await connection.execute(SCHEMA, timeout=600)  # the indexes again
    await connection.execute("VACUUM ANALYZE", timeout=600)
