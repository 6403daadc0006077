"""The broadcaster: one frame of bytes, shared, to ten thousand streams, none of which can slow another.

- A frame is built once and shared. Nearly all clients are in step: they were told the last frame, and their transports
  hold nothing. To tell them the next is one send() each, past the transport, and nothing of theirs is looked at: at
  ten thousand, fetching what is known of a client costs as much as all the rest that is not the kernel's.
- All others (newcomers, those that lag, those whose connection is still aiohttp's) are told one by one, and fall into
  step when they can. Only a client that lags has anything in its queue. The queue is bounded. Events are full-state
  notices, so when it is full the newest takes the place of all.
- A client that lags and takes nothing for `stall_timeout` is cut off. What counts as taking is the kernel's accepting
  bytes, so a reader that stopped is found once its window and our send buffer (`SNDBUF`) are full.
- The fan-out goes in slices and lets the loop turn between them. Versions that come while it is under way do not break
  it off, or the last slices might starve; of those that wait for it, only the newest is sent.
- Heartbeats go to clients that nothing was written to for `heartbeat`; one timer serves all.
"""

import asyncio
import math
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from scoreboardd.backend import wire
from scoreboardd.edition import Event, Version
from scoreboardd.telemetry.metrics import Metrics

T = TypeVar("T")

SLICE = 256
"Clients written to between two turns of the loop: about 2 ms of work."
SNDBUF = 64 * 1024
"Bytes the kernel may hold for a client that does not read; the kernel doubles it for its own bookkeeping."
PING = b": ping\n\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as it goes over the wire, told to clients that have not reached `version`."""

    version: Version
    payload: bytes


def scoreboard_frame(version: Version, event: Event) -> Frame:
    data = wire.announcement(version, event)
    return Frame(version, b"id: %s\nevent: scoreboard\ndata: %s\n\n" % (str(version).encode(), data))


def ready_payload(version: Version | None) -> bytes:
    id_line = b"" if version is None else b"id: %s\n" % str(version).encode()
    return id_line + b"event: ready\ndata: {}\n\n"


class Client(asyncio.Protocol):
    """One stream: the protocol of a transport that was taken over from the HTTP server after the request."""

    __slots__ = (
        "_broadcaster",
        "address",
        "blocked",
        "buffered",
        "passable",
        "progress_at",
        "queue",
        "sent_at",
        "socket",
        "transport",
        "version",
    )

    def __init__(self, broadcaster: "Broadcaster", transport: asyncio.Transport, address: str) -> None:
        self._broadcaster = broadcaster
        self.transport = transport
        self.address = address
        self.passable = False
        "The transport is its own, and may be passed by while it holds nothing."
        self.socket: socket.socket | None = None
        "The way past it, from when it first falls into step on; borrowed, for the transport to close."
        self.version: Version | None = None
        "The last version it was told of; while in step, `Broadcaster` knows."
        self.sent_at = 0.0
        "When something was last written to it, and to it alone."
        self.blocked = False
        "Its transport holds bytes that the kernel has not taken."
        self.buffered = 0
        "How many, when last looked at; and when that was last less than before:"
        self.progress_at = 0.0
        self.queue: deque[Frame] | None = None
        "What waits for the transport; None as long as it never lagged."

    def write(self, payload: bytes, now: float) -> None:
        self.sent_at = now
        self.transport.write(payload)

    # asyncio.Protocol

    def pause_writing(self) -> None:
        self.blocked = True
        self._broadcaster.lags(self)

    def resume_writing(self) -> None:
        self.blocked = False
        self._broadcaster.caught_up(self)

    def data_received(self, data: bytes) -> None:
        # The request was all that a client of a stream has to say.
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        # The kernel gives up on a peer that acknowledges nothing (TCP_USER_TIMEOUT): a stall that it found first.
        self._broadcaster.leave(self, stalled=isinstance(exc, TimeoutError))


class Full(Exception):
    """No room for another client."""


