"""A simulated contest, which writes to PostgreSQL and publishes to Redis as a platform does. Rules:

- It commits each change first and publishes it afterwards. It publishes nothing for a wrong submission.
- It does not retry a change whose transaction fails; the user of a platform would see an error. It drops an event that
  it cannot publish.
- An item-response model decides which team attempts which challenge, and the result: the probability of a solve grows
  with the difference between the team's strength and the challenge's difficulty.
- All randomness comes from one seeded `random.Random`, and contest time is the sum of the drawn gaps between
  submissions. So a slow machine plays the same contest as a fast one.
"""

import asyncio
import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import asyncpg
import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

SCHEMA = Path(__file__).with_name("schema.sql").read_text()
"The SQL that creates the tables."

CHANNEL = "scoreboard.events"
"The Redis channel of the events, without the key prefix."

WRONG_PER_SOLVE = 3.0
"The average number of wrong submissions per solve."
SOLVES_PER_INCIDENT = 30.0
"The average number of solves per change of another kind, such as a ban."

TIMEOUT_SECONDS = 5.0
"The longest time for one operation of a server."
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 2.0
"The bounds of the pause between two attempts to connect to PostgreSQL."
MAX_CATCH_UP_SECONDS = 1.0
"How much lost time the contest makes up for after an outage, by submitting without gaps."

DIVISIONS = ("Open", "Students")
"The names of the divisions."
POINTS = range(100, 501, 50)
"The points that a challenge may have."

_UNREACHABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"The exceptions of asyncpg if the server is not reachable, or the connection is lost."


@dataclass(slots=True, eq=False)
class _Challenge:
    id: int
    points: int
    difficulty: float
    "On the scale of `_Team.strength`."


@dataclass(slots=True, eq=False)
class _Player:
    id: int
    blocked: bool = False
    solved: set[int] = field(default_factory=set)
    "The ids of the challenges that the player has solved."


@dataclass(slots=True, eq=False)
class _Team:
    id: int
    strength: float
    "The skill of the team, normally distributed around 0."
    players: list[_Player] = field(default_factory=list)

    @property
    def activity(self) -> float:
        """The rate of the team's submissions relative to the median team. Strong teams submit more often."""
        return math.exp(self.strength)

    def chance(self, challenge: _Challenge) -> float:
        """Return the probability, in (0, 1), that one submission of the team solves the challenge."""
        return 1 / (1 + math.exp(1.5 * (challenge.difficulty - self.strength)))


