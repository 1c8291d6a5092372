"""How Kling signs and what its codes mean."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any

from baselines.http.client import BusyError, KeyRefusedError, MissingError, UnsureError
from ffbench.contract import RefusedError
from ffbench.errors import UserError

_ABSENT = re.compile(r"(?i)task.*not.*(found|exist)")


def sign(claims: Mapping[str, Any], secret: str) -> str:
    """A JSON web token, HS256 (RFC 7515, 7518)."""
    parts = [{"alg": "HS256", "typ": "JWT"}, claims]
    body = b".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return (body + b"." + _base64url(hmac.digest(secret.encode(), body, hashlib.sha256))).decode()


def judge(status: int, answer: Mapping[str, Any]) -> None:
    """Raise what an answer with a code other than 0 means: section "Error codes" of Kling's reference."""
    given = answer.get("code", 0 if status < 300 else -1)
    code = int(given) if isinstance(given, int | str) and str(given).isdigit() else -1
    if code == 0 and status < 300:
        return
    message = str(answer.get("message"))
    what = f"kling answers {status}, code {given}: {message[:300]}"
    if code in (1302, 1303) or (status == 429 and code < 0):
        raise BusyError(what)
    if 1000 <= code <= 1004:
        raise KeyRefusedError(what)
    if code in (1100, 1101, 1102, 1103, 1304):
        raise UserError(what, "see the account at Kling: credit, resource pack, permissions, allowed addresses")
    if code in (1202, 1203) or status == 404 or (code in (1200, 1201) and _ABSENT.search(message)):
        raise MissingError(what)
    if code in (1300, 1301):
        raise RefusedError(what)
    if status >= 500 or 5000 <= code < 6000:
        raise UnsureError(what)
    raise RuntimeError(what)


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
