"""On which addresses the daemon listens."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scoreboardd.web.listener import CannotListen, listen

V4, V6 = ("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@contextmanager
def listening(host: str, port: int = 0) -> Iterator[list[socket.socket]]:
    listeners = listen("server", host, port, 2, user_timeout=30)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def reached(port: int) -> set[str]:
    """The addresses of this machine at which somebody listens."""
    found = set()
    for address, family in (V4, V6):
        with socket.socket(family) as client:
            if client.connect_ex((address, port)) == 0:
                found.add(address)
    return found


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("0.0.0.0", {"127.0.0.1"}),
        ("::1", {"::1"}),
        ("::", {"127.0.0.1", "::1"}),
    ],
)
def test_an_address_is_itself_and_the_unspecified_one_is_ipv4_too(host: str, expected: set[str]) -> None:
    if "::1" in expected and not has_ipv6():
        with pytest.raises(CannotListen), listening(host):
            pass
        return
    with listening(host) as listeners:
        assert len(listeners) == 2
        (port,) = {listener.getsockname()[1] for listener in listeners}
        assert reached(port) == expected


def test_a_name_is_all_its_addresses_on_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (family, socket.SOCK_STREAM, 6, "", (address, 0)) for address, family in (V6, V4, V4)
    ]  # as a resolver may say, with one of them twice
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listening("scoreboard.example") as listeners:
        (port,) = {listener.getsockname()[1] for listener in listeners}
        assert reached(port) == ({"127.0.0.1", "::1"} if has_ipv6() else {"127.0.0.1"})
        assert len(listeners) == 2 * len(reached(port))


def test_of_a_name_what_this_machine_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.7", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listening("scoreboard.example") as listeners:
        assert {listener.getsockname()[0] for listener in listeners} == {"127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found[:1])
    with (
        pytest.raises(CannotListen, match=r"server: cannot listen on scoreboard\.example:0: .*; see server\.host"),
        listening("scoreboard.example"),
    ):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_taken_is_not_shared(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(CannotListen, match=f"server: cannot listen on {host}:{port}: Address already in use"),
            listening(host, port),
        ):
            pass


def test_on_all_addresses_a_port_that_is_taken_on_ipv4_is_taken() -> None:
    if not has_ipv6():
        return
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match="Address already in use"), listening("::", port):
            pass
