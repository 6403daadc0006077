"""A topic: up to ten thousand streams that receive the same events. No stream can delay another.

- An event is rendered once for all subscribers that were last sent the same version, and shared. Nearly all subscribers
  are *synced*: they were sent the last event, and their transports hold no bytes. The next event costs one send() for
  each of them, past the transport, and reads nothing else of them: with ten thousand subscribers, reading an attribute
  of each costs as much as all other work outside the kernel.
- All others (new ones, those that lag, those that do not own their transport) are served one by one, and become synced
  when they can. Only a subscriber that lags has a queue. The queue is bounded: when it is full, one event that
  leads from the version the subscriber was given to the newest replaces the queued ones.
- A subscriber that lags and takes nothing for too long is disconnected. It takes bytes when the kernel accepts them, so
  a reader that stopped is detected once its window and our send buffer (`SEND_BUFFER_BYTES`) are full.
- All subscribers of a topic use the same version of HTTP. With HTTP/1.1 a frame is a chunk of the body (`chunked`),
  whose head is part of the shared bytes. Subscribers with HTTP/1.0 have topics of their own, without chunks.
- A fan-out works in batches and lets the loop turn between them. A new update does not interrupt it, because then the
  last batches could starve. Of several waiting updates only the newest is sent.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Protocol, TypeVar

from scoreboardd.model import Version
from scoreboardd.telemetry.metrics import Metrics

T = TypeVar("T")

SEND_BATCH = 256
"Subscribers written to between two turns of the loop: about 2 ms of work."
SEND_BUFFER_BYTES = 64 * 1024
"Bytes that the kernel may hold for a client that does not read. The kernel doubles the number for its own data."
PING = b": ping\n\n"
LAST_CHUNK = b"0\r\n\r\n"
PROBE_SECONDS = 1.0
"A client that closes its sending side, and does not reset the connection within this time, still reads."


def chunk(payload: bytes) -> bytes:
    """Return `payload`, of at least one byte, as a chunk of an HTTP/1.1 body."""
    return b"%x\r\n%s\r\n" % (len(payload), payload)


@dataclass(frozen=True)
class Frame:
    """One or more events as they are sent. A client that receives them has been sent `version`."""

    version: Version
    payload: bytes
    events: int = 1

    @cached_property
    def chunk(self) -> bytes:
        """The payload as a chunk, rendered once for all subscribers."""
        return chunk(self.payload)


class Update(Protocol):
    """Something that a topic sends to subscribers that have not reached `version`."""

    @property
    def version(self) -> Version: ...

    @property
    def lossless(self) -> bool:
        """Whether the update also contains all earlier updates that a subscriber has missed."""

    def since(self, last_sent: Version | None) -> Frame:
        """Return the frame for a subscriber that was last sent `last_sent`, which `version` follows."""


class Subscriber(asyncio.Protocol):
    """One stream: the protocol of a transport that was taken from the HTTP server after the request."""

    __slots__ = (
        "address",
        "blocked",
        "buffered",
        "owns_transport",
        "progress_at",
        "queue",
        "sent_at",
        "socket",
        "topic",
        "transport",
        "version",
    )

    def __init__(self, topic: "Topic", transport: asyncio.Transport, address: str) -> None:
        self.topic = topic
        self.transport = transport
        self.address = address
        self.owns_transport = False
        "It owns its transport, so we may send past the transport while that holds no bytes."
        self.socket: socket.socket | None = None
        "The socket for sending past the transport; None before it was first synced. The transport closes it."
        self.version: Version | None = None
        "The last version written to its transport. While it is synced, `Topic._last_sent` counts instead."
        self.sent_at = 0.0
        "The time of the loop at which something was last written to it alone."
        self.blocked = False
        "Its transport holds bytes that the kernel has not accepted."
        self.buffered = 0
        "The number of these bytes at the last check, and the time at which they last became fewer:"
        self.progress_at = 0.0
        self.queue: deque[Frame] | None = None
        "The frames that wait for the transport; None if it never lagged."

    @property
    def last_sent(self) -> Version | None:
        """The version that it has been sent once all waiting frames are written."""
        return self.queue[-1].version if self.queue else self.version

    def write(self, data: bytes | memoryview, now: float) -> None:
        self.sent_at = now
        self.transport.write(data)

    @property
    def has_left(self) -> bool:
        """Whether the client has reset the connection."""
        sock = self.transport.get_extra_info("socket")
        return sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    # asyncio.Protocol

    def pause_writing(self) -> None:
        self.blocked = True
        self.topic.lags(self)

    def resume_writing(self) -> None:
        self.blocked = False
        self.topic.caught_up(self)

    def data_received(self, data: bytes) -> None:
        # A client of a stream sends nothing after its request, except that some send an empty line.
        if data.strip(b"\r\n"):
            self.transport.abort()

    def eof_received(self) -> bool:
        # The client has closed its sending side and may still read. If it has left, the next write leads to a reset:
        # at once on this machine, later over a network.
        loop = asyncio.get_running_loop()
        if not self.blocked:
            self.write(self.topic.heartbeat, loop.time())
        if self.has_left:
            return False
        loop.call_later(PROBE_SECONDS, self._abort_if_left)
        return True

    def _abort_if_left(self) -> None:
        if not self.transport.is_closing() and self.has_left:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        # A timeout means that the kernel detected the stall before we did (TCP_USER_TIMEOUT).
        self.topic.leave(self, isinstance(exc, TimeoutError))


class Topic:
    """Sends updates to its subscribers.

    It calls `leave(subscriber, stalled)` when a stream ends or is disconnected. `queue` is the number of frames that
    may wait for a subscriber. `chunked`: the bodies are in chunks.
    """

    def __init__(
        self, metrics: Metrics, *, queue: int, leave: Callable[[Subscriber, bool], None], chunked: bool = False
    ) -> None:
        self._metrics = metrics
        self._queue = queue
        self.leave = leave
        self.chunked = chunked
        self.heartbeat = chunk(PING) if chunked else PING
        # Every subscriber is in one of these two.
        self._synced: dict[Callable[[bytes], int], Subscriber] = {}
        self._others: dict[Subscriber, None] = {}
        self._last_sent: Version | None = None
        "The version that the synced subscribers were sent last, and the time of the loop at which it was sent:"
        self._last_sent_at = 0.0
        self._publishing = False
        "A fan-out is under way."
        self._lagging: dict[Subscriber, None] = {}
        self._waiting_update: Update | None = None
        "The newest update that is not fanned out yet."

    def __len__(self) -> int:
        return len(self._synced) + len(self._others)

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber in self._others or (subscriber.socket is not None and subscriber.socket.send in self._synced)

    def statistics(self) -> dict[str, Any]:
        return {
            "clients": len(self),
            "synced": len(self._synced),
            "lagging": self.lagging,
            "last_sent": str(self._last_sent) if self._last_sent else None,
        }

    @property
    def lagging(self) -> int:
        return len(self._lagging)

    # Subscribers

    def add(
        self, subscriber: Subscriber, head: bytes, greeting: bytes, version: Version | None, missed: Frame | None
    ) -> None:
        """Send `head`, `greeting` and `missed` to a client, after which it has `version`. Later updates follow.

        `missed` is written separately: it may be large, and the same bytes may go to many clients.
        """
        sock = subscriber.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            subscriber.owns_transport = subscriber.transport.get_protocol() is subscriber
        # The transport calls `pause_writing` as soon as it has to keep a byte, and `resume_writing` when it has none.
        subscriber.transport.set_write_buffer_limits(high=0)
        subscriber.version = version
        self._others[subscriber] = None
        now = asyncio.get_running_loop().time()
        subscriber.write(head + (chunk(greeting) if self.chunked else greeting), now)
        if missed is not None:
            subscriber.write(self._rendered(missed), now)

    def _rendered(self, frame: Frame) -> bytes:
        return frame.chunk if self.chunked else frame.payload

    def remove(self, subscriber: Subscriber) -> None:
        self._mark_unsynced(subscriber)
        self._others.pop(subscriber, None)
        if subscriber.socket is not None:
            # The transport closes the descriptor after this call, and another connection may then have its number.
            subscriber.socket.detach()
        self._lagging.pop(subscriber, None)

    def end(self, subscriber: Subscriber) -> None:
        """End a stream after its transport has sent the bytes that it holds."""
        self._mark_unsynced(subscriber)
        self._others.pop(subscriber, None)
        subscriber.queue = None
        if self.chunked and not subscriber.transport.is_closing():
            subscriber.transport.write(LAST_CHUNK)
        subscriber.transport.close()

    def close(self) -> None:
        """End all streams of the topic."""
        for subscriber in [*self._synced.values(), *self._others]:
            self.end(subscriber)

    # Updates

    def publish(self, update: Update) -> None:
        """Make the next `fan_out` send `update` to all subscribers that have not reached it."""
        if self._waiting_update is not None and not update.lossless:
            self._metrics.dropped.labels("coalesced").inc(len(self))
        self._waiting_update = update

    async def fan_out(self) -> None:
        """Send the waiting updates, unless another call is doing so."""
        if self._publishing:
            return
        self._publishing = True
        try:
            while self._waiting_update is not None:
                update, self._waiting_update = self._waiting_update, None
                sent = await self._send_to_synced(update) + await self._send_to_others(update)
                self._metrics.events_sent.inc(sent)
        finally:
            self._publishing = False

    async def _send_to_synced(self, update: Update) -> int:
        if not update.version.follows(self._last_sent):
            return 0
        frame = update.since(self._last_sent)
        loop, payload = asyncio.get_running_loop(), self._rendered(frame)
        size = len(payload)
        self._last_sent, self._last_sent_at = update.version, loop.time()
        synced, last_sent, sent = self._synced, list(self._synced), 0
        for part in slices(last_sent):
            # No subscriber becomes synced before this loop ends, so the number shows whether any has left.
            present = part if len(synced) == len(last_sent) else [send for send in part if send in synced]
            for send in present:
                try:
                    taken = send(payload)
                except OSError:
                    taken = 0  # the transport gets the error, or waits
                if taken < size:
                    synced[send].write(memoryview(payload)[taken:], loop.time())
            sent += len(present)
            await asyncio.sleep(0)
        return sent * frame.events

    async def _send_to_others(self, update: Update) -> int:
        sent = 0
        for part in slices(list(self._others)):
            now = asyncio.get_running_loop().time()
            for subscriber in part:
                # A subscriber may have left meanwhile, and a closed transport of uvloop raises on a write.
                if subscriber in self._others and update.version.follows(subscriber.last_sent):
                    sent += self._offer(subscriber, update, now)
            await asyncio.sleep(0)
        return sent

    def _offer(self, subscriber: Subscriber, update: Update, now: float) -> int:
        """Write `update` to the transport or the queue. Return the number of events written to the transport."""
        if not subscriber.blocked:
            frame = update.since(subscriber.version)
            subscriber.version = frame.version
            subscriber.write(self._rendered(frame), now)
            if subscriber.owns_transport and not subscriber.blocked and frame.version == self._last_sent:
                self._mark_synced(subscriber)
            return frame.events
        if subscriber.queue is None:
            subscriber.queue = deque()
        if len(subscriber.queue) >= self._queue:
            self._metrics.dropped.labels("coalesced").inc(len(subscriber.queue))
            subscriber.queue.clear()
        subscriber.queue.append(update.since(subscriber.last_sent))
        return 0

    def _mark_synced(self, subscriber: Subscriber) -> None:
        if subscriber.socket is None:
            subscriber.socket = socket.socket(fileno=subscriber.transport.get_extra_info("socket").fileno())
            subscriber.socket.setblocking(False)
        del self._others[subscriber]
        self._synced[subscriber.socket.send] = subscriber

    def _mark_unsynced(self, subscriber: Subscriber) -> bool:
        """Return whether it was synced."""
        return subscriber.socket is not None and self._synced.pop(subscriber.socket.send, None) is not None

    def lags(self, subscriber: Subscriber) -> None:
        if self._mark_unsynced(subscriber):
            subscriber.version = self._last_sent
            self._others[subscriber] = None
        if subscriber in self:
            subscriber.buffered = subscriber.transport.get_write_buffer_size()
            subscriber.progress_at = asyncio.get_running_loop().time()
            self._lagging[subscriber] = None

    def caught_up(self, subscriber: Subscriber) -> None:
        """Write the waiting frames: its transport holds no bytes any more."""
        self._lagging.pop(subscriber, None)
        if subscriber.queue:
            waiting, subscriber.queue = subscriber.queue, None
            subscriber.version = waiting[-1].version
            self._metrics.events_sent.inc(sum(frame.events for frame in waiting))
            subscriber.write(b"".join(map(self._rendered, waiting)), asyncio.get_running_loop().time())

    # Heartbeats and stalled subscribers

    async def send_heartbeats(self, quiet_since: float) -> None:
        """Send a heartbeat to each subscriber that received nothing after `quiet_since`, in the time of the loop."""
        quiet = [subscriber for subscriber in self._others if subscriber.sent_at <= quiet_since]
        if self._last_sent_at <= quiet_since:
            quiet += [subscriber for subscriber in self._synced.values() if subscriber.sent_at <= quiet_since]
        for part in slices(quiet):
            if self._publishing:
                break  # an event serves as well; others receive a heartbeat at the next call
            now = asyncio.get_running_loop().time()
            for subscriber in part:
                if subscriber not in self or subscriber.sent_at > quiet_since:
                    continue
                if subscriber.blocked:
                    subscriber.sent_at = now  # it has bytes to read
                else:
                    subscriber.write(self.heartbeat, now)
            await asyncio.sleep(0)

    def cut_off_stalled(self, timeout: float) -> None:
        """Disconnect subscribers that lag and have taken nothing for `timeout` seconds."""
        now = asyncio.get_running_loop().time()
        for subscriber in list(self._lagging):
            buffered = subscriber.transport.get_write_buffer_size()
            if buffered < subscriber.buffered:
                subscriber.progress_at = now
            subscriber.buffered = buffered
            if now - subscriber.progress_at >= timeout:
                subscriber.transport.abort()
                self.leave(subscriber, True)


def slices(items: list[T], size: int = SEND_BATCH) -> Iterator[list[T]]:
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part
