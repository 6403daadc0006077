"""Whose request it is: the peer's address, or what a trusted proxy says of it."""

import asyncio
import ipaddress
import re
from collections.abc import Iterable

from aiohttp import web

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ADDRESS = 100
"Characters. A longer element of `X-Forwarded-For` is no address."

# RFC 7239 §6: an address may be followed by a port; an IPv6 address is then in brackets. Some proxies quote it too.
_IPV4_AND_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}", re.ASCII)
_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?", re.ASCII)


class ClientAddressResolver:
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
        if ":" in address:
            address = _parse(address) or address
        if not forwarded:
            return address
        # The last entry was added by the nearest proxy. Whatever stands left of an untrusted one, or of one that is no
        # address, is hearsay.
        for said in reversed(forwarded.split(",")):
            if not said.strip():
                continue
            farther = _parse(said)
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


def network(address: str) -> str:
    """What one client has for itself, and what limits count: an IPv4 address, or an IPv6 network of 2⁶⁴ addresses."""
    if ":" not in address:
        return address  # IPv4; or none, as on a Unix socket
    ip = _ip(address)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ipaddress.IPv6Address(int(ip) >> 64 << 64)
    return address if ip is None else str(ip)


def _parse(said: str) -> str | None:
    """The address in an element of `X-Forwarded-For`, without quotes, brackets, port and zone; None if it has none."""
    if len(said) > MAX_ADDRESS:
        return None
    said = said.strip()
    if len(said) > 1 and said[0] == said[-1] == '"':
        said = said[1:-1]
    match = _IPV4_AND_PORT.fullmatch(said) or _BRACKETED.fullmatch(said)
    ip = _ip(match[1] if match else said)
    return None if ip is None else str(ip)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Without its zone; a listener on `::` sees an IPv4 client as `::ffff:203.0.113.7`."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    return ip.ipv4_mapped or ipaddress.IPv6Address(int(ip))
