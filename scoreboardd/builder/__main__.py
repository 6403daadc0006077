"""The builder process: answers the daemon's requests until the daemon is gone.

The daemon starts it as `python -m scoreboardd.builder FD LOG_LEVEL LOG_FORMAT`. It ignores the signals that end the
daemon, which a terminal or systemd may send to every process of the group: it ends when the daemon's end of the socket
is closed.
"""

import asyncio
import signal
import socket
import sys
import traceback

import orjson
import uvloop

from scoreboardd.backends.base import Damaged, StoredSnapshot, Unavailable
from scoreboardd.backends.factory import open_document_store
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.board.rules import with_ties
from scoreboardd.builder.channel import Channel
from scoreboardd.builder.incremental_writer import IncrementalWriter
from scoreboardd.builder.messages import (
    REQUEST,
    Answer,
    AnswerBody,
    Build,
    Clock,
    Failure,
    Live,
    LiveBoards,
    Load,
    Persist,
    Persisted,
    Ping,
    Pong,
    Probe,
    Probed,
    ReadClock,
    Request,
    Restore,
    Stored,
)
from scoreboardd.builder.service import BuilderService
from scoreboardd.builder.shared_documents import Manifest, MemfdFile, SharedDocuments, pack
from scoreboardd.platforms.factory import SourceOptions, open_source
from scoreboardd.platforms.platform import load_platform
from scoreboardd.platforms.source import SourceError
from scoreboardd.telemetry import logs

Served = tuple[AnswerBody, tuple[MemfdFile, Manifest] | None]
"The body of an answer, and the documents that go with it."


async def serve(channel: Channel) -> None:
    """Answer requests until the daemon is gone."""
    first = await channel.receive()
    if first is None:
        return
    options = orjson.loads(first[0])
    source = SourceOptions(**options["source"])
    platform = load_platform(source.platform)
    builder = BuilderService(
        open_source(source),
        with_ties(platform.rules, source.ties),
        open_document_store(**options["document_store"]),
        PostgresDocumentStore(**options["persister"]) if options["persister"] else None,
        seal=source.freeze == "sealed",
        feed=source.feed,
    )
    writer = IncrementalWriter()
    async with asyncio.TaskGroup() as tasks:
        while (message := await channel.receive()) is not None:
            tasks.create_task(_serve_one(channel, builder, writer, *message))
        raise SystemExit(0)  # the daemon is gone, and nobody waits for what is still under way


async def _serve_one(
    channel: Channel, builder: BuilderService, writer: IncrementalWriter, data: bytes, descriptor: int | None
) -> None:
    request = REQUEST.validate_json(data)
    body: AnswerBody
    documents: tuple[MemfdFile, Manifest] | None = None
    try:
        async with asyncio.timeout(request.timeout_seconds):
            body, documents = await _answer(builder, writer, request, descriptor)
    except SourceError as error:
        body = Failure.of("source", str(error))
    except Damaged as error:
        body = Failure.of("damaged", str(error))
    except Unavailable as error:
        body = Failure.of("store", str(error))
    except Exception:  # noqa: BLE001  a fault of ours in one request is reported and must not end the others
        body = Failure.of("builder", traceback.format_exc())
    memfd, manifest = documents or (None, None)
    try:
        await channel.send(Answer(request.id, body, manifest), None if memfd is None else memfd.descriptor)
    except ValueError as error:
        await channel.send(Answer(request.id, Failure.of("builder", f"the answer is too long: {error}")))
    except OSError:
        return  # the daemon is gone, which `serve` learns by itself


async def _answer(
    builder: BuilderService, writer: IncrementalWriter, request: Request, descriptor: int | None
) -> Served:
    match request.body:
        case Build() as build:
            result, documents = await builder.build(request.token, build)
            return result, None if documents is None else writer.pack(documents)
        case Load(have):
            return _stored(await builder.load(have))
        case Restore():
            return _stored(await builder.restore())
        case Persist(version, metadata, manifest, quiet):
            if descriptor is None:
                raise ValueError("no documents came with the request to persist them")
            shared = SharedDocuments(descriptor, manifest)
            frames = ((name, b"".join(parts)) for name, parts in shared.items())
            return Persisted(await builder.persist(version, metadata, frames, quiet=quiet)), None
        case Ping():
            return Pong(), None
        case Live():
            metadata, boards = await builder.live()
            return LiveBoards(metadata), pack((name, document.frames()) for name, document in boards.items())
        case Probe():
            return Probed(await builder.is_changed()), None
        case ReadClock():
            return Clock(await builder.clock()), None


def _stored(found: StoredSnapshot) -> Served:
    if found.documents is None:
        return Stored(found.head), None
    return Stored(found.head), pack((name, [document]) for name, document in found.documents)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    descriptor, level, format = sys.argv[1:]
    logs.configure(level, format)
    end = socket.socket(fileno=int(descriptor))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Channel(end)))


if __name__ == "__main__":
    main()
