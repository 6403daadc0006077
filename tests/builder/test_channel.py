"""Messages between the daemon and its builder process."""

import asyncio
import os
from collections.abc import AsyncIterator

import orjson
import pytest

from scoreboardd.builder import channel as module
from scoreboardd.builder.channel import Channel, pair


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    one, other = map(Channel, pair())
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 5 << 20])
async def test_a_message_of_any_size_arrives_whole(ends: tuple[Channel, Channel], size: int) -> None:
    one, other = ends
    sending = asyncio.create_task(one.send("x" * size))
    assert await other.receive() == (orjson.dumps("x" * size), None)
    await sending


async def test_messages_and_descriptors_stay_together_and_in_order(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    files = [os.memfd_create(f"file {number}") for number in range(5)]
    for number, file in enumerate(files):
        os.write(file, str(number).encode())

    async def send() -> None:
        for number in range(10):
            text = str(number) * (1 << (2 * number))
            await one.send(text, files[number // 2] if number % 2 else None)

    sending = asyncio.create_task(send())
    for number in range(10):
        message = await other.receive()
        assert message is not None
        data, descriptor = message
        assert orjson.loads(data) == str(number) * (1 << (2 * number))
        assert (descriptor is not None) == bool(number % 2)
        if descriptor is not None:
            assert os.pread(descriptor, 10, 0) == str(number // 2).encode()
            os.close(descriptor)
    await sending
    for file in files:
        os.close(file)


async def test_the_end_of_the_other_process_is_no_message(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.close()
    assert await other.receive() is None


async def test_half_a_message_is_no_message(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one._socket.send((10).to_bytes(8) + b"half")
    one.close()
    assert await other.receive() is None


async def test_a_message_that_is_too_long_is_not_sent(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = ends
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(ValueError, match="102 bytes"):
        await one.send("x" * 100)
    await one.send("short")
    assert await other.receive() == (b'"short"', None)


async def test_a_length_that_is_never_sent_is_an_error(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one._socket.send(b"garbage!")
    with pytest.raises(ValueError, match="bytes"):
        await other.receive()