class Broadcaster:
    """All streams of this node. `run` does the sending."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_clients: int,
        max_clients_per_ip: int,
        queue: int,
        heartbeat: float,
        stall_timeout: float,
    ) -> None:
        self._metrics = metrics
        self._max_clients = max_clients
        self._max_clients_per_ip = max_clients_per_ip or max_clients
        self._queue = queue
        self._heartbeat = heartbeat
        self._stall_timeout = stall_timeout
        self._clients: dict[Client, None] = {}
        metrics.clients.set_function(lambda: len(self._clients))
        # Every client is in one of these two.
        self._in_step: dict[Callable[[bytes], int], Client] = {}
        self._others: dict[Client, None] = {}
        self._told: Version | None = None
        "What those in step were told last, and when:"
        self._told_at = 0.0
        self._telling = False
        "A fan-out is under way."
        self._lagging: dict[Client, None] = {}
        self._per_address: dict[str, int] = {}
        self._frame: Frame | None = None
        "The newest that is not yet fanned out."
        self._news = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def lagging(self) -> int:
        return len(self._lagging)

    # Coming and going

    def admit(self, address: str) -> None:
        """Raises `Full` if a client from `address` may not join now."""
        if not self.has_room(address):
            self._metrics.dropped.labels("limit").inc()
            raise Full

    def has_room(self, address: str) -> bool:
        return (
            not self._draining
            and len(self._clients) < self._max_clients
            and self._per_address.get(address, 0) < self._max_clients_per_ip
        )

    def join(self, client: Client, greeting: bytes, version: Version | None) -> None:
        """Greet a client with `greeting`, which told it of `version`; from now on it is told of every other."""
        sock = client.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF)
            client.passable = client.transport.get_protocol() is client
        # The transport calls `pause_writing` as soon as it has to keep a byte, and `resume_writing` when it has none.
        client.transport.set_write_buffer_limits(high=0)
        client.version = version
        self._clients[client] = None
        self._others[client] = None
        self._empty.clear()
        self._per_address[client.address] = self._per_address.get(client.address, 0) + 1
        client.write(greeting, asyncio.get_running_loop().time())

    def leave(self, client: Client, *, stalled: bool = False) -> None:
        if client not in self._clients:
            return
        if stalled:
            self._metrics.dropped.labels("stalled").inc()
        del self._clients[client]
        self._fall_out(client)
        self._others.pop(client, None)
        if client.socket is not None:
            # In time: a transport first tells of its end, and then closes the descriptor, which may become another's.
            client.socket.detach()
        self._lagging.pop(client, None)
        left = self._per_address[client.address] - 1
        if left:
            self._per_address[client.address] = left
        else:
            del self._per_address[client.address]
        if not self._clients:
            self._empty.set()

    # Telling

    def tell(self, frame: Frame) -> None:
        """Send `frame` to everyone who is not there yet; returns at once."""
        if self._frame is not None:
            self._metrics.dropped.labels("coalesced").inc(len(self._clients))
        self._frame = frame
        self._news.set()

    async def run(self) -> None:
        """Send what is told, and heartbeats, and cut off who stalls, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fan_out())
            tasks.create_task(self._look_after())

    async def _fan_out(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            frame, self._frame = self._frame, None
            if frame is not None:
                self._telling = True
                sent = await self._send_in_step(frame) + await self._send_to_others(frame)
                self._telling = False
                self._metrics.events_sent.inc(sent)

    async def _send_in_step(self, frame: Frame) -> int:
        if not frame.version.follows(self._told):
            return 0
        loop, payload, size = asyncio.get_running_loop(), frame.payload, len(frame.payload)
        self._told, self._told_at = frame.version, loop.time()
        in_step, told, sent = self._in_step, list(self._in_step), 0
        for part in _slices(told):
            # Nobody falls into step before this is over, so that it shows if somebody has left.
            present = part if len(in_step) == len(told) else [send for send in part if send in in_step]
            for send in present:
                try:
                    taken = send(payload)
                except OSError:
                    taken = 0  # the transport finds out why, or waits
                if taken < size:
                    in_step[send].write(payload[taken:], loop.time())
            sent += len(present)
            await asyncio.sleep(0)
        return sent

    async def _send_to_others(self, frame: Frame) -> int:
        sent = 0
        for part in _slices(list(self._others)):
            now = asyncio.get_running_loop().time()
            for client in part:
                # Some have left meanwhile, and uvloop's closed transports raise when written to.
                if client in self._others and frame.version.follows(client.version):
                    sent += self._offer(client, frame, now)
            await asyncio.sleep(0)
        return sent

    def _offer(self, client: Client, frame: Frame, now: float) -> bool:
        client.version = frame.version
        if not client.blocked:
            client.write(frame.payload, now)
            if client.passable and not client.blocked and frame.version == self._told:
                self._fall_in(client)
            return True
        if client.queue is None:
            client.queue = deque()
        if len(client.queue) >= self._queue:
            self._metrics.dropped.labels("coalesced").inc(len(client.queue))
            client.queue.clear()
        client.queue.append(frame)
        return False

    def _fall_in(self, client: Client) -> None:
        if client.socket is None:
            client.socket = socket.socket(fileno=client.transport.get_extra_info("socket").fileno())
            client.socket.setblocking(False)
        del self._others[client]
        self._in_step[client.socket.send] = client

    def _fall_out(self, client: Client) -> bool:
        """Whether it was in step."""
        return client.socket is not None and self._in_step.pop(client.socket.send, None) is not None

    def lags(self, client: Client) -> None:
        if client in self._clients:
            client.buffered = client.transport.get_write_buffer_size()
            client.progress_at = asyncio.get_running_loop().time()
            self._lagging[client] = None
            if self._fall_out(client):
                client.version = self._told
                self._others[client] = None

    def caught_up(self, client: Client) -> None:
        """Its transport is empty again: give it what waits, as one write."""
        self._lagging.pop(client, None)
        if client.queue:
            waiting = b"".join(frame.payload for frame in client.queue)
            self._metrics.events_sent.inc(len(client.queue))
            client.queue = None
            client.write(waiting, asyncio.get_running_loop().time())

    # Looking after them

    async def _look_after(self) -> None:
        period = min(1.0, self._heartbeat / 4, self._stall_timeout / 4)
        while True:
            await asyncio.sleep(period)
            self._cut_off_stalled()
            await self._send_heartbeats()

    async def _send_heartbeats(self) -> None:
        quiet_since = asyncio.get_running_loop().time() - self._heartbeat
        quiet = [client for client in self._others if client.sent_at <= quiet_since]
        if self._told_at <= quiet_since:
            quiet += [client for client in self._in_step.values() if client.sent_at <= quiet_since]
        for part in _slices(quiet):
            if self._telling:
                break  # an event is as good, and who gets none has a heartbeat when this is next looked at
            now = asyncio.get_running_loop().time()
            for client in part:
                if client not in self._clients or client.sent_at > quiet_since:
                    continue
                if client.blocked:
                    client.sent_at = now  # it has enough to take
                else:
                    client.write(PING, now)
            await asyncio.sleep(0)

    def _cut_off_stalled(self) -> None:
        now = asyncio.get_running_loop().time()
        for client in list(self._lagging):
            buffered = client.transport.get_write_buffer_size()
            if buffered < client.buffered:
                client.progress_at = now
            client.buffered = buffered
            if now - client.progress_at >= self._stall_timeout:
                client.transport.abort()
                self.leave(client, stalled=True)

    async def drain(self, seconds: float) -> None:
        """Admit nobody, and end all streams within `seconds`, spread over them so that the browsers return spread."""
        self._draining = True
        loop = asyncio.get_running_loop()
        # The last tenth is for the bytes of the last ones to get out.
        start, spread = loop.time(), seconds * 0.9
        leaving = list(self._clients)
        step = math.ceil(max(1, len(leaving) * 0.02))
        for number, part in enumerate(_slices(leaving, step), start=1):
            for client in part:
                client.transport.close()
            await asyncio.sleep(max(0.0, start + spread * number * step / max(1, len(leaving)) - loop.time()))
        try:
            async with asyncio.timeout_at(start + seconds):
                await self._empty.wait()
        except TimeoutError:
            for client in list(self._clients):
                client.transport.abort()


def _slices(everyone: list[T], size: int = SLICE) -> Iterator[list[T]]:
    remaining = iter(everyone)
    while part := list(islice(remaining, size)):
        yield part
