"""JSON over HTTPS with a key that never leaves memory: not in an error, not in a log, not in a record."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from ffbench.errors import UserError

HIDDEN = "[key]"
_MOST_JSON = 16 << 20
_TASK = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class BusyError(Exception):
    """The vendor asks to come back later; nothing was accepted."""


class UnsureError(Exception):
    """No answer, or one that does not tell whether the request was accepted."""


class MissingError(Exception):
    """The vendor knows no such task or address."""


class KeyRefusedError(Exception):
    """The vendor does not accept the key."""


@dataclass(frozen=True)
class Network:
    """What may be reached. The default is the public internet under the system's certificates; only code can widen it.

    `loopback_ports` are ports of this machine that a result may be fetched from, `trust` replaces the certificates:
    both are there for tests against a local server.
    """

    loopback_ports: frozenset[int] = frozenset()
    trust: ssl.SSLContext | None = None


class Secrets:
    """Texts that must never be seen, and the one way to clean a message of them."""

    def __init__(self, values: Iterable[str]) -> None:
        self._values = {value for value in values if value}

    def add(self, value: str) -> None:
        """Hide one more text, such as a token that was made of the keys."""
        self._values.add(value)

    def clean(self, value: Any) -> Any:
        """JSON of a vendor's without any secret that it sends back."""
        if isinstance(value, str):
            for secret in sorted(self._values, key=len, reverse=True):
                value = value.replace(secret, HIDDEN)
            return value
        if isinstance(value, Mapping):
            return {key: self.clean(item) for key, item in value.items()}
        return [self.clean(item) for item in value] if isinstance(value, list) else value

    def hide(self, text: str, most: int = 500) -> str:
        """`text` without any secret, without what looks like a token, and at most `most` characters long."""
        text = str(self.clean(text))
        text = re.sub(r"eyJ[\w-]+\.[\w-]+\.[\w-]*", HIDDEN, text)
        text = re.sub(r"(?i)\b(bearer|token)\s+[\w.~+/=-]{8,}", rf"\1 {HIDDEN}", text)
        return text[:most]


def key_of(variable: str) -> str:
    """A key from the environment, or an empty text.

    Raises:
        UserError: for a value that cannot be a key, without showing it.
    """
    value = os.environ.get(variable, "").strip()
    if value and not re.fullmatch(r"[\x21-\x7e]{8,512}", value):
        raise UserError(
            f"{variable} holds something that is no key (8 to 512 printable characters without spaces)",
            f"set {variable} to the key as the vendor shows it, without quotes",
        )
    return value


class Api:
    """One vendor's HTTP interface.

    Args:
        base: scheme and host, a constant of the adapter.
        authorize: gives the value of the Authorization header; asked once more after a refusal of the key.
        judge: raises for an answer (status, JSON body) that is no success.
        secrets: what to keep out of every message.
        network: what may be reached.
    """

    def __init__(
        self,
        base: str,
        authorize: Callable[[], str],
        judge: Callable[[int, Mapping[str, Any]], None],
        secrets: Secrets,
        network: Network,
    ) -> None:
        self._base = base
        self._authorize = authorize
        self._judge = judge
        self.secrets = secrets
        local = bool(network.loopback_ports)
        self._client = httpx.Client(
            timeout=httpx.Timeout(60.0, connect=15.0),
            verify=network.trust or True,
            # proxies of the environment are not asked once a transport is given: right for a loopback address
            transport=httpx.HTTPTransport(verify=network.trust or True) if local else None,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def call(self, verb: str, path: str, body: Mapping[str, Any] | None = None, **query: str) -> dict[str, Any]:
        """One exchange; the JSON body of a success.

        Raises:
            BusyError, UnsureError, MissingError, RefusedError, RuntimeError: as `judge` says; UnsureError also where no
                JSON came back.
            UserError: where the key is refused twice.
        """
        for last in (False, True):
            try:
                return self._once(verb, path, body, query)
            except KeyRefusedError as error:
                if last:
                    host = httpx.URL(self._base).host
                    raise UserError(
                        f"{host} does not accept the key: {error}",
                        "check key, region and whether the account is active",
                    ) from None
        raise AssertionError("unreachable")

    def _once(self, verb: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, str]) -> dict[str, Any]:
        headers = {"Authorization": self._authorize(), "User-Agent": "ffbench", "Accept": "application/json"}
        try:
            with self._client.stream(
                verb, self._base + path, json=body, params=query or None, headers=headers
            ) as response:
                status, text = response.status_code, _limited(response)
        except httpx.HTTPError as error:
            # never chained: the cause may hold the header
            raise UnsureError(self.secrets.hide(f"{verb} {path}: {type(error).__name__}: {error}")) from None
        try:
            answer = self.secrets.clean(json.loads(text))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            if status == 404:
                raise MissingError(f"{verb} {path} answers 404")
            if status in (401, 403):
                raise KeyRefusedError(f"{verb} {path} answers {status}")
            raise UnsureError(f"{verb} {path} answers {status} without JSON")
        self._judge(status, answer)
        return answer


def task_id(value: object) -> str:
    """A task id of a vendor, fit for an address.

    Raises:
        UnsureError: for anything else; there may be a task, but nobody can name it.
    """
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not _TASK.fullmatch(text) or ".." in text:
        raise UnsureError("the answer names no task")
    return text


def _limited(response: httpx.Response) -> bytes:
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > _MOST_JSON:
            raise httpx.ReadError(f"the answer is larger than {_MOST_JSON} bytes")
        parts.append(part)
    return b"".join(parts)
