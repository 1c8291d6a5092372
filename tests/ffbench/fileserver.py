"""A real HTTP server on loopback whose faults the tests choose."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.loopback import answering


@dataclass
class Served:
    """One file, and how the server misbehaves with it."""

    body: bytes
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """One entry a GET: close the connection after so many bytes of its body."""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """One entry a GET: answer with this status and these headers instead."""
    pause: float = 0.0
    """Seconds between pieces of 64 KiB."""
    shift: int = 0
    """How far a range that is sent lies behind the one that was asked for."""
    length: bool = True
    """Whether Content-Length is sent."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    path: str
    range: str | None
    if_range: str | None
    status: int
    sent: int = 0


class FileServer:
    def __init__(self, port: int, scheme: str = "http") -> None:
        self.files: dict[str, Served] = {}
        self.log: list[Asked] = []
        self.url = f"{scheme}://127.0.0.1:{port}"

    def add(self, path: str, body: bytes, **faults: Any) -> str:
        """Serve `body`, and return its address."""
        self.files[path] = Served(body, **faults)
        return f"{self.url}/{path}"

    @property
    def sent(self) -> int:
        return sum(asked.sent for asked in self.log)


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[FileServer]:
    """Run a server; over TLS with a PEM file of key and certificate."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            file = server.files.get(self.path.lstrip("/").partition("?")[0])
            asked = Asked(self.path, self.headers.get("Range"), self.headers.get("If-Range"), 200)
            server.log.append(asked)
            if file is None:
                self._empty(asked, 404, {})
            elif file.answers:
                self._empty(asked, *file.answers.pop(0))
            else:
                self._send(asked, file)

        def _empty(self, asked: Asked, status: int, headers: dict[str, str]) -> None:
            asked.status = status
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def _send(self, asked: Asked, file: Served) -> None:
            start, total = 0, len(file.body)
            same = asked.if_range is None or asked.if_range in (file.etag, file.modified)
            if file.ranges and asked.range and same:
                start = int(asked.range.removeprefix("bytes=").partition("-")[0]) + file.shift
                if start >= total:
                    self._empty(asked, 416, {"Content-Range": f"bytes */{total}"})
                    return
                asked.status = 206
            self.send_response(asked.status)
            if asked.status == 206:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if file.length:
                self.send_header("Content-Length", str(total - start))
            else:
                self.close_connection = True
            for name, value in (("ETag", file.etag), ("Last-Modified", file.modified), *file.headers.items()):
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            end = start + file.cuts.pop(0) if file.cuts else total
            try:
                for at in range(start, min(end, total), 65536):
                    piece = file.body[at : min(at + 65536, end)]
                    self.wfile.write(piece)
                    asked.sent += len(piece)
                    time.sleep(file.pause)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client was killed
            if end < total:
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = FileServer(http.server_address[1], "https" if certificate else "http")
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            http.socket = context.wrap_socket(http.socket, server_side=True)
            http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that refuse the certificate
        with answering(http):
            yield server


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
