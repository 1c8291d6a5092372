"""A local HTTPS server that plays Kling's and Vidu's documented interfaces, with faults that the tests choose."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.loopback import answering

API_KEY = "sk-sentinel-0123456789abcdef"
ACCESS, SECRET = "ak-sentinel-access-77", "secret-sentinel-8899aabb"
VIDU_KEY = "vda_sentinel_4242424242"
SENTINELS = (API_KEY, ACCESS, SECRET, VIDU_KEY)


class CutError(Exception):
    """Close the connection without an answer."""


@dataclass
class Task:
    id: str
    mark: str
    body: dict[str, Any]
    path: str
    left: int
    """Questions that are answered with `processing` before it ends."""
    why: str = ""
    """Reason of a failure; empty for a success."""
    asked: int = 0


@dataclass
class File:
    """How the result of a task is served."""

    body: bytes
    kind: str = "video/mp4"
    status: list[int] = field(default_factory=list)
    """One entry a GET: answer with this status instead."""
    cuts: list[int] = field(default_factory=list)
    """One entry a GET: close after so many bytes."""
    redirects: list[str] = field(default_factory=list)
    pause: float = 0.0
    length: bool = True
    announced: int = 0
    """Content-Length that is claimed instead of the body's."""
    encoding: str = ""


@dataclass
class Vendor:
    """State of the server; the tests read and write it."""

    url: str
    port: int
    trust: ssl.SSLContext
    ca: Path
    file: File
    tasks: dict[str, Task] = field(default_factory=dict)
    posts: list[str] = field(default_factory=list)
    """Marks of everything that was posted, accepted or not."""
    polls: int = 1
    fail: dict[int, str] = field(default_factory=dict)
    """Reason for which the n-th accepted task fails."""
    faults: list[Callable[[str, str], tuple[int, Any] | None]] = field(default_factory=list)
    """Asked in order with verb and path; the first that gives an answer is used once and removed."""
    on_accept: Callable[[], None] | None = None
    running: int = 0
    most: int = 0
    """Most tasks that ran at once."""
    cap: int = 100
    log: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> None:
        running = sum(1 for task in self.tasks.values() if task.asked < task.left + 1)
        self.running, self.most = running, max(self.most, running)


def once(verb: str, status: int, body: Any, times: int = 1) -> list[Callable[[str, str], tuple[int, Any] | None]]:
    """A fault: answer the next `times` requests of a verb like this; an exception as `body` is raised."""
    return [lambda v, p: (status, body) if v == verb and not p.startswith("/files") else None] * times


