"""Finds the address of the client behind a request: the peer's, or one that a trusted proxy adds."""

import asyncio
import ipaddress
import re
from collections.abc import Iterable

from aiohttp import web

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ADDRESS_CHARACTERS = 100
"A longer element of `X-Forwarded-For` is not an address."

# RFC 7239 §6: an address may be followed by a port; an IPv6 address is then in brackets. Some proxies also quote it.
_IPV4_AND_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}", re.ASCII)
_BRACKETED = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?", re.ASCII)


class ClientAddressResolver:
    """Finds the addresses of clients. `trusted` are the networks of the proxies whose `X-Forwarded-For` is used."""

    def __init__(self, trusted: Iterable[Network]) -> None:
        self._trusted = tuple(trusted)

    def of(self, request: web.Request) -> str:
        """Return the nearest address that is not a trusted proxy's; "" if there is none, as on a Unix socket."""
        return self.nearest(request.transport, ",".join(request.headers.getall("X-Forwarded-For", [])))

    def nearest(self, transport: asyncio.BaseTransport | None, forwarded: str) -> str:
        """Return the same for a request with the value `forwarded` of `X-Forwarded-For`, received on `transport`."""
        peer = transport.get_extra_info("peername") if transport else None
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if ":" in address:
            address = _parse(address) or address
        if not forwarded:
            return address
        # The nearest proxy adds the last entry. Entries to the left of an untrusted or invalid one may be forged.
        for entry in reversed(forwarded.split(",")):
            if not entry.strip():
                continue
            farther = _parse(entry)
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
    """Return what limits count as one client: the IPv4 address, or the IPv6 network of 64 bits that has the address."""
    if ":" not in address:
        return address  # IPv4, or "" on a Unix socket
    ip = _ip(address)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ipaddress.IPv6Address(int(ip) >> 64 << 64)
    return address if ip is None else str(ip)


def _parse(entry: str) -> str | None:
    """Return the address in an entry of `X-Forwarded-For`, without quotes, brackets, port and zone. None if it is not
    an address."""
    if len(entry) > MAX_ADDRESS_CHARACTERS:
        return None
    entry = entry.strip()
    if len(entry) > 1 and entry[0] == entry[-1] == '"':
        entry = entry[1:-1]
    match = _IPV4_AND_PORT.fullmatch(entry) or _BRACKETED.fullmatch(entry)
    ip = _ip(match[1] if match else entry)
    return None if ip is None else str(ip)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address and drop its zone. Return IPv4 for an address such as `::ffff:203.0.113.7`, which a listener on
    `::` has for an IPv4 client. None if it is not an address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    return ip.ipv4_mapped or ipaddress.IPv6Address(int(ip))
