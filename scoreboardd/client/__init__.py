"""A scoreboard that keeps itself current, for bots and displays:

    async with Scoreboard("https://ctf.example.org") as scoreboard:
        async for board in scoreboard:
            print(board.version, board.teams[0].name, board.teams[0].score)

The counterpart in Python of `frontend/scoreboard.js`. What a server says flows so: `events` (bytes to events) →
`keeper` (what is held, and when to fetch: pure) → `board`; `stream` and `documents` ask the server by way of `http`,
and `scoreboard` is the shell that has them do it. Nothing here needs a part of the daemon but `snapshot` and the
facts of `board`.
"""

from scoreboardd.client.board import Board, Documents, Row
from scoreboardd.client.http import ClientError
from scoreboardd.client.scoreboard import Outage, Scoreboard

__all__ = ["Board", "ClientError", "Documents", "Outage", "Row", "Scoreboard"]
