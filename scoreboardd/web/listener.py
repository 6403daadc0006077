"""Binds the sockets of a listener, and checks whether the sockets of the configured listeners can be bound."""

import errno
import os
import socket
from typing import Any

import aiohttp

from scoreboardd.config import Settings

BACKLOG_CONNECTIONS = 4096
"""Connections that the kernel holds for one socket until the daemon accepts them. The kernel lowers it to
`net.core.somaxconn`. A client that finds the backlog full tries again after a second or more."""
HEALTH_TIMEOUT_SECONDS = 2.0
"Seconds within which a daemon that runs answers `/healthz`."
_ABSENT_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"Errors of an address that this machine does not have: `localhost` may resolve to `::1` on a machine without IPv6."


class CannotListen(Exception):
    """A listener cannot be bound. The text is one line that says which one, why, and which settings to change."""

    def __init__(self, problem: str, *, in_use: bool) -> None:
        super().__init__(problem)
        self.in_use = in_use
        "Another socket listens on the address."


def listen(section: str, host: str, port: int, count: int, *, user_timeout: float) -> list[socket.socket]:
    """Bind `count` sockets on each address of `host`, all on the same port, and listen on them.

    `section` is the section of the configuration that has `host` and `port`. With `port` 0 the kernel chooses a free
    port. The kernel closes a connection whose peer acknowledges nothing, or accepts no data, for `user_timeout`
    seconds. Raises `CannotListen` if the port is in use or if this machine has no address of `host`.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                # With SO_REUSEPORT the kernel would share the port with another daemon of the same user. So bind
                # without it first, to see that the port is free.
                _bind(family, address, listeners, share=False).close()
            except OSError as error:
                if error.errno not in _ABSENT_ADDRESS:
                    raise
                absent = error
                continue
            for _ in range(count):
                listeners.append(_bind(family, address, listeners, share=True))
        if absent is not None and not listeners:
            raise absent
    except (OSError, UnicodeError) as error:
        for listener in listeners:
            listener.close()
        number = getattr(error, "errno", None) or 0
        why = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or "not a host name"
        raise CannotListen(
            f"{section}: cannot listen on {host}:{port}: {why}; see {section}.host and {section}.port",
            in_use=number == errno.EADDRINUSE,
        ) from error
    for listener in listeners:
        # Accepted connections inherit the option.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(user_timeout * 1000))
    return listeners


def _bind(family: int, address: tuple[Any, ...], others: list[socket.socket], *, share: bool) -> socket.socket:
    """Return a socket that listens on `address`. If there are `others`, it has their port. `::` serves IPv4 as well."""
    ip, port, *scope = address
    if others:
        port = others[0].getsockname()[1]
    return socket.create_server(
        (ip, port, *scope),
        family=family,
        backlog=BACKLOG_CONNECTIONS,
        reuse_port=share,
        dualstack_ipv6=ip == "::" and socket.has_dualstack_ipv6(),
    )


async def problems(settings: Settings) -> list[str]:
    """Return why the public or the admin listener cannot be bound, as one line each.

    An address in use is no problem if a daemon with this configuration runs: then it is the daemon's.
    """
    found: list[CannotListen] = []
    for section, host, port in (
        ("server", settings.server.host, settings.server.port),
        ("admin", settings.admin.host, settings.admin.port),
    ):
        try:
            for listener in listen(section, host, port, 1, user_timeout=settings.sse.stall_timeout):
                listener.close()
        except CannotListen as error:
            found.append(error)
    if any(error.in_use for error in found) and await _is_healthy(settings.admin.host, settings.admin.port):
        found = [error for error in found if not error.in_use]
    return [str(error) for error in found]


async def _is_healthy(host: str, port: int) -> bool:
    """Return whether the admin listener of a daemon answers at this address."""
    authority = f"[{host}]" if ":" in host else host
    timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{authority}:{port}/healthz", allow_redirects=False) as response,
        ):
            return response.status == 200 and await response.json() == {"ok": True}
    except (aiohttp.ClientError, OSError, ValueError):  # TimeoutError is an OSError
        return False