class SimulatedContest:
    """One contest. `seed` fills its tables; then `run` plays it until cancelled.

    Counters: `solves`, `wrong` submissions, `bans` (including lifted bans), `edits` (other changes: points, new
    challenges, moves of players, names), `published` and `dropped` events, and `outages` (lost or refused connections
    to PostgreSQL).
    """

    def __init__(self, teams: int = 40, challenges: int = 24, rate: float = 1.0, seed: int = 1337) -> None:
        """`teams` and `challenges` are the numbers to create; `seed` makes the contest reproducible.

        `rate` is the number of solves per second in quiet times. In the first minute and in bursts there are more.
        """
        self.solves = self.wrong = self.bans = self.edits = 0
        self.published = self.dropped = self.outages = 0
        self._sizes = (teams, challenges)
        self._rate = rate
        self._random = random.Random(seed)
        # The state that `seed` and `run` have committed.
        self._teams: list[_Team] = []
        self._challenges: list[_Challenge] = []
        self._names: set[str] = set()
        # Contest time, in seconds.
        self._elapsed = 0.0
        self._burst_begins = self._burst_ends = 0.0

    async def seed(self, connection: asyncpg.Connection) -> None:
        """Create missing tables, and add divisions, teams, users and challenges."""
        teams, challenges = self._sizes
        async with connection.transaction():
            await connection.execute(SCHEMA)
            divisions = [
                await connection.fetchval("INSERT INTO divisions (name) VALUES ($1) RETURNING id", name)
                for name in DIVISIONS
            ]
            await self._insert_user(connection, "admin", "admin", None)
            for name in self._team_names(teams):
                await self._insert_team(connection, name, self._random.choice(divisions))
            for _ in range(challenges):
                await self._insert_challenge(connection)

    async def run(self, dsn: str, redis: Redis, key_prefix: str = "") -> None:
        """Play until cancelled. Continues after restarts of either server.

        Raises the exceptions of `asyncpg` for errors other than an unreachable server, such as a missing table.
        """
        channel = key_prefix + CHANNEL
        pause = MIN_RETRY_SECONDS
        while True:
            try:
                connection = await asyncpg.connect(dsn, timeout=TIMEOUT_SECONDS, command_timeout=TIMEOUT_SECONDS)
                pause = MIN_RETRY_SECONDS
                try:
                    await self._play(connection, redis, channel)
                finally:
                    connection.terminate()
            except _UNREACHABLE:
                _raise_swallowed_cancellation()
                self.outages += 1
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_RETRY_SECONDS)

    async def _play(self, connection: asyncpg.Connection, redis: Redis, channel: str) -> None:
        """Make random changes at the drawn times, and publish each."""
        clock = asyncio.get_running_loop().time
        actions = {self._solve: 1.0, self._fail: WRONG_PER_SOLVE, self._incident: 1 / SOLVES_PER_INCIDENT}
        actions_per_solve = sum(actions.values())
        due = clock()
        while True:
            gap = self._random.expovariate(self._rate * self._relative_rate() * actions_per_solve)
            self._elapsed += gap
            due = max(due + gap, clock() - MAX_CATCH_UP_SECONDS)
            await asyncio.sleep(due - clock())
            [action] = self._random.choices(list(actions), list(actions.values()))
            reason = await action(connection)
            if reason:
                await self._publish(redis, channel, reason)
                _raise_swallowed_cancellation()

    def _relative_rate(self) -> float:
        """Return the current rate relative to quiet times: higher in the first minute, and in bursts of 2 to 5 s."""
        if self._elapsed >= self._burst_ends:
            self._burst_begins = self._elapsed + self._random.expovariate(1 / 45)
            self._burst_ends = self._burst_begins + self._random.uniform(2, 5)
        burst = 6.0 if self._elapsed >= self._burst_begins else 1.0
        opening = 1 + 7 * math.exp(-self._elapsed / 15)
        return max(opening, burst)

    async def _publish(self, redis: Redis, channel: str, reason: str) -> None:
        now = datetime.now(UTC).replace(tzinfo=None)
        event = {"scope": "all", "reason": reason, "ts": f"{now.isoformat(timespec='milliseconds')}Z"}
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await redis.publish(channel, orjson.dumps(event))
        except (RedisError, OSError):
            self.dropped += 1
        else:
            self.published += 1

    # Actions. Each commits one change and returns the reason to publish, or None if there is nothing to publish.

    async def _solve(self, connection: asyncpg.Connection) -> str | None:
        target = self._target(correct=True)
        if target is None:
            return None
        player, challenge = target
        async with connection.transaction():
            # Serializes the solves of a challenge, so that only one of them is the first.
            await connection.execute("SELECT FROM challenges WHERE id = $1 FOR UPDATE", challenge.id)
            await connection.execute(
                "INSERT INTO submissions (user_id, challenge_id, correct, is_first_blood) VALUES"
                " ($1, $2, true, NOT EXISTS (SELECT FROM submissions WHERE challenge_id = $2 AND correct))",
                player.id,
                challenge.id,
            )
        player.solved.add(challenge.id)
        self.solves += 1
        return "submission_correct"

    async def _fail(self, connection: asyncpg.Connection) -> None:
        target = self._target(correct=False)
        if target is None:
            return
        player, challenge = target
        await connection.execute(
            "INSERT INTO submissions (user_id, challenge_id, correct) VALUES ($1, $2, false)",
            player.id,
            challenge.id,
        )
        self.wrong += 1

    async def _incident(self, connection: asyncpg.Connection) -> str | None:
        incidents = {
            self._ban_or_lift_ban: 3,
            self._edit_challenge: 3,
            self._move_player: 2,
            self._rename_player: 2,
            self._add_challenge: 1,
        }
        [incident] = self._random.choices(list(incidents), list(incidents.values()))
        return await incident(connection)

    async def _ban_or_lift_ban(self, connection: asyncpg.Connection) -> str:
        """Ban a player, or lift a ban. The more bans there are, the more likely one is lifted."""
        players = [player for team in self._teams for player in team.players]
        banned = [player for player in players if player.blocked]
        free = [player for player in players if not player.blocked]
        lift = bool(banned) and (not free or self._random.random() < len(banned) / 4)
        player = self._random.choice(banned if lift else free)
        role = "user" if lift else "blocked"
        await connection.execute("UPDATE users SET role = $2 WHERE id = $1", player.id, role)
        player.blocked = not lift
        self.bans += 1
        return "user_unblocked" if lift else "user_blocked"

    async def _move_player(self, connection: asyncpg.Connection) -> str:
        old = self._random.choice([team for team in self._teams if team.players])
        new = self._random.choice(self._teams)
        player = self._random.choice(old.players)
        await connection.execute("UPDATE users SET team_id = $2 WHERE id = $1", player.id, new.id)
        old.players.remove(player)
        new.players.append(player)
        self.edits += 1
        return "user_team_moved"

    async def _rename_player(self, connection: asyncpg.Connection) -> str:
        player = self._random.choice([player for team in self._teams for player in team.players])
        await connection.execute("UPDATE users SET username = $2 WHERE id = $1", player.id, self._handle())
        self.edits += 1
        return "user_profile_update"

    async def _edit_challenge(self, connection: asyncpg.Connection) -> str:
        challenge = self._random.choice(self._challenges)
        points = self._random.choice([points for points in POINTS if points != challenge.points])
        await connection.execute("UPDATE challenges SET points = $2 WHERE id = $1", challenge.id, points)
        challenge.points = points
        self.edits += 1
        return "challenge_updated"

    async def _add_challenge(self, connection: asyncpg.Connection) -> str:
        await self._insert_challenge(connection)
        self.edits += 1
        return "challenge_created"

    def _target(self, *, correct: bool) -> tuple[_Player, _Challenge] | None:
        """Draw the player and the challenge of a submission. None if no drawn team has an unsolved challenge."""
        weights = [team.activity for team in self._teams]
        for team in self._random.choices(self._teams, weights, k=8):
            players = [player for player in team.players if not player.blocked]
            solved = {challenge for player in team.players for challenge in player.solved}
            left = [challenge for challenge in self._challenges if challenge.id not in solved]
            if players and left:
                chances = [team.chance(challenge) for challenge in left]
                [challenge] = self._random.choices(left, chances if correct else [1 - p for p in chances])
                return self._random.choice(players), challenge
        return None

    # Inserting rows.

    async def _insert_team(self, connection: asyncpg.Connection, name: str, division: int) -> None:
        team_id = await connection.fetchval(
            "INSERT INTO teams (name, division_id) VALUES ($1, $2) RETURNING id", name, division
        )
        team = _Team(team_id, strength=self._random.gauss(0, 1))
        for _ in range(self._random.randint(1, 4)):
            team.players.append(_Player(await self._insert_user(connection, self._handle(), "user", team_id)))
        self._teams.append(team)

    async def _insert_user(self, connection: asyncpg.Connection, name: str, role: str, team_id: int | None) -> int:
        user_id: int = await connection.fetchval(
            "INSERT INTO users (username, role, team_id) VALUES ($1, $2, $3) RETURNING id",
            name,
            role,
            team_id,
        )
        return user_id

    async def _insert_challenge(self, connection: asyncpg.Connection) -> None:
        category, title = _challenge_name(len(self._challenges))
        difficulty = self._random.gauss(0.5, 1.2)
        points = min(POINTS, key=lambda points: abs(points - (250 + 100 * difficulty)))
        challenge_id = await connection.fetchval(
            "INSERT INTO challenges (title, category, points, minimum_points) VALUES ($1, $2, $3, $4) RETURNING id",
            title,
            category,
            points,
            points // 5,
        )
        self._challenges.append(_Challenge(challenge_id, points, difficulty))

    # Drawing names.

    def _team_names(self, count: int) -> list[str]:
        plain = [f"{adjective} {animal}" for adjective, animal in product(ADJECTIVES, ANIMALS)]
        names = [*ODD_NAMES, *self._random.sample(plain, len(plain))]
        chosen = [
            names[index % len(names)] + (f" {index // len(names) + 1}" if index >= len(names) else "")
            for index in range(count)
        ]
        self._random.shuffle(chosen)
        return chosen

    def _handle(self) -> str:
        """Return a new user name."""
        while True:
            name = f"{self._random.choice(HANDLES)}{self._random.choice('_-.x')}{self._random.randrange(10_000)}"
            if name not in self._names:
                self._names.add(name)
                return name


