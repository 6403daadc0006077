"""A feed: streams that are told the same thing, ten thousand of them, none of which can slow another.

- What is told is built once for all who were last told of the same version, and shared. Nearly all clients are in step:
  they were told the last news, and their transports hold nothing. To tell them the next is one send() each, past the
  transport, and nothing of theirs is looked at: at ten thousand, fetching what is known of a client costs as much as
  all the rest that is not the kernel's.
- All others (newcomers, those that lag, those whose connection is still aiohttp's) are told one by one, and fall into
  step when they can. Only a client that lags has anything in its queue. The queue is bounded: when it is full, what
  waits gives way to what leads from the version that the client was given to the newest.
- A client that lags and takes nothing for too long is cut off. What counts as taking is the kernel's accepting bytes,
  so a reader that stopped is found once its window and our send buffer (`SEND_BUFFER_BYTES`) are full.
- All clients of a feed speak the same HTTP: to those of HTTP/1.1 a frame is a chunk of the body (`chunked`), whose head
  is part of the shared bytes; those of HTTP/1.0 are in a feed of their own, whose frames are bare.
- The fan-out goes in slices and lets the loop turn between them. News that comes while it is under way does not break
  it off, or the last slices might starve; of what waits for it, only the newest is told.
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
"Clients written to between two turns of the loop: about 2 ms of work."
SEND_BUFFER_BYTES = 64 * 1024
"Bytes the kernel may hold for a client that does not read; the kernel doubles it for its own bookkeeping."
PING = b": ping\n\n"
LAST_CHUNK = b"0\r\n\r\n"
PROBE_SECONDS = 1.0
"A client that sends no more, and has not reset the connection after so long, still listens."


def chunk(payload: bytes) -> bytes:
    """`payload`, of at least one byte, as a chunk of an HTTP/1.1 body."""
    return b"%x\r\n%s\r\n" % (len(payload), payload)


@dataclass(frozen=True)
class Frame:
    """One event as it goes over the wire, or several; whoever gets it has been told of `version`."""

    version: Version
    payload: bytes
    events: int = 1

    @cached_property
    def chunk(self) -> bytes:
        """The payload as a chunk, made once for all."""
        return chunk(self.payload)


class Update(Protocol):
    """What a feed tells clients that have not reached `version`."""

    @property
    def version(self) -> Version: ...

    @property
    def lossless(self) -> bool:
        """It says all that earlier news would have said, to whoever has not been told that."""

    def since(self, last_sent: Version | None) -> Frame:
        """What a client gets that was last told of `last_sent`, which `version` follows."""


class Subscriber(asyncio.Protocol):
    """One stream: the protocol of a transport that was taken over from the HTTP server after the request."""

    __slots__ = (
        "address",
        "blocked",
        "buffered",
        "passable",
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
        self.passable = False
        "The transport is its own, and may be passed by while it holds nothing."
        self.socket: socket.socket | None = None
        "The way past it, from when it first falls into step on; borrowed, for the transport to close."
        self.version: Version | None = None
        "The last version that its transport was given; while in step, the feed knows."
        self.sent_at = 0.0
        "When something was last written to it, and to it alone."
        self.blocked = False
        "Its transport holds bytes that the kernel has not taken."
        self.buffered = 0
        "How many, when last looked at; and when that was last less than before:"
        self.progress_at = 0.0
        self.queue: deque[Frame] | None = None
        "What waits for the transport; None as long as it never lagged."

    @property
    def last_sent(self) -> Version | None:
        """The version it will have been told of once it has taken what waits."""
        return self.queue[-1].version if self.queue else self.version

    def write(self, data: bytes | memoryview, now: float) -> None:
        self.sent_at = now
        self.transport.write(data)

    @property
    def has_left(self) -> bool:
        """It answered what was written to it with a reset."""
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
        # The request was all that a client of a stream has to say; an empty line after it says nothing.
        if data.strip(b"\r\n"):
            self.transport.abort()

    def eof_received(self) -> bool:
        # It has nothing more to say, and may still listen. One that has left answers the next write with a reset, which
        # comes at once on this machine, and after a while over a network.
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
        # The kernel gives up on a peer that acknowledges nothing (TCP_USER_TIMEOUT): a stall that it found first.
        self.topic.leave(self, isinstance(exc, TimeoutError))


class Topic:
    """`leave(client, stalled)` is called when the stream of one has ended, or is given up; `queue` is how many frames
    may wait for one; `chunked` says that the bodies of its clients are."""

    def __init__(
        self, metrics: Metrics, *, queue: int, leave: Callable[[Subscriber, bool], None], chunked: bool = False
    ) -> None:
        self._metrics = metrics
        self._queue = queue
        self.leave = leave
        self.chunked = chunked
        self.heartbeat = chunk(PING) if chunked else PING
        # Every client is in one of these two.
        self._synced: dict[Callable[[bytes], int], Subscriber] = {}
        self._others: dict[Subscriber, None] = {}
        self._last_sent: Version | None = None
        "What those in step were told last, and when:"
        self._last_sent_at = 0.0
        self._publishing = False
        "A fan-out is under way."
        self._lagging: dict[Subscriber, None] = {}
        self._waiting_update: Update | None = None
        "The newest that is not yet fanned out."

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

    # Coming and going

    def add(
        self, subscriber: Subscriber, head: bytes, greeting: bytes, version: Version | None, missed: Frame | None
    ) -> None:
        """Greet a client with `head`, `greeting` and `missed`, which told it of `version`; from now on it is told of
        others.

        `missed` is written by itself: it may be large, and many may have missed the same.
        """
        sock = subscriber.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            subscriber.passable = subscriber.transport.get_protocol() is subscriber
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
            # In time: a transport first tells of its end, and then closes the descriptor, which may become another's.
            subscriber.socket.detach()
        self._lagging.pop(subscriber, None)

    def end(self, subscriber: Subscriber) -> None:
        """End its stream after what its transport holds, and tell it nothing more."""
        self._mark_unsynced(subscriber)
        self._others.pop(subscriber, None)
        subscriber.queue = None
        if self.chunked and not subscriber.transport.is_closing():
            subscriber.transport.write(LAST_CHUNK)
        subscriber.transport.close()

    def close(self) -> None:
        """End all its streams."""
        for subscriber in [*self._synced.values(), *self._others]:
            self.end(subscriber)

    # Telling

    def publish(self, update: Update) -> None:
        """Have the next `fan_out` tell everyone who is not there yet."""
        if self._waiting_update is not None and not update.lossless:
            self._metrics.dropped.labels("coalesced").inc(len(self))
        self._waiting_update = update

    async def fan_out(self) -> None:
        """Tell all that there is to tell; if that is being done already, leave it to whoever does."""
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
            # Nobody falls into step before this is over, so that it shows if somebody has left.
            present = part if len(synced) == len(last_sent) else [send for send in part if send in synced]
            for send in present:
                try:
                    taken = send(payload)
                except OSError:
                    taken = 0  # the transport finds out why, or waits
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
                # Some have left meanwhile, and uvloop's closed transports raise when written to.
                if subscriber in self._others and update.version.follows(subscriber.last_sent):
                    sent += self._offer(subscriber, update, now)
            await asyncio.sleep(0)
        return sent

    def _offer(self, subscriber: Subscriber, update: Update, now: float) -> int:
        """How many events went to its transport."""
        if not subscriber.blocked:
            frame = update.since(subscriber.version)
            subscriber.version = frame.version
            subscriber.write(self._rendered(frame), now)
            if subscriber.passable and not subscriber.blocked and frame.version == self._last_sent:
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
        """Whether it was in step."""
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
        """Its transport is empty again: give it what waits, as one write."""
        self._lagging.pop(subscriber, None)
        if subscriber.queue:
            waiting, subscriber.queue = subscriber.queue, None
            subscriber.version = waiting[-1].version
            self._metrics.events_sent.inc(sum(frame.events for frame in waiting))
            subscriber.write(b"".join(map(self._rendered, waiting)), asyncio.get_running_loop().time())

    # Looking after them

    async def send_heartbeats(self, quiet_since: float) -> None:
        """To clients that nothing was written to after `quiet_since`, in the loop's time."""
        quiet = [subscriber for subscriber in self._others if subscriber.sent_at <= quiet_since]
        if self._last_sent_at <= quiet_since:
            quiet += [subscriber for subscriber in self._synced.values() if subscriber.sent_at <= quiet_since]
        for part in slices(quiet):
            if self._publishing:
                break  # an event is as good, and who gets none has a heartbeat when this is next looked at
            now = asyncio.get_running_loop().time()
            for subscriber in part:
                if subscriber not in self or subscriber.sent_at > quiet_since:
                    continue
                if subscriber.blocked:
                    subscriber.sent_at = now  # it has enough to take
                else:
                    subscriber.write(self.heartbeat, now)
            await asyncio.sleep(0)

    def cut_off_stalled(self, timeout: float) -> None:
        """Clients that lag, and have taken nothing for `timeout` seconds."""
        now = asyncio.get_running_loop().time()
        for subscriber in list(self._lagging):
            buffered = subscriber.transport.get_write_buffer_size()
            if buffered < subscriber.buffered:
                subscriber.progress_at = now
            subscriber.buffered = buffered
            if now - subscriber.progress_at >= timeout:
                subscriber.transport.abort()
                self.leave(subscriber, True)


def slices(everyone: list[T], size: int = SEND_BATCH) -> Iterator[list[T]]:
    remaining = iter(everyone)
    while part := list(islice(remaining, size)):
        yield part
