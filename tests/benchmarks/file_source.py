"""A file host that costs next to nothing: ``python file_source.py`` prints its port; ``/N.mp4`` is a film of N bytes.

Bytes go from the page cache to the socket by ``sendfile``, so that what is measured is the client.
"""

import os
import socket
import struct
import sys
import tempfile
import threading

FTYP = struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0)


def make_film(size, films={}, lock=threading.Lock()):  # noqa: B006, B008 - one process, one cache
    with lock:
        if size not in films:
            films[size] = film = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
            film.write(FTYP + struct.pack(">I4s", 0, b"mdat"))
            block = os.urandom(1 << 20)
            for start in range(24, size, len(block)):
                film.write(block[: size - start])
            film.flush()
        return films[size].fileno()


def serve(connection):
    data = b""
    with connection:
        while chunk := connection.recv(65536):
            data += chunk
            while b"\r\n\r\n" in data:
                head, _, data = data.partition(b"\r\n\r\n")
                size = int(head.split(b" ")[1].rpartition(b"/")[2].partition(b".")[0])
                film = make_film(size)
                connection.sendall(
                    b'HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nETag: "film"\r\nContent-Length: %d\r\n\r\n' % size
                )
                sent = 0
                while sent < size:
                    sent += os.sendfile(connection.fileno(), film, sent, size - sent)


def main():
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
