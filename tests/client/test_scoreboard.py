"""The client before a server that says what a test wants said."""

import asyncio
import gzip
import json
import zlib
from collections import deque
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from scoreboardd.board.delta import VersionedDelta, diff
from scoreboardd.client import Board, ClientError, Scoreboard, documents, http, scoreboard, stream, sync_state
from scoreboardd.demo.servers import free_port
from scoreboardd.model import Version
from scoreboardd.render import text as document_text
from tests.client.server import EPOCH, STREAM, TEAMS, USERS, Server, document, serving, view
from tests.nodes import DEADLINE, until

BOTH = [USERS, TEAMS]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(stream, "RETRY", (0.1, 0.2))
    return Server()


@pytest.fixture
async def url(server: Server) -> AsyncIterator[str]:
    async with serving(server) as url:
        yield url


def redirect(location: str, status: int = 302) -> web.Response:
    return web.Response(status=status, headers={"Location": location})


def compressed(body: bytes, encoding: str) -> web.Response:
    headers = {"Content-Encoding": encoding, "X-Scoreboard-Version": f"{EPOCH}-1"}
    return web.Response(body=body, headers=headers, content_type="application/json")


async def following(boards: AsyncIterator[Board]) -> Board:
    async with asyncio.timeout(DEADLINE):
        return await anext(boards)


async def becomes(boards: AsyncIterator[Board], server: Server) -> None:
    """The next board is what the server has."""
    board = await following(boards)
    assert board.version == server.version
    assert board.documents == document_text.leaderboards(server.view)


async def live(client: Scoreboard, server: Server) -> AsyncIterator[Board]:
    """Its boards, once it holds the first and follows the stream."""
    boards = aiter(client)
    await becomes(boards, server)
    async with asyncio.timeout(DEADLINE):
        await server.until_asked(lambda: server.joined)
    return boards


class TestBoards:
    async def test_deltas_are_followed_without_another_fetch(self, server: Server, url: str):
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            for version, solves in ((2, 2), (3, 5), (9, 4)):
                await server.step(version, view(solves))
                await becomes(boards, server)
            assert sorted(server.sent) == BOTH
            assert server.queries == {"", "deltas=1"}

    async def test_who_is_slow_gets_only_the_newest(self, server: Server, url: str):
        async with Scoreboard(url) as client:
            quick, slow = await live(client, server), aiter(client)
            await becomes(slow, server)
            for version in (2, 3, 4):
                await server.step(version, view(version))
                await becomes(quick, server)
            await becomes(slow, server)

    async def test_of_a_division_behind_a_path(self):
        server = Server(prefix="/ctf")
        async with serving(server) as url, Scoreboard(f"{url}/ctf/?theme=dark#top", division_id=3) as client:
            await live(client, server)
            assert server.queries == {"division_id=3", "division_id=3&deltas=1"}

    async def test_documents_of_two_versions_are_no_board(self, server: Server, url: str):
        server.instead[TEAMS].append(lambda: document(TEAMS, Version(EPOCH, 0), view(0)))
        async with Scoreboard(url) as client:
            await becomes(aiter(client), server)
            assert sorted(server.sent) == BOTH, "the one that was good is confirmed"


