"""A client for servers with the OpenAI chat interface: GPT-4.1, vLLM, llama.cpp and others."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from ffbench.errors import UserError

TIMEOUT_S = 180.0
"""Seconds that one answer may take in all."""
ATTEMPTS = 6
BACKOFF_S = 1.0
"""First pause after a failure that may pass; doubled each time, with jitter."""
LONGEST_WAIT_S = 120.0
_LARGEST = 1 << 20
_MAY_PASS = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_UNFIT = {400, 413, 422}


class ChatError(Exception):
    """An answer that cannot be read; another try may give a better one."""


class RefusedError(UserError):
    """The server will not do this one request (too long, an unfit picture); it may well do others."""


class Chat:
    """A connection to one model. The key of OPENAI_API_KEY is sent as a header, and shown nowhere.

    Raises:
        UserError: no address, or one over which the key would travel in the clear.
    """

    def __init__(self, endpoint: str, model: str) -> None:
        self._model = model
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        try:
            parts = urlsplit(endpoint)
            host = ((parts.port is None or parts.port > 0) and parts.hostname) or ""
        except ValueError:
            parts, host = urlsplit(""), ""
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.query:
            raise UserError(
                "--endpoint is no plain http(s) address",
                "give one such as https://api.openai.com/v1, without a key in it",
            )
        local = _is_local(host)
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError("OPENAI_API_KEY holds characters that no key has", "set it to the key alone")
        if self._key and parts.scheme == "http" and not local:
            raise UserError(
                f"OPENAI_API_KEY would travel to {host} in the clear", "use https, or unset the key if none is needed"
            )
        self._url = endpoint.rstrip("/") + "/chat/completions"
        self.host = host
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # a loopback address is never meant for a proxy
        self._client = httpx.Client(
            headers=headers, timeout=httpx.Timeout(TIMEOUT_S, connect=15.0), trust_env=not local
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def ask(self, messages: Sequence[Mapping[str, Any]], seed: int) -> tuple[str, str]:
        """The model's answer, and the name that the server gives the model. Several threads may ask at once.

        Raises:
            ChatError: an answer that is not of the chat interface.
            RefusedError: a UserError about this request alone.
            UserError: a refused key, an unknown model, or a server that cannot be reached after several tries.
        """
        body = {"model": self._model, "messages": list(messages), "seed": seed}
        last = ""
        for attempt in range(ATTEMPTS):
            wait = BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5)
            try:
                status, headers, text = self._post(body)
            except httpx.TransportError as error:
                last = type(error).__name__
            else:
                if status == 200:
                    return _answer(text)
                last = f"status {status}: {self._redacted(text)}"
                if status not in _MAY_PASS:
                    raise self._refused(status, last)
                asked = headers.get("retry-after", "")
                wait = float(asked) if asked.isdigit() else wait
                if wait > LONGEST_WAIT_S:
                    raise UserError(f"{self.host} asks to wait {wait:.0f} s", "run the same command later: it goes on")
            if attempt + 1 < ATTEMPTS:
                time.sleep(wait)
        raise UserError(
            f"{self.host} gave no answer in {ATTEMPTS} tries ({last})",
            "check --endpoint and the server; the same command goes on",
        )

    def _post(self, body: Mapping[str, Any]) -> tuple[int, httpx.Headers, str]:
        """One request, whole within TIMEOUT_S however slowly the server drips."""
        deadline = time.monotonic() + TIMEOUT_S
        data = bytearray()
        with self._client.stream("POST", self._url, json=body) as response:
            for chunk in response.iter_bytes():
                data += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer took too long", request=response.request)
                if len(data) > _LARGEST:
                    raise ChatError(f"the answer is longer than {_LARGEST} bytes")
        return response.status_code, response.headers, data.decode("utf-8", "replace")

    def _refused(self, status: int, last: str) -> UserError:
        if status in (401, 403):
            fix = "set OPENAI_API_KEY to a valid key" if self._key else "set OPENAI_API_KEY: the server asks for a key"
            return UserError(f"{self.host} refused the key ({last})", fix)
        if status in _UNFIT:
            return RefusedError(
                f"{self.host} refused the request ({last})", "check what is sent, --endpoint and --model"
            )
        return UserError(f"{self.host} refused the request ({last})", "check --endpoint (up to /v1) and --model")

    def _redacted(self, text: str) -> str:
        """The beginning of a server's words, without the key if they repeat it."""
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:200]


def _answer(text: str) -> tuple[str, str]:
    try:
        data = json.loads(text)
        content = data["choices"][0]["message"]["content"]
        served = str(data.get("model", ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ChatError(f"the server's answer is not of the chat interface ({type(error).__name__})") from error
    if not isinstance(content, str):
        raise ChatError("the server's answer holds no text")
    return content, served


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
