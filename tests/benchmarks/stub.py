"""A gateway that costs next to nothing, in a process of its own: what is measured is the client.

``python stub.py [--cert FILE]`` prints its port and serves until its standard input closes. The path says what to do:
``/hold/SECONDS/...`` answers a POST after so long, ``/bytes/N`` is a file of so many bytes, anything else is answered
at once with a finished video.
"""

import argparse
import asyncio
import ssl
import sys

ANSWER = (
    b'{"data":[{"url":"https://resource.onerouter.pro/video/generated%2Fonerouter_0688d9c3-4e7f-45c5-a30d-7923dfd056a6'
    b'.mp4","revised_prompt":"","video_id":"video_68fc872dba248190875ba0c177c7b0cf0974c02d85a9c020"}],'
    b'"created":1761380356}'
)
REPLY = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"x-infron-request-id: 20261122-0001\r\ncf-ray: 8e6a-FRA\r\nServer: stub\r\nContent-Length: %d\r\n\r\n%b"
) % (len(ANSWER), ANSWER)
BLOCK = bytes(1 << 20)
TICK = 0.01


class Gateway(asyncio.Protocol):
    waiting: dict = {}  # noqa: RUF012 - one process, one loop

    def connection_made(self, transport):
        self.transport = transport
        self.data = b""
        self.resumed = asyncio.Event()

    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            start = head.find(b"content-length:")
            length = int(head[start + 15 :].partition(b"\r\n")[0]) if start >= 0 else 0
            if len(self.data) < end + 4 + length:
                return
            self.data = self.data[end + 4 + length :]
            self.answer(head.split(b" ", 2)[1])

    def answer(self, path):
        parts = path.split(b"/")
        if parts[1] == b"hold":
            self.hold(float(parts[2]))
        elif parts[1] == b"bytes":
            self.task = asyncio.ensure_future(self.pour(int(parts[2])))
        else:
            self.transport.write(REPLY)

    def hold(self, seconds):
        loop = asyncio.get_running_loop()
        tick = int((loop.time() + seconds) / TICK) + 1
        bucket = self.waiting.get(tick)
        if bucket is None:
            bucket = self.waiting[tick] = []
            loop.call_at(tick * TICK, self.release, tick)
        bucket.append(self.transport)

    def release(self, tick):
        for transport in self.waiting.pop(tick):
            transport.write(REPLY)

    async def pour(self, size):
        head = b'HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nETag: "stub"\r\nContent-Length: %d\r\n\r\n'
        self.transport.write(head % size)
        # A box of the right length, so that a checked download takes it for a film.
        boxes = b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\0mdat"
        self.transport.write(boxes)
        size -= len(boxes)
        while size > 0:
            self.resumed.clear()
            self.transport.write(BLOCK[:size] if size < len(BLOCK) else BLOCK)
            size -= len(BLOCK)
            if self.transport.get_write_buffer_size() > len(BLOCK):
                await self.resumed.wait()

    def resume_writing(self):
        self.resumed.set()

    def pause_writing(self):
        pass

    def connection_lost(self, error):
        self.resumed.set()


async def main(cert):
    context = None
    if cert:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Gateway, "127.0.0.1", 0, ssl=context, backlog=16_384)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cert")
    asyncio.run(main(parser.parse_args().cert))
