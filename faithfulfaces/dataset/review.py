"""The review page's server: for this machine alone, with a secret in the address.

Needs FastAPI and uvicorn (`pip install 'ffbench[data]'`). The page asks no other host for anything.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from faithfulfaces.dataset.clips import Clips
from faithfulfaces.dataset.desk import Desk
from faithfulfaces.dataset.folder import Folder
from ffbench.errors import UserError

PAGE = Path(__file__).parent / "page"
HOST = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SECRET = re.compile(r"[A-Za-z0-9_-]{24}")
LARGEST = 65536
"""Bytes of a request."""
Next = Callable[[Request], Awaitable[Response]]


def app(clips: Clips, token: str, *, blind: bool = False) -> FastAPI:
    """The server of one review.

    Args:
        clips: under review.
        token: the secret in the address; everything lies below `/<token>/`.
        blind: see `Desk`.
    """
    made = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    desk = Desk(clips, blind=blind)

    @made.middleware("http")
    async def guard(request: Request, call_next: Next) -> Response:
        refused = _refused(request, token)
        response = refused or await call_next(request)
        response.headers.update(HEADERS)
        return response

    @made.exception_handler(UserError)
    async def failed(_: Request, error: UserError) -> Response:
        return JSONResponse({"error": error.what, "fix": error.fix}, 409)

    @made.exception_handler(OSError)
    async def full(_: Request, error: OSError) -> Response:
        return JSONResponse({"error": f"nothing was saved: {error.strerror}", "fix": "free some space"}, 507)

    below = f"/{token}"
    for name in ("index.html", "page.css", "page.js", "curves.js", "icon.svg"):
        path = PAGE / name
        made.add_api_route(f"{below}/{'' if name == 'index.html' else name}", _file(path), methods=["GET"])
    made.add_api_route(f"{below}/clips", desk.clips, methods=["GET"])
    made.add_api_route(f"{below}/clip", desk.clip, methods=["GET"])
    made.add_api_route(f"{below}/video", desk.video, methods=["GET"])
    made.add_api_route(f"{below}/crop", desk.crop, methods=["GET"])
    made.add_api_route(f"{below}/agreement", desk.agreement, methods=["GET"])
    made.add_api_route(f"{below}/answer", desk.answer, methods=["POST"])
    made.add_api_route(f"{below}/caption", desk.caption, methods=["POST"])
    return made


def serve(clips: Clips, *, blind: bool, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        clips: under review.
        blind: see `Desk`.
        port: of this machine; 0 for any free one.
        ready: gets the address, once it answers.

    Raises:
        UserError: the port is taken.
    """
    token = _secret(clips.folder)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port} of this machine is taken", "give another --port, or 0 for any") from error
        listening.listen()
        config = uvicorn.Config(
            app(clips, token, blind=blind), log_level="warning", access_log=False, ws="none", server_header=False
        )
        ready(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
        uvicorn.Server(config).run([listening])


def _secret(folder: Folder) -> str:
    """The folder's secret, made once: after a crash, pages that are still open go on at the same address."""
    try:
        found = folder.secret.read_text("ascii")
        if SECRET.fullmatch(found):
            return found
    except (OSError, UnicodeDecodeError):
        pass
    token = secrets.token_urlsafe(18)
    folder.secret.unlink(missing_ok=True)
    with os.fdopen(os.open(folder.secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(token)
    return token


def _file(path: Path) -> Callable[[], FileResponse]:
    return lambda: FileResponse(path)


def _refused(request: Request, token: str) -> Response | None:
    """An answer to what the page never asks, or None."""
    name = request.url.hostname or ""
    given = request.url.path.split("/")[1].encode()
    if name not in (HOST, "localhost"):
        return JSONResponse({"error": "another host name"}, 403)  # a remote name that resolves to this machine
    if not secrets.compare_digest(given, token.encode()):
        return JSONResponse({"error": "not found"}, 404)
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > LARGEST:
            return JSONResponse({"error": "too large"}, 413)
    return None
