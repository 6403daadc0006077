"""The broadcaster: it has all streams of this node.

- Clients that receive the same bytes are in one topic (see `topic`). There is one topic of notices, one of the deltas
  of everyone's boards, and one for each division that a client follows; each of them exists twice, with and without
  chunks. Each topic sends in a task of its own, so that no topic waits for another. Topics of deltas exist while they
  have clients.
- The limits of clients, in total and by address, apply to all topics together.
- A client that received nothing for `heartbeat` seconds receives a heartbeat. A client that lags and takes nothing for
  `stall_timeout` seconds is disconnected. One timer serves all.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any

from scoreboardd.model import Version
from scoreboardd.stream.topic import Frame, Subscriber, Topic, Update, slices
from scoreboardd.telemetry.metrics import Metrics


class Full(Exception):
    """The limit of clients is reached, or the node drains."""


class Broadcaster:
    """Sends the published updates to all streams, while `run` runs.

    `queue` is the number of frames that may wait for a client that lags. `heartbeat` and `stall_timeout` are in
    seconds. With `max_clients_per_ip` 0 only `max_clients` is a limit.
    """

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
        self.queue = queue
        self._heartbeat = heartbeat
        self._stall_timeout = stall_timeout
        self._subscribers: dict[Subscriber, None] = {}
        metrics.clients.set_function(lambda: len(self._subscribers))
        self._per_address: dict[str, int] = {}
        self._notices = {chunked: self._topic(chunked) for chunked in (False, True)}
        self._deltas: dict[tuple[int | None, bool], Topic] = {}
        "The topics of deltas, by division (None stands for everyone) and by whether the bodies are in chunks."
        self._has_updates = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def following(self) -> int:
        """Number of clients that receive deltas."""
        return sum(map(len, self._deltas.values()))

    @property
    def lagging(self) -> int:
        return sum(topic.lagging for topic in self._topics())

    def statistics(self) -> dict[str, Any]:
        """For a person who looks inside a running node."""
        named: dict[tuple[str, int | None, bool], Topic] = {
            **{("notices", None, chunked): topic for chunked, topic in self._notices.items()},
            **{("deltas", division_id, chunked): topic for (division_id, chunked), topic in self._deltas.items()},
        }
        return {
            "clients": len(self),
            "addresses": len(self._per_address),
            "topics": [
                {"kind": kind, "division_id": division_id, "chunked": chunked, **topic.statistics()}
                for (kind, division_id, chunked), topic in named.items()
            ],
        }

    # Topics

    def notices(self, *, chunked: bool) -> Topic:
        return self._notices[chunked]

    def deltas(self, division_id: int | None, *, chunked: bool) -> Topic:
        """Return the topic of a division's deltas. Join it at once, because a topic without clients is removed."""
        key = division_id, chunked
        topic = self._deltas.get(key)
        if topic is None:
            topic = self._deltas[key] = self._topic(chunked)
        return topic

    def _topic(self, chunked: bool) -> Topic:
        return Topic(self._metrics, queue=self.queue, leave=self._leave, chunked=chunked)

    def _topics(self) -> list[Topic]:
        return [*self._notices.values(), *self._deltas.values()]

    # Coming and going

    def admit(self, address: str) -> None:
        """Raise `Full` if a client from `address` may not join now."""
        if not self.has_room(address):
            self._metrics.dropped.labels("limit").inc()
            raise Full

    def has_room(self, address: str) -> bool:
        return (
            not self._draining
            and len(self._subscribers) < self._max_clients
            and self._per_address.get(address, 0) < self._max_clients_per_ip
        )

    def join(
        self, subscriber: Subscriber, head: bytes, greeting: bytes, version: Version | None, missed: Frame | None = None
    ) -> None:
        """Send `head`, `greeting` and `missed` to a client, after which it has `version`. Then its topic serves it."""
        self._subscribers[subscriber] = None
        self._empty.clear()
        self._per_address[subscriber.address] = self._per_address.get(subscriber.address, 0) + 1
        subscriber.topic.add(subscriber, head, greeting, version, missed)

    def _leave(self, subscriber: Subscriber, stalled: bool) -> None:
        if subscriber not in self._subscribers:
            return
        if stalled:
            self._metrics.dropped.labels("stalled").inc()
        del self._subscribers[subscriber]
        subscriber.topic.remove(subscriber)
        left = self._per_address[subscriber.address] - 1
        if left:
            self._per_address[subscriber.address] = left
        else:
            del self._per_address[subscriber.address]
        if not self._subscribers:
            self._empty.set()

    # Sending

    def publish(self, notice: Update, deltas: Callable[[int | None], Update | None]) -> None:
        """Send `notice` to the topics of notices, and `deltas(division_id)` to the topics of deltas. It returns None if
        the division does not exist any more. Return at once."""
        for topic in self._notices.values():
            topic.publish(notice)
        for (division_id, chunked), topic in list(self._deltas.items()):
            if not topic:
                del self._deltas[division_id, chunked]
            elif update := deltas(division_id):
                topic.publish(update)
            else:
                topic.close()  # a client that returns gets an error that says why
        self._has_updates.set()

    def close(self) -> None:
        """End all streams."""
        for topic in self._topics():
            topic.close()

    async def run(self) -> None:
        """Send updates and heartbeats, and disconnect stalled clients, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._maintain())
            while True:
                await self._has_updates.wait()
                self._has_updates.clear()
                for topic in self._topics():
                    tasks.create_task(topic.fan_out())

    # Heartbeats, stalled clients and the end

    async def _maintain(self) -> None:
        period = min(1.0, self._heartbeat / 4, self._stall_timeout / 4)
        while True:
            await asyncio.sleep(period)
            for topic in self._topics():
                topic.cut_off_stalled(self._stall_timeout)
                await topic.send_heartbeats(asyncio.get_running_loop().time() - self._heartbeat)

    async def drain(self, seconds: float) -> None:
        """Admit no clients, and end all streams spread over `seconds`, so that browsers do not return all at once."""
        self._draining = True
        loop = asyncio.get_running_loop()
        # In the last tenth the last streams send their last bytes.
        start, spread = loop.time(), seconds * 0.9
        leaving = list(self._subscribers)
        step = math.ceil(max(1, len(leaving) * 0.02))
        for number, part in enumerate(slices(leaving, step), start=1):
            for subscriber in part:
                subscriber.topic.end(subscriber)
            await asyncio.sleep(max(0.0, start + spread * number * step / max(1, len(leaving)) - loop.time()))
        try:
            async with asyncio.timeout_at(start + seconds):
                await self._empty.wait()
        except TimeoutError:
            for subscriber in list(self._subscribers):
                subscriber.transport.abort()
