"""Downloads that resume, verify and arrive whole or not at all."""

from __future__ import annotations

import email.utils
import errno
import hashlib
import ipaddress
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from ffbench.errors import UserError
from ffbench.progress import Bar, bar, note

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 5
"""Failures in a row, without a byte gained, after which a download gives up."""
ATTEMPTS_UNREACHED = 3
"""The same where no connection came about: most likely there is no network."""
BACKOFF_S = 0.5
"""First pause; doubled each time, with jitter."""
LONGEST_WAIT_S = 120.0
"""A server that asks for a longer pause is reported instead of waited for."""
_MOST_TRIES = 100
_SPARE = 64 << 20
_OFFLINE = ("FFBENCH_OFFLINE", "HF_HUB_OFFLINE")


class _AgainError(Exception):
    """A failure that may pass; `wait` is what the server asked for, in seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass(frozen=True)
class _Job:
    url: str
    label: str
    bytes: int | None


class _Part:
    """The unfinished file beside its target, and what is known of it: address, validator, full size."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._meta = target.with_name(target.name + ".part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def known(self, url: str) -> tuple[int, str, int | None]:
        """Bytes to go on from, the validator for If-Range, the full size; (0, "", None) where nothing can be kept."""
        try:
            meta = json.loads(self._meta.read_text("utf-8"))
            total = meta["total"]
            if meta["url"] == url and meta["validator"] and (total is None or self.size() <= total):
                return self.size(), str(meta["validator"]), total
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no part, or a note torn by a kill: begin anew
        return 0, "", None

    def begin(self, url: str, validator: str, total: int | None) -> None:
        """Empty the file and note what it will hold."""
        self.discard()
        self._meta.write_text(json.dumps({"url": url, "validator": validator, "total": total}), "utf-8")

    def discard(self) -> None:
        self._meta.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def install(self, target: Path) -> None:
        with self.path.open("rb+") as stream:
            os.fsync(stream.fileno())
        self.path.replace(target)
        self._meta.unlink(missing_ok=True)


def download(url: str, target: Path, *, sha256: str | None = None, bytes: int | None = None, label: str = "") -> str:
    """Fetch `url` into `target` and return the sha256 of what arrived, 64 hex digits.

    Goes on where a cut or killed download stopped, when the server proves with its validator that the file is still
    the same. `target` is either absent, old, or complete and verified. Two processes wait for each other.

    Args:
        url: https, or http on a loopback host; redirects are held to the same rule.
        target: the file to make; its folder is made too.
        sha256: what the bytes must hash to; None to accept any.
        bytes: the size the file must have; None to accept any.
        label: name for messages and the progress bar; the file name if left out.

    Raises:
        UserError: refused address, offline, unreachable, refused by the server, wrong size or hash, full disk.
    """
    job = _Job(url, label or target.name, bytes or None)
    _check(url)
    refuse_offline(job.label)
    try:
        with waiting_lock(target.with_name(target.name + ".lock"), job.label):
            if sha256 and target.is_file() and sha256_of(target) == sha256:
                return sha256  # another process was faster
            return _fetch(job, target, sha256)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _no_room(job.label, target.parent) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
            raise UserError(f"{target.parent} cannot be written: {error.strerror}", "give another folder") from error
        raise


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refuse_offline(what: str) -> None:
    """Raise `UserError` at once where the user has forbidden the network."""
    for name in _OFFLINE:
        if os.environ.get(name, "").lower() in {"1", "true", "yes", "on"}:
            raise UserError(
                f"{what} is not on this machine, and {name} forbids the network",
                f"unset {name}, or bring it with `ffbench weights pack` and `ffbench weights pull --from ARCHIVE`",
            )


