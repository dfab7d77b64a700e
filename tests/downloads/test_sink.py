"""Objects that can be written to, each in its own way."""

from __future__ import annotations

import asyncio
import io

import anyio
import pytest

from videorouter import DownloadError
from videorouter.downloads.sink import Sink, is_sink, name_sink

pytestmark = pytest.mark.anyio


class Partial(io.RawIOBase):
    def __init__(self) -> None:
        self.got = b""

    def write(self, block) -> int:
        self.got += bytes(block[:3])
        return min(3, len(block))


async def test_a_raw_file_that_takes_a_part_is_given_the_rest():
    target = Partial()
    await Sink(target).write([b"abc", b"defgh"])
    assert target.got == b"abcdefgh"


async def test_a_target_that_takes_nothing_is_an_error():
    class Full:
        def write(self, block: bytes) -> int:
            return 0

    with pytest.raises(DownloadError, match="no more"):
        await Sink(Full()).write([b"x"])


async def test_a_plain_write_that_gives_an_awaitable_is_awaited():
    class Wrapped:
        got = b""
        flushed = False

        def write(self, block: bytes):
            async def work() -> None:
                self.got += block

            return work()

        def flush(self):
            async def work() -> None:
                self.flushed = True

            return work()

    target = Wrapped()
    sink = Sink(target)
    await sink.write([b"abc"])
    await sink.flush()
    assert (target.got, target.flushed) == (b"abc", True)


async def test_a_stream_writer_is_drained():
    received = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    sink = Sink(writer)
    await sink.write([b"x" * 10**6])
    await sink.flush()
    writer.close()
    assert len(await received) == 10**6
    server.close()
    await server.wait_closed()


async def test_an_anyio_stream_is_sent_to():
    sender, receiver = anyio.create_memory_object_stream[bytes](10)
    async with sender, receiver:
        assert is_sink(sender) is True
        await Sink(sender).write([b"abc"])
        assert await receiver.receive() == b"abc"


async def test_an_async_file_gets_the_bytes_and_is_flushed(tmp_path):
    async with await anyio.open_file(tmp_path / "a", "wb") as target:
        sink = Sink(target)
        await sink.write([b"abc"])
        await sink.flush()
        assert (tmp_path / "a").read_bytes() == b"abc"


def test_paths_are_no_sinks_and_sinks_have_names(tmp_path):
    assert not is_sink(tmp_path)
    assert not is_sink("a.mp4")
    assert is_sink(io.BytesIO())
    with (tmp_path / "otter.mp4").open("wb") as target:
        assert name_sink(target) == "otter.mp4"
    assert name_sink(io.BytesIO()) == "BytesIO"