class TestRefetching:
    @pytest.mark.parametrize("event", ["scoreboard", "delta", "reset"])
    async def test_what_cannot_be_applied_is_fetched(self, server: Server, url: str, event: str):
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            server.version, server.view = Version(EPOCH, 7), view(6)
            await server.say(event, server.version, json.dumps({"from": 6, "version": 7, "spread": 0.1}).encode())
            await becomes(boards, server)
            assert sorted(server.sent) == sorted(2 * BOTH)

    async def test_deltas_that_come_meanwhile_are_applied_to_what_it_brings(self, server: Server, url: str):
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            server.answering.clear()
            server.version = Version(EPOCH, 7)
            await server.say("scoreboard", server.version)
            async with asyncio.timeout(DEADLINE):
                await server.until_asked(lambda: len(server.sent) == 4)
            await server.step(8, view(2))
            await server.step(9, view(3))
            server.answering.set()
            while (board := await following(boards)).version != server.version:
                assert board.version.number in (7, 8)
            assert board.documents == document_text.leaderboards(server.view)
            assert len(server.sent) == 4

    async def test_a_node_that_lags_is_asked_again(self, server: Server, url: str):
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            for path in BOTH:
                server.instead[path].append(lambda path=path: document(path, Version(EPOCH, 0), view(0)))
                server.instead[path].append(lambda: web.Response(status=304))
            server.version, server.view = Version(EPOCH, 2), view(2)
            await server.say("scoreboard", server.version)
            await becomes(boards, server)

    async def test_a_new_epoch_replaces_what_is_held(self, server: Server, url: str):
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            server.version, server.view = Version("b", 0), view(0)
            await server.say("scoreboard", server.version)
            await becomes(boards, server)

    async def test_what_ready_tells_of_and_never_comes_is_fetched(
        self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(sync_state, "GRACE", 0.0)
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            server.version, server.view = Version(EPOCH, 5), view(4)
            await server.hang_up()
            await becomes(boards, server)

    async def test_without_a_stream_it_looks_now_and_then(
        self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(scoreboard, "CHECK", 0.1)
        server.instead[STREAM].extend(1000 * [lambda: web.Response(status=503)])
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            server.version, server.view = Version(EPOCH, 2), view(2)
            await becomes(boards, server)
            assert client.outage is not None


class TestOutages:
    async def test_a_stream_that_ends_is_resumed_where_it_was(
        self, server: Server, url: str, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level("INFO", "scoreboardd.client")
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            await server.step(2, view(2))
            await becomes(boards, server)
            server.instead[STREAM].extend(2 * [lambda: web.Response(status=503)])
            await server.hang_up()
            await until(lambda: client.outage, "it is seen")
            await until(lambda: client.outage is None, "it is over")
            assert server.joined == [f"{EPOCH}-1", *3 * [f"{EPOCH}-2"]]
            await server.step(3, view(3))
            await becomes(boards, server)
            assert sorted(server.sent) == BOTH
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]

    async def test_a_server_that_is_not_there_yet_is_waited_for(self, server: Server, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(sync_state, "RETRY", 0.1)
        port = free_port()
        async with Scoreboard(f"http://127.0.0.1:{port}") as client:
            outage = await until(lambda: client.outage, "it is seen")
            assert outage.problem.startswith(f"http://127.0.0.1:{port}/api/leaderboard")
            assert client.board is None
            async with serving(server, port):
                await becomes(aiter(client), server)
                assert client.outage is None

    async def test_one_without_a_scoreboard_yet_is_waited_for(self, server: Server, url: str):
        busy = {"Retry-After": "1"}
        server.instead[USERS].append(lambda: web.json_response({"error": "none yet"}, status=503, headers=busy))
        async with Scoreboard(url) as client:
            outage = await until(lambda: client.outage, "it is seen")
            assert outage.problem == f"{url}/api/leaderboard answers 503 none yet"
            await becomes(aiter(client), server)

    async def test_once_there_was_a_board_whatever_is_said_is_an_outage(
        self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(sync_state, "RETRY", 0.1)
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            nonsense = {"X-Scoreboard-Version": f"{EPOCH}-9"}
            server.instead[TEAMS].extend(
                [
                    lambda: web.Response(status=404),
                    lambda: web.Response(text="<!doctype html>"),
                    lambda: web.Response(text="<!doctype html>", headers=nonsense),
                    lambda: web.Response(text='{"entries":3}', headers=nonsense),
                ]
            )
            server.version, server.view = Version(EPOCH, 9), view(2)
            await server.say("scoreboard", server.version)
            await until(lambda: client.outage, "it is seen")
            await becomes(boards, server)
            assert client.outage is None

    async def test_documents_without_end_are_not_read(self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(documents, "MOST", 10)
        async with Scoreboard(url) as client:
            outage = await until(lambda: client.outage, "it is seen")
            assert "more than 10 bytes" in outage.problem

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    @pytest.mark.parametrize("members", [1, 64])
    async def test_documents_are_not_decompressed_without_end(
        self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch, encoding: str, members: int
    ):
        """Whether one member of the body or all of them together are too large."""
        monkeypatch.setattr(documents, "MOST", 1 << 20)
        compressor = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
        size = (64 << 20) // (members if encoding == "gzip" else 1)
        member = compressor.compress(bytes(size)) + compressor.flush()
        body = members * member
        server.instead[TEAMS].append(lambda: compressed(body, encoding))
        async with Scoreboard(url) as client:
            outage = await until(lambda: client.outage, "it is seen")
            assert outage.problem == f"{url}{TEAMS} answers with more than {1 << 20} bytes"
            await becomes(aiter(client), server)

    @pytest.mark.parametrize("values", [b"{}", b"[]", b"1"])
    async def test_documents_are_not_parsed_into_much_more_than_they_are(
        self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch, values: bytes
    ):
        monkeypatch.setattr(documents, "MAX_CONTAINERS", 3_000)
        monkeypatch.setattr(documents, "MAX_VALUES", 12_000)
        body = b'{"challenges":[],"entries":[' + b",".join([values] * 12_002) + b"]}"
        server.instead[TEAMS].append(lambda: compressed(gzip.compress(body, 1), "gzip"))
        async with Scoreboard(url) as client:
            outage = await until(lambda: client.outage, "it is seen")
            assert outage.problem == f"{url}{TEAMS} answers with more values than any scoreboard has"
            await becomes(aiter(client), server)

    async def test_documents_in_many_members_are_read_as_one(self, server: Server, url: str):
        text = document_text.leaderboards(server.view)[1]
        body = b"".join(gzip.compress(text[at : at + 50]) for at in range(0, len(text), 50))
        server.instead[TEAMS].append(lambda: compressed(body, "gzip"))
        async with Scoreboard(url) as client:
            await becomes(aiter(client), server)
            assert server.instead[TEAMS] == deque()

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br", "x-unknown"])
    async def test_what_cannot_be_decompressed_is_an_outage(self, server: Server, url: str, encoding: str):
        server.instead[TEAMS].append(lambda: compressed(b"\x28\xb5\x2f\xfd garbage", encoding))
        async with Scoreboard(url) as client:
            outage = await until(lambda: client.outage, "it is seen")
            assert outage.problem.startswith(f"{url}{TEAMS} ")
            await becomes(aiter(client), server)

    async def test_a_stream_that_is_compressed_is_not_decompressed_without_end(self, server: Server, url: str):
        body = gzip.compress(b"data: " + bytes(64 << 20))
        headers = {"Content-Encoding": "gzip", "Content-Type": "text/event-stream"}
        server.instead[STREAM].append(lambda: web.Response(body=body, headers=headers))
        async with Scoreboard(url) as client:
            boards = aiter(client)
            await becomes(boards, server)
            outage = await until(lambda: client.outage, "it is seen")
            assert outage.problem.endswith("says a line of more than 8388608 bytes")
            await until(lambda: client.outage is None, "it follows another")

    async def test_who_takes_too_long_to_answer_is_asked_again(
        self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(http, "ANSWER", 0.1)
        monkeypatch.setattr(sync_state, "RETRY", 0.1)
        server.answering.clear()
        async with Scoreboard(url) as client:
            outage = await until(lambda: client.outage, "it is seen")
            assert outage.problem.endswith("does not answer")
            server.answering.set()
            await becomes(aiter(client), server)

    async def test_a_stream_that_is_silent_is_left(self, server: Server, url: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(stream, "SILENCE", 0.05)
        async with Scoreboard(url) as client, asyncio.timeout(DEADLINE):
            await live(client, server)
            await server.until_asked(lambda: len(server.joined) > 1)

    @pytest.mark.parametrize(
        "answer",
        [
            lambda: web.Response(text="<!doctype html>", content_type="text/html"),
            lambda: web.Response(text="nonsense\n\n: \n\ndata\n\ndata: ", content_type="text/event-stream"),
            lambda: web.Response(body=b"data: " + b"x" * 9_000_000, content_type="text/event-stream"),
            lambda: web.Response(status=304),
            lambda: web.Response(status=404),
        ],
        ids=["html", "nonsense", "endless", "304", "404"],
    )
    async def test_what_is_no_stream_is_asked_for_again(self, server: Server, url: str, answer):
        server.instead[STREAM].append(answer)
        async with Scoreboard(url) as client:
            boards = aiter(client)
            await becomes(boards, server)
            await until(lambda: len(server.joined) == 2 and client.outage is None, "it follows")
            await server.step(2, view(2))
            await becomes(boards, server)


class TestRedirects:
    async def test_within_the_origin_they_are_followed(self, server: Server, url: str):
        moved = {USERS: "/api/leaderboard/../leaderboard?moved", TEAMS: f"{url}/api/leaderboard/teams?moved"}
        for path, location in moved.items():
            server.instead[path].append(lambda location=location: redirect(location))
        server.instead[STREAM].append(lambda: redirect("?deltas=1&moved"))
        async with Scoreboard(url.replace("//", "//bot:secret@")) as client:
            boards = await live(client, server)
            await until(lambda: len(server.joined) == 2, "it follows the stream")
            await server.step(2, view(2))
            await becomes(boards, server)
            assert {"moved", "deltas=1&moved"} <= server.queries
            assert len(set(server.authorizations)) == 1

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_to_another_origin_none_is_followed(self, server: Server, url: str, status: int):
        elsewhere = Server()
        async with serving(elsewhere) as other:
            for path in BOTH:
                server.instead[path].append(lambda: redirect(f"{other}{TEAMS}", status))
            with pytest.raises(ClientError, match=f"redirects to another origin, {other}, which is not followed"):
                async with Scoreboard(url) as client, asyncio.timeout(DEADLINE):
                    await anext(aiter(client))
            assert elsewhere.queries == set()

    @pytest.mark.parametrize(
        "location", ["//127.0.0.2{port}/", "https://127.0.0.1{port}/", "http://127.0.0.1:1/", "mailto:a@b"]
    )
    async def test_another_scheme_host_or_port_is_another_origin(self, server: Server, url: str, location: str):
        port = url[url.rindex(":") :]
        for path in BOTH:
            server.instead[path].append(lambda: redirect(location.format(port=port)))
        with pytest.raises(ClientError, match=r"redirects to (another origin|something that is no http URL)"):
            async with Scoreboard(url) as client, asyncio.timeout(DEADLINE):
                await anext(aiter(client))

    async def test_those_of_a_stream_are_an_outage_and_those_in_a_circle_end(self, server: Server, url: str):
        server.instead[STREAM].append(lambda: redirect("https://ctf.example.org/"))
        server.instead[STREAM].extend(6 * [lambda: redirect("?deltas=1")])
        problems = set()
        async with Scoreboard(url) as client:
            await live(client, server)

            def follows() -> bool:
                problems.add(client.outage.problem if client.outage else "")
                return len(server.joined) == 8 and client.outage is None

            await until(follows, "it follows")
        assert any("another origin" in problem for problem in problems)


class TestFraming:
    """Bodies as any server or proxy may frame them, in pieces of any size."""

    @pytest.mark.parametrize("size", [1, 7, 100_000])
    @pytest.mark.parametrize("framing", ["chunked", "extended", "closed"])
    async def test_streams_and_documents(self, framing: str, size: int):
        board, next_board = view(1), view(2)
        documents = dict(zip(BOTH, document_text.leaderboards(board), strict=True))
        step = VersionedDelta(1, 2, diff(board, next_board))
        ready = f"retry: 100\nid: {EPOCH}-1\nevent: ready\ndata: {{}}\n\n"
        events = f"{ready}id: {EPOCH}-2\nevent: delta\ndata: ".encode() + step.data() + b"\n\n"
        last = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode().partition("?")[0]
            body = documents.get(path, events)
            kind = "application/json" if path in documents else "text/event-stream"
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nX-Scoreboard-Version: {EPOCH}-1\r\n"
            head += "Connection: close\r\n\r\n" if framing == "closed" else "Transfer-Encoding: chunked\r\n\r\n"
            writer.write(head.encode())
            if framing != "closed":
                extension = b";x=y" if framing == "extended" else b""
                pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
                body = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
            for at in range(0, len(body), size):
                writer.write(body[at : at + size])
                await writer.drain()
            if path in documents:
                writer.write(b"" if framing == "closed" else b"0\r\n\r\n")
            else:
                await last.wait()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
            host, port = listening.sockets[0].getsockname()
            try:
                async with Scoreboard(f"http://{host}:{port}") as client:
                    boards = aiter(client)
                    while (found := await following(boards)).version.number < 2:
                        pass
                    assert found.documents == document_text.leaderboards(next_board)
            finally:
                last.set()


class TestMistakes:
    @pytest.mark.parametrize("url", ["ctf.example.org", "ftp://ctf.example.org", "https://", "http://[", ""])
    def test_what_is_no_address_is_said_at_once(self, url: str):
        with pytest.raises(ClientError, match="is no URL"):
            Scoreboard(url)

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (lambda: web.json_response({"error": "no such division"}, status=404), "answers 404 no such division"),
            (lambda: web.Response(status=401), "answers 401 Unauthorized"),
            (lambda: web.Response(text="<!doctype html>"), "that is not scoreboardd"),
        ],
    )
    async def test_a_request_that_is_wrong_is_not_repeated(self, server: Server, url: str, answer, said: str):
        for path in BOTH:
            server.instead[path].append(answer)
        with pytest.raises(ClientError, match=f"^no scoreboard at {url}: {url}/api/leaderboard.*{said}$"):
            async with Scoreboard(url.replace("//", "//bot:secret@")) as client, asyncio.timeout(DEADLINE):
                await anext(aiter(client))
        assert server.joined == []

    async def test_it_has_to_be_entered(self):
        with pytest.raises(RuntimeError, match="has to be entered"):
            await anext(aiter(Scoreboard("http://127.0.0.1")))


class TestLeaving:
    async def test_iterating_ends_with_it_and_nothing_is_left(self, server: Server, url: str):
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            waiting = asyncio.ensure_future(anext(boards, None))
        assert await waiting is None
        assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint({"scoreboardd.client"})

    async def test_what_its_user_raises_comes_through_as_it_is(self, url: str):
        async def failing() -> None:
            async with Scoreboard(url) as client:
                async for board in client:
                    raise ZeroDivisionError(board)

        with pytest.raises(ZeroDivisionError):
            await failing()

    async def test_whoever_has_no_time_to_wait_may_come_again(self, server: Server, url: str):
        async with Scoreboard(url) as client:
            boards = await live(client, server)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await anext(boards)
            await server.step(2, view(2))
            await becomes(boards, server)
