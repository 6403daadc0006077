"""A generated contest: the tables of a platform, and what happens to them, step by step.

The same seed makes the same contest on every machine and every Python: only `Random.random` and what is derived from it
here is used, since the other methods of `random.Random` may change between releases of Python.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

SEED = 12
TEAMS = 36
CHALLENGES = 12
ROUND_ONE = datetime(2026, 2, 27, 18, 0, tzinfo=UTC)
ROUND_TWO = datetime(2026, 3, 9, 9, 0, tzinfo=UTC)
BETWEEN_ROUNDS = datetime(2026, 3, 4, tzinfo=UTC)
"No solve is within days of this moment, so a window that reaches back to here always has the same content."

ODD_NAMES = [
    *("", " ", "a", "B", "b", "A", "ab", "a b", "a-b", "é", "e\u0301", "z", "Z", "10", "9"),
    *("\U0001f600", "\uff5e", "<script>alert(1)</script>", "</script><!--", "' OR 1=1; --", '"quoted"'),
    *("back\\slash\\", "\\u0000", "%s {0} ${x}", "tab\tnewline\ncr\r\x1f\x7f", "\u2028\u2029\ufeff"),
    *("\u202eright-to-left \u05e9\u05dc\u05d5\u05dd", "Z\u0351\u036b\u0343a\u0363\u0321lgo", "x" * 60),
    *("\U0001f468\u200d\U0001f469\u200d\U0001f467", "same", "same"),
]
CATEGORIES = ["web", "pwn", "crypto", "reverse", "misc", "forensics", ""]

Statement = tuple[str, list[tuple[Any, ...]]]
"An SQL statement, and the arguments of each time it is run."


@dataclass
class Step:
    """One transaction of the platform, and the events that it publishes after the commit."""

    title: str
    reasons: tuple[str, ...]
    statements: list[Statement] = field(default_factory=list)
    scope: str = "all"
    division_ids: tuple[int, ...] | None = None

    def run(self, sql: str, *arguments: Any) -> "Step":
        self.statements.append((sql, [arguments]))
        return self


class Contest:
    def __init__(self, seed: int = SEED) -> None:
        self._random = random.Random(seed)
        self._solved: set[tuple[int, int]] = set()
        self._submissions = 0
        self._clock = ROUND_ONE
        self.divisions = [1, 2]
        self._users: list[int] = []
        self._challenges = list(range(1, CHALLENGES + 1))

    # Random values

    def _below(self, limit: int) -> int:
        return int(self._random.random() * limit)

    def _choice(self, values: list[T]) -> T:
        return values[self._below(len(values))]

    def _name(self, number: int) -> str:
        return ODD_NAMES[number] if number < len(ODD_NAMES) else f"{self._choice(ODD_NAMES)[:8]} {number}"

    # What happens

    def create(self) -> list[Statement]:
        """The state before the daemon starts: two divisions, teams outside of both, all kinds of users, some solves."""
        divisions = [(1, "students"), (2, 'the "others" é')]
        teams = [(id, self._name(id - 1), self._choice([None, 1, 1, 1, 2, 2])) for id in range(1, TEAMS + 1)]
        users: list[tuple[Any, ...]] = []
        for team_id in range(1, TEAMS):  # the last team has no user
            for _ in range(1 + self._below(4)):
                id = 3 * len(users) + 2**40 * (len(users) % 50 == 49) + 1
                users.append((id, self._name(self._below(90)), "user", team_id))
        users += [(5001, "root", "admin", 1), (5002, "cheater", "blocked", 2), (5003, "alone", "user", None)]
        self._users = [id for id, _, role, _ in users if role == "user"]
        challenges = [
            (id, self._name(self._below(60)), self._choice(CATEGORIES), points, self._choice([points, 100, 50, 0]))
            for id in self._challenges
            for points in [self._choice([100, 250, 500, 1000])]
        ]
        return [
            ("INSERT INTO divisions VALUES ($1, $2)", divisions),
            ("INSERT INTO teams VALUES ($1, $2, $3)", teams),
            ("INSERT INTO users VALUES ($1, $2, $3, $4)", users),
            ("INSERT INTO challenges VALUES ($1, $2, $3, $4, $5)", challenges),
            self._submit([*self._new_solves(40), *((user, self._challenges[0]) for user in (5001, 5002))]),
        ]

    def steps(self) -> Iterator[Step]:
        for count in (1, 1, 2, 5, 17):
            yield self._solves(count)
        yield Step("block a user who has solves", ("user_blocked",)).run(
            "UPDATE users SET role = 'blocked' WHERE id = $1", self._solver()
        )
        yield self._solves(3)
        yield Step("block all users of a team", ("user_blocked",)).run(
            "UPDATE users SET role = 'blocked' WHERE team_id = 3"
        )
        yield Step("let them all in again", ("user_unblocked",)).run(
            "UPDATE users SET role = 'user' WHERE role = 'blocked'"
        )
        yield Step("change the points of a challenge", ("challenge_updated",)).run(
            "UPDATE challenges SET points = 777, minimum_points = 333 WHERE id = 2"
        )
        yield Step("change the title and category of a challenge", ("challenge_updated",)).run(
            "UPDATE challenges SET title = $1, category = $2 WHERE id = 3", 'new "title" \U0001f600', "misc\\"
        )
        yield self._solves(9)
        self._challenges.append(99)
        yield Step("add a challenge", ("challenge_created",)).run(
            "INSERT INTO challenges VALUES (99, $1, 'web', 1000, -20)", "last one"
        )
        yield self._solves(12)
        self._challenges.remove(4)
        self._solved = {(user, challenge) for user, challenge in self._solved if challenge != 4}
        yield Step("delete a challenge that has solves", ("challenge_deleted",)).run(
            "DELETE FROM challenges WHERE id = 4"
        )
        yield Step("rename a team, so that the order of a tie changes", ("batch",), scope="team").run(
            "UPDATE teams SET name = $1 WHERE id = 7", "\x7fAAA"
        )
        yield Step("rename a user", ("user_profile_update",)).run(
            "UPDATE users SET username = $1 WHERE id = $2", "née \u202e", self._solver()
        )
        yield (
            Step("add a division and move teams to it", ("team_division_moved",), division_ids=(1, 2, 3))
            .run("INSERT INTO divisions VALUES (3, $1)", "late \u2028 comers")
            .run("UPDATE teams SET division_id = 3 WHERE id IN (5, 6, 11)")
        )
        self.divisions.append(3)
        yield self._solves(4)
        yield Step("move a user to another team, with solves", ("user_team_moved",)).run(
            "UPDATE users SET team_id = 12 WHERE id = $1", self._solver()
        )
        yield (
            Step("add a team and a user", ("team_created", "user_registered"))
            .run("INSERT INTO teams VALUES (80, $1, 2)", "Newcomers & <sons>")
            .run("INSERT INTO users VALUES (9000, $1, 'user', 80)", "newcomer")
        )
        self._users.append(9000)
        self._clock = ROUND_TWO
        for count in (1, 30, 60):
            yield self._solves(count)
        yield self._earlier("a solve that was submitted before the one that is known")
        yield self._solves(80)
        yield Step("delete a team that has no user", ("something else entirely",)).run(
            "DELETE FROM teams WHERE id = $1", TEAMS
        )
        yield Step("take back the solves of one user", ("scoreboard_updated",)).run(
            "DELETE FROM submissions WHERE user_id = $1", self._solver()
        )
        for _ in range(3):
            yield self._solves(1)

    def _solver(self) -> int:
        """A user who has solved something."""
        return self._choice(sorted(self._solved))[0]

    def _new_solves(self, count: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while len(found) < count:
            # The second factor makes some users far better than others.
            user = self._users[int(self._below(len(self._users)) * self._random.random())]
            solve = user, self._choice(self._challenges)
            if solve not in self._solved:
                self._solved.add(solve)
                found.append(solve)
        return found

    def _solves(self, count: int) -> Step:
        step = Step(f"{count} more solved" if count > 1 else "one more solved", ("submission_correct",))
        step.statements.append(self._submit(self._new_solves(count)))
        return step

    def _earlier(self, title: str) -> Step:
        step = Step(title, ("submission_correct",))
        user, challenge = self._choice(sorted(self._solved))
        self._submissions += 1
        row = (self._submissions, user, challenge, True, True, ROUND_ONE - timedelta(microseconds=1))
        step.statements.append(("INSERT INTO submissions VALUES ($1, $2, $3, $4, $5, $6)", [row]))
        return step

    def _submit(self, solves: list[tuple[int, int]]) -> Statement:
        """A wrong attempt and then the correct one, and now and then the correct one twice."""
        rows: list[tuple[Any, ...]] = []
        for user, challenge in solves:
            self._clock += timedelta(microseconds=self._choice([1, 999_999, 10**7, 10**8, 3 * 10**8 + 120_300]))
            for correct in self._choice([[False, True], [True], [True, True]]):
                self._submissions += 1
                blood = correct and self._below(6) == 0
                rows.append((self._submissions, user, challenge, correct, blood, self._clock))
        return "INSERT INTO submissions VALUES ($1, $2, $3, $4, $5, $6)", rows
