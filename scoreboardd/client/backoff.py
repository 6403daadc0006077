"""How long a client waits before its next attempt."""

from scoreboardd.system.backoff import Backoff

LONGEST = 15.0
"Seconds between two attempts, if the server did not ask for more."
MOST_ASKED = 300.0
"Seconds that a server may ask for: one that is back earlier should not be left alone for an hour."


def backoff(attempt: int, asked: float, random: float) -> float:
    """Seconds before attempt `attempt` (from 0) after the first, which failed.

    `asked` is what the server wants at least, and what the first attempt waits: servers give each client another. The
    later ones wait a random time between that and a bound that doubles.
    """
    least = min(max(asked, 0.1), MOST_ASKED)
    return least + random * (max(least, Backoff(least, LONGEST).bound(attempt + 1)) - least)