def _raise_swallowed_cancellation() -> None:
    """Raise `CancelledError` if the current task was cancelled and a client library has swallowed the exception.

    redis-py swallows it, because it writes with `asyncio.wait_for`, which before Python 3.12 returns an available
    result instead of raising. asyncpg swallows it if the rollback of a transaction fails.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _challenge_name(number: int) -> tuple[str, str]:
    """Return category and title of challenge `number`, counted from 0. Repeated titles get the suffix "revenge"."""
    categories = list(TITLES)
    turn, index = divmod(number, len(categories))
    category = categories[index]
    revenge, title = divmod(turn, len(TITLES[category]))
    return category, TITLES[category][title] + (f" (revenge {revenge})" if revenge else "")


# fmt: off
TITLES = {
    "web": ("Cookie Jar", "SSRF's Up", "Templates of Doom", "Jot It Down", "Race You", "Same Old Origin"),
    "pwn": ("Baby Overflow", "Heap of Trouble", "Format C", "One Gadget", "Ret2School", "Use After Tea"),
    "crypto": ("Textbook", "Padding Oracle", "Small Exponents", "Nonce Sense", "Lattice Pray", "Xorcism"),
    "rev": ("Crack Me Gently", "Strings", "VM in a VM", "Rusty Nails", "Obfuscated Haiku", "Symbols"),
    "misc": ("Sanity Check", "Jail Break", "Regex Golf", "QR Quilt", "Emoji Soup", "Read the Rules"),
    "forensics": ("Deleted", "Packet Lunch", "Memory Lane", "Carved in Stone", "Magic Bytes", "Undead Disk"),
}
ADJECTIVES = (
    "Segfaulting", "Sleepless", "Polyglot", "Quantum", "Recursive", "Caffeinated", "Stateless", "Nullable",
    "Feral", "Root", "Unsigned", "Volatile", "Static", "Haunted", "Overclocked", "Blind", "Tiny", "Midnight",
    "Rogue", "Idle",
)
ANIMALS = (
    "Pandas", "Otters", "Ferrets", "Badgers", "Geese", "Krakens", "Axolotls", "Pigeons", "Hedgehogs",
    "Mantises", "Lemurs", "Wombats", "Capybaras", "Ravens", "Weasels", "Octopuses", "Moths", "Yaks", "Newts", "Llamas",
)
# Team names that often break software.
ODD_NAMES = (
    "<script>alert('gg')</script>", 'Robert"); DROP TABLE teams;--', "Ünïcødé Bandits", "零日突破",
    "קוד פתוח", "🦆 Rubber Ducks 🦆",
)
HANDLES = (
    "n0va", "k3rnel", "ada", "glitch", "zer0", "mallory", "trudy", "byt3", "phreak", "w1zard", "lynx",
    "cipher", "daemon", "hexa", "moth", "rook", "sudo", "vim", "packet", "ghost", "żółw", "señor", "猫", "snowman☃",
)
# fmt: on
