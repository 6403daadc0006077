"""What systemd is told (`Type=notify`). Outside systemd all of this does nothing.

The watchdog is fed from the event loop and from nothing else: a daemon whose Redis or Postgres is down is well.
"""

import asyncio
import os

from sdnotify import SystemdNotifier


class Systemd:
    def __init__(self) -> None:
        self._notifier = SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None

    def ready(self) -> None:
        self._say("READY=1")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._say(f"STATUS={text}")

    async def feed_watchdog(self) -> None:
        """Three times a watchdog period, until cancelled; returns at once if systemd keeps no watchdog on us."""
        period = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        while period > 0:
            self._say("WATCHDOG=1")
            await asyncio.sleep(period / 3)

    def _say(self, state: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(state)
