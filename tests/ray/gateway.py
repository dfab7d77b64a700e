"""A gateway in a process of its own that writes down every charge: what workers are killed over.

``python gateway.py`` prints its port and serves until its standard input closes. A prompt says what happens to it:
``hold S`` answers a finished video after S seconds, ``task S`` accepts at once and is done S seconds later, ``flaky``
drops the connection once it has charged and refuses the same prompt from then on, ``refuse`` is 422, ``nokey`` is 401,
anything else is answered at once. ``GET /ledger`` tells the charges by prompt, the keys seen, how many requests ran at
once, and when each arrived. ``POST /pause/S`` makes the next request a 429 with ``Retry-After: S``; ``POST /least/N``
refuses beyond N at once.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

MODEL = "veo3-fast"
MP4 = b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x10mdat" + b"videorou"


class Ledger:
    def __init__(self) -> None:
        self.charges: dict[str, int] = {}
        self.arrivals: list[float] = []
        self.tasks: dict[str, float] = {}
        self.names: dict[str, str] = {}
        self.keys: set[str] = set()
        self.agents: set[str] = set()
        self.running = 0
        self.most = 0
        self.pause = 0.0
        self.limit = 0
        self.refused: list[float] = []


LEDGER = Ledger()


class Gateway(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.data = b""

    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end]
            found = re.search(rb"(?i)content-length: *(\d+)", head)
            length = int(found[1]) if found else 0
            if len(self.data) < end + 4 + length:
                return
            body = self.data[end + 4 : end + 4 + length]
            self.data = self.data[end + 4 + length :]
            method, path, _ = head.split(b" ", 2)
            self.serve(method.decode(), path.decode(), head.decode("latin-1"), body)

    def serve(self, method, path, head, body):
        if path == "/ledger":
            self.reply(
                {
                    "charges": LEDGER.charges,
                    "most": LEDGER.most,
                    "arrivals": LEDGER.arrivals,
                    "refused": LEDGER.refused,
                    "keys": sorted(LEDGER.keys),
                }
            )
        elif path.startswith("/pause/"):
            LEDGER.pause = float(path.rpartition("/")[2])
            self.reply({})
        elif path.startswith("/least/"):
            LEDGER.limit = int(path.rpartition("/")[2])
            self.reply({})
        elif "/files/" in path:
            self.reply(MP4, kind="video/mp4")
        elif "/videos/tasks/" in path:
            self.look(path.rpartition("/")[2])
        elif method == "POST":
            self.generate(head, json.loads(body)["prompt"])
        else:
            self.reply({"error": {"message": "no such page"}}, status="404 Not Found")

    def generate(self, head, prompt):
        now = time.monotonic()
        LEDGER.arrivals.append(now)
        found = re.search(r"(?i)authorization: *([^\r\n]*)", head)
        LEDGER.keys.add(found[1] if found else "")
        if LEDGER.pause:
            pause, LEDGER.pause = LEDGER.pause, 0.0
            LEDGER.refused.append(now)
            self.reply({"error": {"message": "slow down"}}, status="429 Too Many", extra=f"Retry-After: {pause:g}\r\n")
            return
        if LEDGER.limit and LEDGER.running >= LEDGER.limit:
            LEDGER.refused.append(now)
            self.reply({"error": {"message": "too many"}}, status="429 Too Many")
            return
        word = prompt.split()[0]
        if word == "refuse" or (word == "flaky" and prompt in LEDGER.charges):
            self.reply({"error": {"message": "bad field", "code": 422}}, status="422 Unprocessable")
            return
        if word == "nokey":
            self.reply({"error": {"message": "bad key", "code": 401}}, status="401 Unauthorized")
            return
        LEDGER.charges[prompt] = LEDGER.charges.get(prompt, 0) + 1
        if word == "flaky":
            self.transport.abort()
            return
        seconds = float(prompt.split()[1]) if word in {"hold", "task"} else 0.0
        if word == "task":
            name = f"cgt-{len(LEDGER.tasks)}"
            LEDGER.tasks[name] = now + seconds
            LEDGER.names[name] = prompt
            self.reply({"data": {"task_id": name, "status": "created"}})
            return
        LEDGER.running += 1
        LEDGER.most = max(LEDGER.most, LEDGER.running)
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.finish, prompt)
        else:
            self.finish(prompt)

    def finish(self, prompt):
        LEDGER.running -= 1
        self.reply({"data": [{"url": self.url(prompt), "video_id": f"video_{abs(hash(prompt))}"}], "created": 1})

    def look(self, name):
        if name not in LEDGER.tasks:
            self.reply({"error": {"message": "no such task"}}, status="404 Not Found")
        elif time.monotonic() < LEDGER.tasks[name]:
            self.reply({"data": {"status": "running"}})
        else:
            self.reply({"data": {"status": "completed", "urls": {"video": self.url(LEDGER.names[name])}}})

    def url(self, prompt):
        host, port = self.transport.get_extra_info("sockname") or ("127.0.0.1", 0)
        return f"http://{host}:{port}/files/{abs(hash(prompt))}.mp4"

    def reply(self, what, *, status="200 OK", kind="application/json", extra=""):
        if self.transport.is_closing():
            return
        data = what if isinstance(what, bytes) else json.dumps(what).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{extra}Content-Length: {len(data)}\r\n\r\n"
        self.transport.write(head.encode() + data)


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Gateway, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
