"""A real S3 server on this machine (moto's, in a process of its own), and a line to it that can be cut."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 on a free port while the block runs; its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "the S3 server ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Line:
    """A TCP proxy that cuts a share of the connections within their first 60 kB; `down` lets none through.

    moto answers one request a connection.
    """

    def __init__(self, address: str, seed: int = 0) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._random = random.Random(seed)
        self.cut_share = 0.0
        self.down = False
        self.cuts = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            server = socket.create_connection(self._target)
            # what is left of this connection, in bytes of both directions
            limit = [self._random.randrange(60_000) if self._random.random() < self.cut_share else 1 << 60]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(one, other, limit), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16_384):
                if self.down or len(data) > limit[0]:
                    self.cuts += 1
                    sink.sendall(data[: limit[0]])
                    break
                limit[0] -= len(data)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
