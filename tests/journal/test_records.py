"""How the inputs of a request are recognised: by their bytes, wherever they lie, and without holding up the loop."""

import asyncio
import time

import pytest

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
