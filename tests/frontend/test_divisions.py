"""Who follows one division by notices fetches nothing when the others change."""

import asyncio
import json

from scoreboardd.board.document_names import ParticipantKind, leaderboard_key
from scoreboardd.model import ChangeEvent
from tests.external_tools import require
from tests.frontend.scripted import FOLLOW, Follower
from tests.snapshots import snapshot
from tests.web.server import Node, serving, version

BOARD = {"challenges": [], "entries": []}


def serve(node: Node, number: int) -> None:
    documents = {leaderboard_key(owner, division): BOARD for owner in ParticipantKind for division in (None, 3, 5)}
    node.serve(snapshot(version(number), documents, divisions=(3, 5)))


def publish(node: Node, number: int, *division_ids: int) -> None:
    serve(node, number)
    event = ChangeEvent("division" if division_ids else "all", "submission_correct", "", division_ids or None)
    node.tell(number, event)


async def test_it_knows_the_version_without_having_fetched_it() -> None:
    options = json.dumps({"deltas": False, "division": 3})
    async with serving(first=None) as node:
        serve(node, 41)
        command = (require("node"), FOLLOW, "http://{}:{}/".format(*node.address), options)
        process = await asyncio.create_subprocess_exec(
            *map(str, command), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            follower = Follower(process)
            await follower.until(say="state", status="live", since=None)
            for number, division_ids, reason in (
                (42, (5,), "elsewhere"),
                (43, (3, 5), "refetch"),
                (44, (5,), "elsewhere"),
                (45, (), "refetch"),
                (46, (5,), "elsewhere"),
            ):
                publish(node, number, *division_ids)
                for _ in range(2):
                    said = await follower.until(say="board")
                    assert (said["version"], said["reason"]) == (f"7f3a-{number}", reason)
            # At once: what it is told last is about other divisions, and it has missed one about its own.
            publish(node, 47, 3)
            publish(node, 48, 5)
            for _ in range(2):
                said = await follower.until(say="board")
                assert (said["version"], said["reason"]) == ("7f3a-48", "refetch")
        finally:
            process.kill()
            await process.communicate()
