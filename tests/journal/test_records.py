"""How the inputs of a request are recognised: by their bytes, wherever they lie, and without holding up the loop."""

import asyncio
import io
import time

import pytest

from videorouter import InvalidRequestError
from videorouter.journal.records import digest_inputs

pytestmark = pytest.mark.anyio
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


async def test_the_same_bytes_are_one_input_wherever_they_lie(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(PICTURE)
    found = await digest_inputs({"image_urls": [path, PICTURE, bytearray(PICTURE), memoryview(PICTURE)]})
    assert len(set(found["image_urls"])) == 1
    other = await digest_inputs({"image_urls": [bytearray(PICTURE), bytearray(PICTURE + b"\0")]})
    assert len(set(other["image_urls"])) == 2


async def test_a_large_input_does_not_hold_up_the_loop():
    stretches = []

    async def tick():
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            stretches.append(now - last)
            last = now

    film = bytes(96 * 2**20)
    task = asyncio.create_task(tick())
    await asyncio.sleep(0)
    await digest_inputs({"video_urls": [film]})
    task.cancel()
    assert max(stretches) < 0.02


class Upload:
    """As web frameworks have it: a name that the browser gave, and a file inside."""

    def __init__(self, content: bytes) -> None:
        self.filename = "cat.png"
        self.file = io.BytesIO(content)

    async def read(self) -> bytes:
        return self.file.read()


async def test_files_are_known_by_their_bytes_and_not_by_their_names(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(PICTURE)
    sources = [io.BytesIO(PICTURE), Upload(PICTURE), io.BytesIO(PICTURE + b"\0"), Upload(PICTURE + b"\0")]
    with path.open("rb") as file:
        found = await digest_inputs({"image_urls": [path, file, *sources]})
        assert file.tell() == 0
    digests = found["image_urls"]
    assert digests[0] == digests[1] == digests[2] == digests[3]
    assert digests[4] == digests[5] != digests[0]
    assert [source.tell() for source in (sources[0], sources[2])] == [0, 0]


async def test_a_file_that_can_be_read_only_once_is_refused_before_it_is_read():
    class Pipe:
        def read(self) -> bytes:
            raise AssertionError

    with pytest.raises(InvalidRequestError, match="can be read only once"):
        await digest_inputs({"image_url": Pipe()})