def certificate(folder: Path) -> Path:
    """A certificate of a made-up authority for 127.0.0.1 and its key, in one PEM file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on this machine")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*command, "-keyout", folder / "key.pem", "-out", folder / "ca.pem"], check=True, capture_output=True
    )
    (folder / "both.pem").write_bytes((folder / "key.pem").read_bytes() + (folder / "ca.pem").read_bytes())
    return folder / "ca.pem"


@contextmanager
def playing(ca: Path, video: bytes) -> Iterator[Vendor]:
    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        port = http.server_address[1]
        vendor = Vendor(f"https://127.0.0.1:{port}", port, ssl.create_default_context(cafile=str(ca)), ca, File(video))
        Handler.vendor = vendor
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca.with_name("both.pem"))
        http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that were killed
        with answering(http):
            yield vendor


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vendor: Vendor
    timeout = 20

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._serve("POST", body)

    def do_GET(self) -> None:
        if self.path.startswith("/files/"):
            self._file()
        else:
            self._serve("GET", {})

    def _serve(self, verb: str, body: dict[str, Any]) -> None:
        vendor = self.vendor
        with vendor.lock:
            vendor.log.append((verb, self.path))
            try:
                status, answer = self._faulty(verb) or self._answer(verb, body)
                if isinstance(answer, Exception):
                    raise answer
            except CutError:
                self.close_connection = True
                return
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _faulty(self, verb: str) -> tuple[int, Any] | None:
        for fault in self.vendor.faults:
            made = fault(verb, self.path)
            if made is not None:
                self.vendor.faults.remove(fault)
                return made
        return None

    def _answer(self, verb: str, body: dict[str, Any]) -> tuple[int, Any]:
        parts = urlsplit(self.path)
        kling = not parts.path.startswith("/ent/")
        given = self.headers.get("Authorization", "")
        if not (_kling_knows(given, parts.path) if kling else given == f"Token {VIDU_KEY}"):
            # some gateways send back what they were given
            return 401, {"code": 1002, "err_code": "Unauthorized", "message": f"bad key {given}"}
        return (self._kling if kling else self._vidu)(verb, parts.path, parse_qs(parts.query), body)

    def _accept(self, mark: str, body: dict[str, Any], path: str) -> Task | None:
        vendor = self.vendor
        vendor.posts.append(mark)
        vendor.count()
        if vendor.running >= vendor.cap:
            return None
        number = len(vendor.tasks)
        task = Task(f"8{number:05d}", mark, body, path, vendor.polls, vendor.fail.get(number, ""))
        vendor.tasks[task.id] = task
        vendor.count()
        if vendor.on_accept:
            vendor.on_accept()
        return task

    def _state(self, task: Task) -> str:
        task.asked += 1
        if task.asked <= task.left:
            return "processing"
        return "failed" if task.why else "success"

    def _kling(self, verb: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any]:
        tasks = self.vendor.tasks
        newer = not path.startswith("/v1/")
        if verb == "POST":
            mark = body["options"]["external_task_id"] if newer else body["external_task_id"]
            if any(task.mark == mark for task in tasks.values()):
                return 400, {"code": 1201, "message": "external_task_id already exists"}
            task = self._accept(mark, body, path)
            if task is None:
                return 429, {"code": 1303, "message": "parallel task over resource pack limit"}
            data = {"id": task.id, "status": "submitted"} if newer else {"task_id": task.id}
            return 200, {"code": 0, "message": "SUCCEED", "data": data}
        if newer:
            wanted = query.get("task_ids") or query.get("external_task_ids") or []
            found = [t for t in tasks.values() if t.id in wanted or t.mark in wanted]
            by_mark = "external_task_ids" in query
            return 200, {"code": 0, "data": [self._newer(task, by_mark) for task in found]}
        name = path.rpartition("/")[2]
        task = next((t for t in tasks.values() if name in (t.id, t.mark)), None)
        if task is None:
            return 404, {"code": 1203, "message": "task not found"}
        state = "processing" if name == task.mark else self._state(task)
        data = {"task_id": task.id, "task_status": {"success": "succeed"}.get(state, state)}
        data |= {"task_status_msg": task.why, "task_info": {"external_task_id": task.mark}}
        if state == "success":
            data |= {"task_result": {"videos": [{"url": self._url(task), "duration": "5"}]}}
            data |= {"final_unit_deduction": "3.5"}
        return 200, {"code": 0, "data": data}

    def _newer(self, task: Task, by_mark: bool) -> dict[str, Any]:
        state = "processing" if by_mark else self._state(task)
        data: dict[str, Any] = {"id": task.id, "external_id": task.mark, "message": task.why}
        data["status"] = {"success": "succeeded"}.get(state, state)
        if state == "success":
            data["outputs"] = [{"type": "image", "url": "x"}, {"type": "video", "url": self._url(task)}]
        return data

    def _vidu(self, verb: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any]:
        tasks = self.vendor.tasks
        if verb == "POST":
            task = self._accept(body["payload"], body, path)
            if task is None:
                return 429, {"code": 429, "reason": "QuotaExceeded", "message": "over the limit"}
            return 200, {"task_id": task.id, "state": "created", "payload": task.mark, "credits": 8}
        if path == "/ent/v2/tasks":
            start = int(query.get("pager.page_token", ["0"])[0])
            page = list(tasks.values())[::-1][start : start + 2]
            more = str(start + 2) if start + 2 < len(tasks) else ""
            listed = [{"id": t.id, "prompt": t.body["prompt"], "state": "processing"} for t in page]
            return 200, {"tasks": listed, "next_page_token": more}
        task = tasks.get(path.split("/")[4])
        if task is None:
            return 404, {"code": 404, "reason": "TaskNotFound", "message": "no such task"}
        state = self._state(task)
        answer: dict[str, Any] = {"id": task.id, "state": "queueing" if state == "processing" else state}
        answer |= {"err_code": task.why if state == "failed" else "", "credits": 8, "payload": task.mark}
        if state == "success":
            answer["creations"] = [{"id": "c", "url": self._url(task)}]
        return 200, answer

    def _url(self, task: Task) -> str:
        return f"{self.vendor.url}/files/{task.id}.mp4?signature=sentinel-signature&n={task.asked}"

    def _file(self) -> None:
        file = self.vendor.file
        self.vendor.log.append(("GET", self.path))
        status = file.status.pop(0) if file.status else 302 if file.redirects else 200
        self.send_response(status)
        body = file.body if status == 200 else b""
        if status == 302:
            self.send_header("Location", file.redirects.pop(0))
        self.send_header("Content-Type", file.kind)
        if file.encoding:
            self.send_header("Content-Encoding", file.encoding)
        if file.length:
            self.send_header("Content-Length", str(file.announced or len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        end = file.cuts.pop(0) if file.cuts and status == 200 else len(body)
        for at in range(0, end, 4096):
            self.wfile.write(body[at : min(at + 4096, end)])
            time.sleep(file.pause)
        self.close_connection |= end < len(body)


def _kling_knows(header: str, path: str) -> bool:
    """The key itself, or on the older form a token that an independent reading of RFC 7519 accepts."""
    token = header.removeprefix("Bearer ")
    if token == API_KEY:
        return True
    head, _, signature = token.rpartition(".")
    if not path.startswith("/v1/") or head.count(".") != 1:
        return False
    wanted = base64.urlsafe_b64encode(hmac.new(SECRET.encode(), head.encode(), hashlib.sha256).digest())
    claims = json.loads(base64.urlsafe_b64decode(head.split(".")[1] + "=="))
    fresh = claims["nbf"] <= time.time() < claims["exp"] <= time.time() + 1801
    return wanted.rstrip(b"=").decode() == signature and claims["iss"] == ACCESS and fresh
