"""Whose request it is, asked over real connections."""

import asyncio
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, web

from scoreboardd.web.address import ClientAddressResolver
from tests.web.client import head_of_request
from tests.web.server import listening

PROXIES = ["127.0.0.1/32", "10.0.0.0/8", "::1/128", "2001:db8:1::/48"]


def app(trusted: list[str]) -> web.Application:
    addresses = ClientAddressResolver(map(ip_network, trusted))

    async def whose(request: web.Request) -> web.Response:
        return web.Response(text=addresses.of(request))

    app = web.Application()
    app.router.add_get("/", whose)
    return app


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "whose"),
    [
        # Nobody in between.
        (PROXIES, "127.0.0.1", [], "127.0.0.1"),
        (PROXIES, "127.0.0.2", [], "127.0.0.2"),
        # Hearsay: from a peer that is no proxy of ours.
        (PROXIES, "127.0.0.2", ["203.0.113.7"], "127.0.0.2"),
        ([], "127.0.0.1", ["203.0.113.7"], "127.0.0.1"),
        # One proxy.
        (PROXIES, "127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        (PROXIES, "127.0.0.1", ["2001:0DB8:0::0007"], "2001:db8::7"),
        (PROXIES, "127.0.0.1", ["  203.0.113.7\t"], "203.0.113.7"),
        # Of what the client itself said before it came to our proxy, nothing counts.
        (PROXIES, "127.0.0.1", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["6.6.6.6", "203.0.113.7"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["127.0.0.1, 203.0.113.7"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["<script>, 203.0.113.7"], "203.0.113.7"),
        # Several proxies, all ours.
        (PROXIES, "127.0.0.1", ["203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["203.0.113.7", "10.1.2.3, 10.9.9.9"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["203.0.113.7, 2001:db8:1::5"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        # Clients in the proxies' own networks.
        (PROXIES, "127.0.0.1", ["10.1.2.3"], "10.1.2.3"),
        (PROXIES, "127.0.0.1", ["10.1.2.3, 10.9.9.9"], "10.1.2.3"),
        # What is no address says of its sender only that our proxy does not know it: nothing left of it counts.
        (PROXIES, "127.0.0.1", ["unknown"], "127.0.0.1"),
        (PROXIES, "127.0.0.1", [""], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, unknown"], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, _hidden"], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, 203.0.113.7:x"], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, 203.0.113.7:"], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, 203.0.113.777:80"], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, [203.0.113.7"], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, []:443"], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, [2001:db8::1]443"], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ['6.6.6.6, "'], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, " + "[" * 4000], "127.0.0.1"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, fe80::1%" + "x" * 4000], "127.0.0.1"),
        # With a port, in brackets, in quotes, with a zone, or IPv4 in IPv6: the address is the same.
        (PROXIES, "127.0.0.1", ["203.0.113.7:51234"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["6.6.6.6:1, 203.0.113.7:65535"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["203.0.113.7:51234, 10.1.2.3:80"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        (PROXIES, "127.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        (PROXIES, "127.0.0.1", ['"[2001:db8::1]"'], "2001:db8::1"),
        (PROXIES, "127.0.0.1", ['"[2001:db8::1]:443"'], "2001:db8::1"),
        (PROXIES, "127.0.0.1", ['"203.0.113.7:80"'], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["2001:db8::1:443"], "2001:db8::1:443"),
        (PROXIES, "127.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        (PROXIES, "127.0.0.1", ["[fe80::1%25eth0]:443"], "fe80::1"),
        (PROXIES, "127.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["[::ffff:203.0.113.7]:80, ::ffff:10.1.2.3"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["6.6.6.6, unknown, 10.1.2.3"], "10.1.2.3"),
        # Empty elements of a list are none (RFC 9110 §5.6.1).
        (PROXIES, "127.0.0.1", ["203.0.113.7, , ,"], "203.0.113.7"),
        (PROXIES, "127.0.0.1", ["\xff\xfe"], "127.0.0.1"),
    ],
)
async def test_whose_request_it_is(trusted: list[str], peer: str, forwarded: list[str], whose: str) -> None:
    async with listening(app(trusted)) as listener:
        connection = await listener.connect(local=peer)
        lines = b"".join(b"X-Forwarded-For: %s\r\n" % said.encode("latin-1") for said in forwarded)
        await connection.send(head_of_request("/").removesuffix(b"\r\n") + lines + b"\r\n")
        assert (await connection.answer()).body.decode() == whose


class Transport(asyncio.Transport):
    """One whose peer has this address."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 50000, 0, 0)})


@pytest.mark.parametrize(
    ("peer", "forwarded", "whose"),
    [
        ("::ffff:127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.9", "203.0.113.7", "203.0.113.9"),
        ("::1", "203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "", "fe80::1"),
    ],
)
def test_a_listener_on_all_addresses_sees_ipv4_peers_as_ipv4(peer: str, forwarded: str, whose: str) -> None:
    assert ClientAddressResolver(map(ip_network, PROXIES)).nearest(Transport(peer), forwarded) == whose


async def test_a_unix_socket_has_no_address_and_its_word_does_not_count(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with listening(app(PROXIES)) as listener:
        await web.UnixSite(listener.runner, path).start()
        async with (
            ClientSession(connector=UnixConnector(path)) as session,
            session.get("http://test/", headers={"X-Forwarded-For": "203.0.113.7"}) as response,
        ):
            assert await response.text() == ""
