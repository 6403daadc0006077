"""Notifications to systemd (`Type=notify`). Outside systemd they do nothing.

The watchdog depends on the event loop only. A daemon whose Redis or PostgreSQL is down must not be restarted.
"""

import asyncio
import os

from sdnotify import SystemdNotifier


class Systemd:
    """Sends the state of the daemon to systemd."""

    def __init__(self) -> None:
        self._notifier = SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None

    def ready(self) -> None:
        """Report that the daemon has started."""
        self._notify("READY=1")

    def stopping(self) -> None:
        """Report that the daemon is shutting down."""
        self._notify("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._notify(f"STATUS={text}")

    async def feed_watchdog(self) -> None:
        """Notify the watchdog three times per period until cancelled. Returns at once if there is no watchdog."""
        period = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        while period > 0:
            self._notify("WATCHDOG=1")
            await asyncio.sleep(period / 3)

    def _notify(self, state: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(state)
