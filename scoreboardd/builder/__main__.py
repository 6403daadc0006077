"""The child: answers requests until the parent is gone.

Started by `process` as `python -m scoreboardd.builder FD LOG_LEVEL LOG_FORMAT`. It ignores the signals that end the
daemon, which a terminal or systemd may send to every process of the group: its life ends with the parent's end of the
socket.
"""

import asyncio
import signal
import socket
import sys
import traceback
from typing import Any

import uvloop

from scoreboardd.backends.base import Damaged, Lease, SnapshotMetadata, StoredSnapshot, Unavailable
from scoreboardd.backends.factory import open_document_store
from scoreboardd.backends.postgres.documents import PostgresDocumentStore
from scoreboardd.builder.channel import Channel, close_descriptor
from scoreboardd.builder.incremental_writer import IncrementalWriter
from scoreboardd.builder.service import BuilderService
from scoreboardd.builder.shared_documents import Manifest, MemfdFile, SharedDocuments, pack
from scoreboardd.model import Version
from scoreboardd.platforms.postgres import PostgresSource, SourceError
from scoreboardd.telemetry import logs

Answer = tuple[dict[str, Any], MemfdFile | None]


async def serve(channel: Channel) -> None:
    opening = await channel.receive()
    if opening is None:
        return
    options, _ = opening
    builder = BuilderService(
        PostgresSource(**options["source"]),
        open_document_store(**options["vault"]),
        PostgresDocumentStore(**options["persister"]) if options["persister"] else None,
    )
    writer = IncrementalWriter()
    async with asyncio.TaskGroup() as tasks:
        while (request := await channel.receive()) is not None:
            tasks.create_task(_serve_one(channel, builder, writer, *request))
        # The parent is gone: nobody waits for what is still under way.
        raise SystemExit(0)


async def _serve_one(
    channel: Channel,
    builder: BuilderService,
    writer: IncrementalWriter,
    request: dict[str, Any],
    descriptor: int | None,
) -> None:
    memfd: MemfdFile | None = None
    try:
        async with asyncio.timeout(request["within"]):  # then nobody waits for the answer any more
            answer, memfd = await _answer(builder, writer, request, descriptor)
    except SourceError as error:
        answer = {"error": "source", "text": str(error)}
    except Damaged as error:
        answer = {"error": "damaged", "text": str(error)}
    except Unavailable as error:
        answer = {"error": "store", "text": str(error)}
    except Exception:  # noqa: BLE001  a fault of ours in one request, reported as such, must not end the others
        answer = {"error": "builder", "text": traceback.format_exc()}
    try:
        await channel.send(answer | {"id": request["id"]}, None if memfd is None else memfd.descriptor)
    except OSError:
        return  # the parent is gone, which `serve` learns by itself


async def _answer(
    builder: BuilderService, writer: IncrementalWriter, request: dict[str, Any], descriptor: int | None
) -> Answer:
    match request:
        case {"op": "build", "token": token, "version": version}:
            how = {name: request[name] for name in ("quiet", "full", "solves", "announced", "again")}
            work = await builder.build(Lease(token, Version(**version)), **how)
            answer = {
                "metadata": work.metadata,
                "timings": work.timings,
                "rows": work.rows,
                "full": work.full,
                "complete": work.metadata.complete,
                "size": work.size,
                "staged_bytes": work.staged_bytes,
                "unchanged": work.unchanged,
                "findings": work.findings,
            }
            if work.documents is None:
                return answer, None
            memfd, manifest = writer.pack(work.documents)
            return answer | {"manifest": manifest}, memfd
        case {"op": "load", "have": have}:
            return _stored(await builder.load(Version(**have) if have else None))
        case {"op": "restore"}:
            return _stored(await builder.restore())
        case {"op": "persist", "version": version, "metadata": metadata, "places": extents, "quiet": quiet}:
            documents = ((name, b"".join(frames)) for name, frames in _given(descriptor, extents).items())
            persisted = await builder.persist(Version(**version), SnapshotMetadata(**metadata), documents, quiet=quiet)
            return {"persisted": persisted}, None
        case {"op": "ping"}:
            return {}, None
        case {"op": "clock"}:
            return {"reading": (await builder.clock())._asdict()}, None
        case _:
            close_descriptor(descriptor)
            raise ValueError(f"unknown request {request.get('op')!r}")


def _stored(found: StoredSnapshot) -> Answer:
    if found.documents is None:
        return {"head": found.head}, None
    memfd, manifest = pack((name, [document]) for name, document in found.documents)
    return {"head": found.head, "manifest": manifest}, memfd


def _given(descriptor: int | None, extents: Manifest) -> SharedDocuments:
    if descriptor is None:
        raise ValueError("this needs the documents")
    return SharedDocuments(descriptor, extents)


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
