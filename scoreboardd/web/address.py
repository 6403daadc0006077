"""Whose request it is: the peer's address, or what a trusted proxy says of it."""

import asyncio
import ipaddress
from collections.abc import Iterable

from aiohttp import web

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Addresses:
    """`trusted` are the networks whose `X-Forwarded-For` is believed."""

    def __init__(self, trusted: Iterable[Network]) -> None:
        self._trusted = tuple(trusted)

    def of(self, request: web.Request) -> str:
        """The nearest address that is not a trusted proxy's; "" if there is none, as on a Unix socket."""
        return self.nearest(request.transport, ",".join(request.headers.getall("X-Forwarded-For", [])))

    def nearest(self, transport: asyncio.BaseTransport | None, forwarded: str) -> str:
        """The same of a connection on which a request said `forwarded`."""
        peer = transport.get_extra_info("peername") if transport else None
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not forwarded:
            return address
        # The last entry was added by the nearest proxy. Whatever stands left of an untrusted one, or of one that is no
        # address, is hearsay.
        for said in reversed(forwarded.split(",")):
            if not said.strip():
                continue
            farther = _plain(said)
            if farther is None or not self._trusts(address):
                break
            address = farther
        return address

    def _trusts(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)


def _plain(said: str) -> str | None:
    try:
        return str(ipaddress.ip_address(said.strip()))
    except ValueError:
        return None
