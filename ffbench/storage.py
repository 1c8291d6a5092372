"""Objects of a bucket through fsspec: whole ones in, whole ones out, again and again until they are there.

An object store has no append and no rename, but an object appears at once and whole. Everything here keeps to that:
an upload is one object, a download lies beside its place until its length is right.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ffbench.errors import UserError

T = TypeVar("T")
_URL = re.compile(r"(s3|s3a|gs|gcs|az|abfs|abfss):/+([^/].*)")
_OTHER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(/+.*)?")
_EXTRA = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError)
"""What no second attempt mends."""
_KEYLESS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
"""The same of botocore, which is not imported here."""
_OPTIONS = {"skip_instance_cache": True, "use_listings_cache": False}
"""A cached file system would keep the credentials, the address and the listings of an earlier one."""
_S3 = {"config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 20, "read_timeout": 60}}
"""One layer tries again, this one: botocore's attempts times s3fs's times ours would take an hour to give up."""
ATTEMPTS = 6
_PAUSE = 0.5
"""Seconds before the second attempt; doubled each time."""


@dataclass(frozen=True)
class Stored:
    """An object as a listing tells it."""

    size: int
    tag: str
    """Changes when the object does."""


def url_of(place: str | Path) -> str:
    """The address of an object store that a command's argument names, or an empty text for a local path.

    A Path swallows one of the two slashes of `s3://bucket/folder`; it is put back.

    Raises:
        UserError: for an address without a bucket, or of something else.
    """
    found = _URL.fullmatch(str(place))
    if not found and _OTHER.fullmatch(str(place)):
        raise UserError(
            f"{place} is no folder and names no bucket", "write a path, or s3://BUCKET/FOLDER (gs://, az://)"
        )
    return f"{found[1]}://{found[2].rstrip('/')}" if found else ""


_shown: dict[str, str] = {}


def show_as(folder: Path, url: str) -> None:
    """Let `shown` say the address for a local folder."""
    _shown[str(folder)] = url


def shown(line: str) -> str:
    """A line for people with addresses where the local folders stand that hold their objects."""
    for folder, url in _shown.items():
        line = line.replace(folder, url)
    return line


class Bucket:
    """A folder of an object store. Names are relative to it. May be used from several threads.

    Raises:
        UserError: where the package for this kind of store is missing.
    """

    def __init__(self, url: str) -> None:
        import fsspec  # type: ignore[import-untyped]

        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, **_OPTIONS, **(_S3 if url.startswith("s3") else {}))
            self._fs.retries = 1
        except ImportError as error:
            kind = url.partition(":")[0]
            extra = f"pip install 'ffbench[{_EXTRA[kind]}]'" if kind in _EXTRA else f"install {error.name or error}"
            raise UserError(f"{url} cannot be opened: {error}", extra) from error

    def list(self) -> dict[str, Stored]:
        """Every object by name."""
        return self._patiently("list", self._list)

    def _list(self) -> dict[str, Stored]:
        self._fs.invalidate_cache()
        start = len(self._root) + 1
        found: Mapping[str, Mapping[str, Any]] = self._fs.find(self._root, detail=True)
        return {name[start:]: _stored(info) for name, info in found.items() if name.startswith(self._root + "/")}

    def find(self, name: str) -> Stored | None:
        """The object of a name, if there is one."""

        def once() -> Stored | None:
            try:
                return _stored(self._fs.info(self._place(name)))
            except FileNotFoundError:
                return None

        return self._patiently(f"look at {name}", once)

    def put(self, path: Path, name: str) -> Stored:
        """Upload a file as one object, replacing one of that name."""

        def once() -> Stored:
            # small objects go in one request, larger ones in parts that nobody sees before the last: whole either way
            size = path.stat().st_size
            self._fs.put_file(str(path), self._place(name))
            return self._check(name, size)

        return self._patiently(f"upload {name}", once)

    def put_bytes(self, data: bytes, name: str) -> Stored:
        """Upload bytes as one object."""

        def once() -> Stored:
            self._fs.pipe_file(self._place(name), data)
            return self._check(name, len(data))

        return self._patiently(f"upload {name}", once)

    def get(self, name: str, path: Path) -> None:
        """Download an object; the file is absent, old or whole."""
        self._patiently(f"download {name}", lambda: self._get(name, path))

    def _get(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
            part = Path(folder, "object")
            self._fs.get_file(self._place(name), str(part))
            self._check(name, part.stat().st_size)
            part.chmod(0o644)
            part.replace(path)

    def _check(self, name: str, size: int) -> Stored:
        there = _stored(self._fs.info(self._place(name)))
        if there.size != size:
            raise OSError(f"{there.size} bytes are stored, {size} are here")
        return there

    def read(self, name: str) -> bytes:
        """The bytes of an object."""
        return self._patiently(f"download {name}", lambda: bytes(self._fs.cat_file(self._place(name))))

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _patiently(self, what: str, work: Callable[[], T]) -> T:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE * 2 ** (attempt - 1))
            try:
                return work()
            except _FINAL as error:
                raise self._failed(what, error) from error
            except Exception as error:
                if type(error).__name__ in _KEYLESS:
                    raise self._failed(what, error) from error
                last = error
        raise self._failed(f"{what} in {ATTEMPTS} attempts", last) from last

    def _failed(self, what: str, error: Exception) -> UserError:
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        return UserError(
            f"{self.url}: could not {what}: {reason}",
            "check the address, the credentials and the network; the same command goes on from what is there",
        )


def _stored(info: Mapping[str, Any]) -> Stored:
    # the names that s3fs, gcsfs, adlfs and fsspec's own file systems use
    tags = (info.get(key) for key in ("ETag", "etag", "md5Hash", "LastModified", "updated", "last_modified", "mtime"))
    return Stored(int(info["size"] or 0), str(next((tag for tag in tags if tag), "")))