@contextmanager
def waiting_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock between processes; says so on stderr if it has to wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        note(f"{what}: another process is at it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(job: _Job, target: Path, sha256: str | None) -> str:
    part = _Part(target)
    with bar(job.label, job.bytes, "B") as shown:
        _with_retries(job, part, shown)
    got = sha256_of(part.path)
    if sha256 and got != sha256:
        part.discard()
        raise UserError(
            f"{job.label} from {_shown(job.url)} has sha256 {got}, expected {sha256}",
            "try again or another mirror; if it stays so, the file upstream was replaced: do not use it",
        )
    part.install(target)
    return got


def _with_retries(job: _Job, part: _Part, shown: Bar) -> None:
    import httpx  # half of this module's import time, and only a download needs it

    failures, most = 0, part.size()
    # proxies of the environment are not asked once a transport is given: right for a loopback address
    transport = httpx.HTTPTransport() if _is_loopback(job.url) else None
    with httpx.Client(timeout=httpx.Timeout(60.0, connect=15.0), transport=transport) as client:
        for _ in range(_MOST_TRIES):
            try:
                _once(client, job, part, shown)
                return
            except (httpx.TransportError, _AgainError) as error:
                failures = 1 if part.size() > most else failures + 1
                most = max(most, part.size())
                asked = error.wait if isinstance(error, _AgainError) else None
                allowed = ATTEMPTS_UNREACHED if isinstance(error, httpx.ConnectError) else ATTEMPTS
                if failures >= allowed or "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise _unreachable(job, error) from error
                if asked is not None and asked > LONGEST_WAIT_S:
                    raise UserError(
                        f"{urlsplit(job.url).hostname} asks to wait {asked:.0f} s before {job.label} is tried again",
                        "run the same command later; what has arrived is kept",
                    ) from error
                if asked:
                    note(f"{job.label}: the server asks to wait {asked:.0f} s")
                jitter = random.uniform(0.5, 1.5)
                time.sleep(BACKOFF_S * 2 ** (failures - 1) * jitter if asked is None else asked)
    raise UserError(
        f"{job.label} broke off {_MOST_TRIES} times", "run the same command later; what has arrived is kept"
    )


def _once(client: httpx.Client, job: _Job, part: _Part, shown: Bar) -> None:
    """One request; leaves the whole file in `part` or raises."""
    offset, validator, total = part.known(job.url)
    if offset and offset == total:
        shown.restart(offset, total)
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "ffbench"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        headers["If-Range"] = validator
    with _opened(client, job.url, headers) as response:
        start, total = _judge(response, job, part)
        if start == 0:  # a first request, or the file changed, or ranges are not served
            part.begin(job.url, _validator(response), total)
        if total is not None and shutil.disk_usage(part.path.parent).free < total - start + _SPARE:
            raise _no_room(job.label, part.path.parent, total - start)
        shown.restart(start, total)
        size = start
        with part.path.open("ab") as stream:
            for chunk in response.iter_raw():  # a chunk size would hold back, and lose, what a cut leaves
                size += len(chunk)
                if total is not None and size > total:
                    part.discard()
                    raise UserError(
                        f"{_shown(job.url)} sends more than the {total} bytes of {job.label}", "try another mirror"
                    )
                stream.write(chunk)
                shown.advance(len(chunk))
    if total is not None and size < total:
        raise _AgainError(f"the connection ended after {size} of {total} bytes")


def _judge(response: httpx.Response, job: _Job, part: _Part) -> tuple[int, int | None]:
    """First byte and full size that an answer offers; raises for every other answer."""
    status = response.status_code
    where = _shown(job.url)
    if status == 416:
        part.discard()
        raise _AgainError("the server has less than what had arrived", wait=0.0)
    if status in {408, 429} or status >= 500:
        raise _AgainError(f"{status} {response.reason_phrase}", _retry_after(response))
    if status not in {200, 206}:
        raise UserError(
            f"{where} answers {status} {response.reason_phrase} for {job.label}",
            "check the address or the network's filters",
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UserError(f"{where} sends {job.label} re-encoded, against the request", "try another mirror")
    start, total = 0, response.headers.get("Content-Length", "")
    if status == 206:
        unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = rest.partition("/")
        first = span.partition("-")[0]
        if unit != "bytes" or not first.isdigit() or int(first) != part.size():
            part.discard()
            raise _AgainError("the server answers with another range than asked for")
        start = int(first)
    size = int(total) if total.isdigit() else job.bytes
    if job.bytes is not None and size != job.bytes:
        raise UserError(
            f"{where} offers {size} bytes for {job.label}, expected {job.bytes}",
            "try another mirror; if it stays so, the file upstream was replaced: do not use it",
        )
    return start, size


@contextmanager
def _opened(client: httpx.Client, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """Follow redirects by hand, so that each address is checked before it is asked."""
    for _ in range(10):
        response = client.send(client.build_request("GET", url, headers=headers), stream=True)
        try:
            if not response.has_redirect_location:
                yield response
                return
            following = str(response.url.join(response.headers["Location"]))
            _check(following, before=url)
            url = following
        finally:
            response.close()
    raise UserError(f"{_shown(url)} redirects without end", "try another mirror")


def _check(url: str, before: str = "") -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"{url!r} is no address: {error}", "give an https address") from error
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(url) and not before.startswith("https:"):
        return
    way = f"{_shown(before)} redirects to" if before else "refused:"
    raise UserError(f"{way} {_shown(url)}, which is not https", "give an https address")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _validator(response: httpx.Response) -> str:
    """A strong ETag, else Last-Modified, else nothing: a weak tag may not be used in If-Range (RFC 9110, 13.1.5)."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _shown(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _unreachable(job: _Job, error: Exception) -> UserError:
    from httpx import ConnectError

    host, why = urlsplit(job.url).hostname, str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return UserError(
            f"the certificate of {host} is not trusted: {why}", "set SSL_CERT_FILE to the certificates of your network"
        )
    fix = "check the network or HTTPS_PROXY; without network: ffbench weights pull --from ARCHIVE"
    if isinstance(error, ConnectError):
        return UserError(f"{host} cannot be reached for {job.label}: {why}", fix)
    return UserError(f"{job.label} cannot be had from {_shown(job.url)}: {why}", fix)


def _no_room(label: str, folder: Path, needed: int | None = None) -> UserError:
    size = f" ({needed / 1e6:.0f} MB to go)" if needed else ""
    return UserError(f"no room for {label} in {folder}{size}", "free some space; what has arrived is kept")
