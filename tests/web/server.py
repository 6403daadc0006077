"""The listeners of one node, in this process, on real sockets, without the cluster behind them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any, TypeVar

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from scoreboardd.cache.document_cache import DocumentCache
from scoreboardd.model import ChangeEvent, Snapshot, Version
from scoreboardd.stream.accept import FastAcceptFactory
from scoreboardd.stream.broadcaster import Broadcaster
from scoreboardd.stream.endpoint import PATH, StreamEndpoint, scoreboard_frame
from scoreboardd.system.clock import Clock
from scoreboardd.telemetry.metrics import Metrics
from scoreboardd.web import app as public
from scoreboardd.web.address import ClientAddressResolver
from scoreboardd.web.documents import DocumentEndpoint
from scoreboardd.web.frontend import Frontend
from scoreboardd.web.info import InfoEndpoint
from scoreboardd.web.rebuild import RebuildEndpoint
from tests.snapshots import snapshot
from tests.web.client import DEADLINE, Answer, Connection, Stream

EPOCH = "7f3a"
NO_CLUSTER = SimpleNamespace(request=None)
"A runner that nobody asks for a rebuild."
WAYS = ("door", "hand-over")
"How a connection becomes a stream: before aiohttp sees it, or taken from aiohttp."
SOLVED = ChangeEvent("all", "submission_correct", "2026-02-27T18:00:00Z")

C = TypeVar("C", bound=Connection)


def version(number: int, epoch: str = EPOCH) -> Version:
    return Version(epoch, number)


async def becomes(condition: Callable[[], Any]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@dataclass
class Listener:
    """A bound listener and the connections that a test made to it."""

    address: tuple[str, int]
    runner: web.AppRunner
    connections: list[Connection] = field(default_factory=list)

    async def connect(self, kind: type[C] = Connection, **options: Any) -> C:
        connection = await kind.open(self.address, **options)
        self.connections.append(connection)
        return connection

    async def ask(
        self, target: str, headers: dict[str, str | bytes] | None = None, *, method: str = "GET", **options: Any
    ) -> Answer:
        """One request on a connection of its own."""
        connection = await self.connect(**options)
        await connection.request(target, headers, method=method)
        answer = await connection.answer(to=method)
        connection.close()
        return answer


@dataclass
class Node(Listener):
    """The public listener and what is behind it."""

    cache: DocumentCache = field(default_factory=DocumentCache)
    metrics: Metrics = field(default_factory=Metrics)
    documents: DocumentEndpoint = field(init=False)
    broadcaster: Broadcaster = field(init=False)
    streams: StreamEndpoint = field(init=False)

    async def stream(
        self,
        headers: dict[str, str | bytes] | None = None,
        *,
        query: str = "",
        protocol: str = "HTTP/1.1",
        **options: Any,
    ) -> Stream:
        """An open stream, of whose body nothing is read yet."""
        stream = await self.connect(Stream, **options)
        await stream.request(PATH + query, headers, protocol=protocol)
        return await stream.greet()

    async def greeted(self, **options: Any) -> Stream:
        """An open stream whose greeting has been read."""
        stream = await self.stream(**options)
        assert b"\nevent: ready\n" in await stream.frame()
        return stream

    def serve(self, served: int | Snapshot, epoch: str = EPOCH) -> None:
        """Answer with this edition, or with some edition of that number, from now on."""
        if isinstance(served, int):
            served = snapshot(version(served, epoch))
        assert self.cache.install(served)

    def tell(self, number: int, event: ChangeEvent = SOLVED, epoch: str = EPOCH) -> bytes:
        """Tell everyone of a version; returns what they must get who are told notices."""
        self.streams.publish(version(number, epoch), event)
        return scoreboard_frame(version(number, epoch), event).payload

    def publish(self, number: int, event: ChangeEvent = SOLVED) -> bytes:
        """Both, as the coordinator does."""
        self.serve(number)
        return self.tell(number, event)

    def value(self, name: str, **labels: str) -> float:
        """Of a metric, as a monitor reads it."""
        for family in text_string_to_metric_families(self.metrics.exposition().decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        raise KeyError(name)

    def dropped(self, cause: str) -> float:
        return self.value("scoreboardd_sse_dropped_total", cause=cause)


@asynccontextmanager
async def listening(
    app: web.Application, *, door: StreamEndpoint | None = None, idle: float = DEADLINE, user_timeout: float = DEADLINE
) -> AsyncIterator[Listener]:
    """Serve `app` on a free port, with `FastAcceptFactory` if there is a door, with the limits of the daemon. `idle`
    is its `IDLE_TIMEOUT_SECONDS`; after `user_timeout` the kernel gives up on a peer that takes nothing."""
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=idle, shutdown_timeout=1.0, handler_cancellation=True
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        bound = socket.create_server(("127.0.0.1", 0), backlog=1024)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(user_timeout * 1000))
        assert runner.server is not None
        doorway = runner.server if door is None else FastAcceptFactory(door, runner.server, idle_timeout=idle)
        server = await asyncio.get_running_loop().create_server(doorway, sock=bound)
        stack.callback(server.close)
        listener = Listener(bound.getsockname(), runner)
        try:
            yield listener
        finally:
            for connection in listener.connections:
                connection.close()


class Cache(DocumentCache):
    """Stale whenever a test says so."""

    def __init__(self, clock: Clock | None, is_stale: Callable[[], bool]) -> None:
        super().__init__(clock)
        self._is_stale = is_stale

    @property
    def stale(self) -> bool:
        return self._is_stale()


@asynccontextmanager
async def serving(
    *,
    way: str = "door",
    first: int | None = 41,
    runner: Any = NO_CLUSTER,
    clock: Clock | None = None,
    stale: Callable[[], bool] = lambda: False,
    token: str = "",
    rebuild_timeout: float = DEADLINE,
    cors_origins: Iterable[str] = (),
    trusted: Iterable[str] = (),
    name: str = "Scoreboard",
    page: bool = True,
    max_clients: int = 1000,
    max_clients_per_ip: int = 0,
    queue: int = 16,
    heartbeat: float = 15.0,
    stall_timeout: float = 30.0,
    retry: tuple[float, float] = (1.0, 5.0),
    idle: float = DEADLINE,
    user_timeout: float = DEADLINE,
) -> AsyncIterator[Node]:
    """A node that serves version `first` and sends what it is told to send. `way` is one of `WAYS`."""
    cache, metrics = Cache(clock, stale), Metrics()
    if first is not None:
        cache.install(snapshot(version(first)))
    broadcaster = Broadcaster(
        metrics,
        max_clients=max_clients,
        max_clients_per_ip=max_clients_per_ip,
        queue=queue,
        heartbeat=heartbeat,
        stall_timeout=stall_timeout,
    )
    addresses = ClientAddressResolver(map(ip_network, trusted))
    streams = StreamEndpoint(
        cache,
        broadcaster,
        addresses,
        retry_min=retry[0],
        retry_max=retry[1],
        cors_origins=cors_origins,
    )
    documents = DocumentEndpoint(cache, metrics, write_timeout=stall_timeout)
    app = public.make(
        documents,
        streams,
        RebuildEndpoint(runner, cache, addresses, token=token, timeout=rebuild_timeout),
        InfoEndpoint(cache, name=name),
        Frontend(name) if page else None,
    )
    door = streams if way == "door" else None
    async with listening(app, door=door, idle=idle, user_timeout=user_timeout) as bound:
        node = Node(bound.address, bound.runner, bound.connections, cache, metrics)
        node.documents, node.broadcaster, node.streams = documents, broadcaster, streams
        sending = asyncio.create_task(broadcaster.run())
        try:
            yield node
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending  # raises what ended it before its time
            await broadcaster.drain(0)
