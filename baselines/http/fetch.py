"""Downloads of results from addresses that a stranger's answer names.

Only https on port 443, every address that the name resolves to must be public, the connection goes to the address that
was checked (no second look-up), each redirect is checked anew, size, time and type are limited, and what arrives is a
whole MP4 file or nothing.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import struct
import time
from pathlib import Path

import httpx

from baselines.http.client import Network

MOST_BYTES = 1 << 30
MOST_SECONDS = 900.0
_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""All that is given out of IPv6; elsewhere lie site-local, IPv4-compatible and local translation addresses."""
_TYPES = ("video/", "application/octet-stream", "binary/octet-stream", "application/mp4")


class UnsafeError(Exception):
    """An address or a file that must not be taken."""


class FetchError(Exception):
    """A download that did not come about this time: cut off, a server's fault."""


class ExpiredError(FetchError):
    """The server has or shows the file no more under this address."""


def fetch_video(url: str, target: Path, network: Network, most_bytes: int = MOST_BYTES) -> str:
    """Fetch an MP4 file into `target`, which appears whole or not at all; the sha256 of its bytes, 64 hex digits.

    Raises:
        UnsafeError: a refused address, type, size or content.
        FetchError: whatever may pass or be mended by a fresh address.
    """
    part = target.with_name(target.name + ".part")
    until = time.monotonic() + MOST_SECONDS
    # proxies of the environment are not asked once a transport is given: right for a loopback address
    local = httpx.HTTPTransport(verify=network.trust or True) if network.loopback_ports else None
    try:
        with httpx.Client(timeout=30.0, verify=network.trust or True, transport=local) as client:
            for _ in range(_REDIRECTS + 1):
                following = _one(client, url, part, network, (most_bytes, until))
                if following is None:
                    break
                url = following
            else:
                raise UnsafeError(f"{shown(url)} redirects more than {_REDIRECTS} times")
        check_mp4(part)
        with part.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        part.replace(target)
        return digest
    except httpx.HTTPError as error:
        # never chained: the cause holds the whole address, which is as good as a key
        raise FetchError(f"{shown(url)}: {type(error).__name__}") from None
    finally:
        part.unlink(missing_ok=True)


def _one(client: httpx.Client, url: str, part: Path, network: Network, limits: tuple[int, float]) -> str | None:
    """One exchange: the whole body in `part`, or the address that it redirects to."""
    most, until = limits
    target = _parsed(url)
    address = public_address(url, network)
    name = {"sni_hostname": target.raw_host.decode("ascii")}  # the certificate must be that of the name
    headers = {"Host": target.netloc.decode("ascii"), "User-Agent": "ffbench", "Accept-Encoding": "identity"}
    with client.stream("GET", target.copy_with(host=address), headers=headers, extensions=name) as response:
        if response.has_redirect_location:
            return str(target.join(_parsed(response.headers["Location"])))
        if response.status_code in (401, 403, 404, 410):
            raise ExpiredError(f"{shown(url)} answers {response.status_code}")
        if response.status_code != 200:
            raise FetchError(f"{shown(url)} answers {response.status_code}")
        kind = response.headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()
        if not kind.startswith(_TYPES):
            raise UnsafeError(f"{shown(url)} sends {kind[:60]!r}, which is no video")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise UnsafeError(f"{shown(url)} sends an encoded body, against the request")
        length = response.headers.get("Content-Length", "0")
        size = int(length) if length.isdigit() else 0
        if size > most:
            raise UnsafeError(f"{shown(url)} offers {size} bytes, more than {most}")
        size = 0
        with part.open("wb") as stream:
            for chunk in response.iter_raw():
                size += len(chunk)
                if size > most:
                    raise UnsafeError(f"{shown(url)} sends more than {most} bytes")
                if time.monotonic() > until:
                    raise FetchError(f"{shown(url)} takes more than {MOST_SECONDS:.0f} s")
                stream.write(chunk)
    return None


def public_address(url: str, network: Network) -> str:
    """The checked address to connect to.

    Raises:
        UnsafeError: not https on port 443, a name with a user, or a name that resolves to anything that is not public.
        FetchError: a name that does not resolve now.
    """
    target = _parsed(url)
    host, port = target.raw_host.decode("ascii"), target.port or 443
    local = port in network.loopback_ports
    if target.scheme != "https" or not host or target.userinfo or (port != 443 and not local):
        raise UnsafeError(f"{shown(url)} is refused: results come over https on port 443")
    try:
        found = [item[4][0] for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise FetchError(f"{host[:100]} does not resolve: {error}") from None
    for text in found:
        address = ipaddress.ip_address(str(text).partition("%")[0])
        if not is_public(address) and not (local and address.is_loopback):
            raise UnsafeError(f"{shown(url)} is refused: it leads into a private network")
    return str(found[0])


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the public internet, also where IPv6 carries an IPv4 address inside."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo or address not in _UNICAST:
            return False
    return address.is_global and not address.is_multicast


def check_mp4(path: Path) -> None:
    """Whether a file is an MP4 that was written to its end: `ftyp` first, boxes that fill the file, `moov` and `mdat`.

    Raises:
        UnsafeError: another kind of file.
        FetchError: a file that was cut off.
    """
    total, at, seen = path.stat().st_size, 0, set[bytes]()
    with path.open("rb") as stream:
        while at < total:
            stream.seek(at)
            head = stream.read(16)
            size = struct.unpack(">I", head[:4])[0] if len(head) >= 8 else 0
            kind = head[4:8]
            if not seen and kind != b"ftyp":
                raise UnsafeError(f"what arrived is no MP4 file: {head[:8]!r}")
            if size == 1 and len(head) == 16:
                size = struct.unpack(">Q", head[8:])[0]
            elif size == 0 and kind == b"mdat":
                size = total - at  # to the end of the file
            if size < 8 or at + size > total:
                raise FetchError("the video was cut off")
            seen.add(kind)
            at += size
    if not {b"moov", b"mdat"} <= seen:
        raise FetchError("the video was cut off" if seen else "the video is empty")


def shown(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    try:
        parts = _parsed(url)
    except UnsafeError:
        return "an unreadable address"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.host}{port}{parts.path}"[:200]


def _parsed(url: str) -> httpx.URL:
    """One reader for the check and for the connection: two would disagree one day."""
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise UnsafeError("the result's address cannot be read") from None
