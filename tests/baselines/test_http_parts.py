"""Addresses, files, pictures, signatures and the journal of the methods behind HTTP."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import ipaddress
import json
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from baselines.http.client import BusyError, KeyRefusedError, MissingError, Network, Secrets, UnsureError, task_id
from baselines.http.fetch import FetchError, UnsafeError, check_mp4, fetch_video, is_public, public_address, shown
from baselines.http.images import encode
from baselines.http.journal import Journal
from baselines.kling import dialect
from baselines.vidu import adapter as vidu
from ffbench.contract import RefusedError
from ffbench.errors import UserError


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("2001:0:1::1", False),
        ("64:ff9b::808:808", True),
        ("64:ff9b:1::a00:1", False),
        ("::10.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("fec0::1", False),
    ],
)
def test_what_is_public(text: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(text)) == public


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.8.8/v.mp4",
        "ftp://8.8.8.8/v.mp4",
        "file:///etc/passwd",
        "https://8.8.8.8:8443/v.mp4",
        "https://user:pw@8.8.8.8/v.mp4",
        "https:///v.mp4",
        "https://[::1/v.mp4",
        "https://127.0.0.1/v.mp4",
        "https://2130706433/v.mp4",
        "https://0x7f.1/v.mp4",
        "https://localhost/v.mp4",
        "https://[::ffff:169.254.169.254]/",
        "https://10.0.0.1\\@8.8.8.8/",
        "",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises((UnsafeError, FetchError)):
        public_address(url, Network())


def test_a_name_with_one_private_address_is_refused_and_what_was_checked_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolve(*addresses: str) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    resolve("8.8.8.8", "10.0.0.1")
    with pytest.raises(UnsafeError, match="private network"):
        public_address("https://cdn.example/v.mp4", Network())
    resolve("8.8.8.8", "1.1.1.1")
    assert public_address("https://cdn.example/v.mp4", Network()) == "8.8.8.8"


def test_the_name_is_looked_up_once_and_tls_is_that_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a server that answers a second look-up with a private address finds nobody asking
    asked: list[str] = []
    connected: list[tuple[str, int]] = []

    def look_up(host: Any, *_: Any, **__: Any) -> list[Any]:
        asked.append(host if isinstance(host, str) else host.decode())
        address = "8.8.8.8" if asked == ["cdn.example"] else "10.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FetchError, match=r"https://cdn\.example/v\.mp4"):
        fetch_video("https://cdn.example/v.mp4?secret=1", tmp_path / "v.mp4", Network())
    assert asked == ["cdn.example"] and connected == [("8.8.8.8", 443)]


def test_an_address_is_shown_without_its_secrets() -> None:
    assert shown("https://u:p@a.example:8443/x/y?token=1#z") == "https://a.example:8443/x/y"


def box(kind: bytes, size: int = 16) -> bytes:
    return struct.pack(">I", size) + kind + bytes(size - 8)


WHOLE = box(b"ftyp") + box(b"moov") + box(b"mdat", 64)


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        box(b"ftyp") + box(b"moov") + struct.pack(">I4s", 0, b"mdat") + bytes(9),
        box(b"ftyp") + struct.pack(">I4sQ", 1, b"mdat", 40) + bytes(24) + box(b"moov"),
    ],
)
def test_whole_files_pass(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "v").write_bytes(data)
    check_mp4(tmp_path / "v")


def test_every_cut_of_a_file_is_seen(tmp_path: Path) -> None:
    for length in range(len(WHOLE)):
        (tmp_path / "v").write_bytes(WHOLE[:length])
        with pytest.raises((FetchError, UnsafeError)):
            check_mp4(tmp_path / "v")


@pytest.mark.parametrize("data", [b"<html></html>", b"RIFF" + bytes(60), b"\x1aE\xdf\xa3" + bytes(60)])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "v").write_bytes(data)
    with pytest.raises(UnsafeError, match="no MP4"):
        check_mp4(tmp_path / "v")


# --- pictures


def photo(folder: Path, width: int, height: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "p.png")
    return folder / "p.png"


@pytest.mark.parametrize(
    ("size", "sent"),
    [((400, 300), (400, 300)), ((100, 120), (300, 360)), ((1000, 300), (1000, 400)), ((50, 500), (300, 750))],
)
def test_pictures_fit_the_vendors_limits(tmp_path: Path, size: tuple[int, int], sent: tuple[int, int]) -> None:
    data, kind, note = encode(photo(tmp_path, *size), 300, 2.5, 10**7)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == sent and image.format == "PNG" and kind == "image/png"
        assert min(image.size) >= 300 and max(image.size) <= 2.5 * min(image.size)
        if size == sent:
            assert np.array_equal(np.asarray(image), np.asarray(Image.open(tmp_path / "p.png")))
    assert note.startswith(f"{size[0]}x{size[1]}") and ("padded" in note) == (max(size) > 2.5 * min(size))


def test_heavy_pictures_become_jpeg_or_are_refused(tmp_path: Path) -> None:
    path = photo(tmp_path, 400, 400)
    data, kind, note = encode(path, 128, 4.0, 300_000)
    assert kind == "image/jpeg" and len(data) <= 300_000 and data[:2] == b"\xff\xd8" and "JPEG" in note
    with pytest.raises(RuntimeError, match="above 1000 bytes"):
        encode(path, 128, 4.0, 1000)


# --- keys and codes


def test_secrets_are_hidden_wherever_they_come_back() -> None:
    secrets = Secrets(("hunter22-long", "hunter22", ""))
    assert secrets.clean({"a": ["x hunter22-long y", {"b": "hunter22"}], "n": 1}) == {
        "a": ["x [key] y", {"b": "[key]"}],
        "n": 1,
    }
    shown = secrets.hide("Authorization: Bearer abcdef0123456789 eyJhbGciOiJ9.eyJpc3MiOiJ9.c2ln Token vda_123456789")
    assert shown == "Authorization: Bearer [key] [key] Token [key]"
    assert len(secrets.hide("x" * 9999)) == 500


def test_the_signature_is_that_of_rfc_7519() -> None:
    token = dialect.sign({"iss": "ak", "exp": 2, "nbf": 1}, "sk")
    head, claims, signature = token.split(".")
    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"alg": "HS256", "typ": "JWT"}
    assert json.loads(base64.urlsafe_b64decode(claims + "==")) == {"iss": "ak", "exp": 2, "nbf": 1}
    wanted = hmac.new(b"sk", f"{head}.{claims}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == wanted and "=" not in token


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        *((401, code, KeyRefusedError) for code in (1000, 1001, 1002, 1003, 1004)),
        *((429, code, UserError) for code in (1100, 1101, 1102, 1304)),
        (403, 1103, UserError),
        (400, 1200, RuntimeError),
        (400, 1201, RuntimeError),
        (404, 1202, MissingError),
        (404, 1203, MissingError),
        (400, 1300, RefusedError),
        (200, 1301, RefusedError),
        (429, 1302, BusyError),
        (429, "1303", BusyError),
        (500, 5000, UnsureError),
        (503, 5001, UnsureError),
        (504, 5002, UnsureError),
        (502, None, UnsureError),
        (429, None, BusyError),
        (418, "teapot", RuntimeError),
        (200, 0, None),
    ],
)
def test_klings_codes(status: int, code: object, kind: type[Exception] | None) -> None:
    answer = {"message": "m"} if code is None else {"code": code, "message": "m"}
    if kind is None:
        dialect.judge(status, answer)
        return
    with pytest.raises(kind):
        dialect.judge(status, answer)


CODES: dict[type[Exception], str] = {
    RuntimeError: "BadRequest FieldLacking FieldUnwanted FieldInvalid FieldItemCountOutOfRange ImageFormatInvalid "
    "ImageSizeInvalid ImageDownloadFailure FaceDetectFailure NoFaceDetected MultiFaceDetected ImageCheckFaceFailed",
    RefusedError: "TaskPromptPolicyViolation AuditSubmitIllegal CreationPolicyViolation AuditFailed",
    UserError: "Forbidden CreditInsufficient",
    KeyRefusedError: "Unauthorized",
    BusyError: "QuotaExceeded TooManyRequests SystemThrottling OperationInProcess",
    MissingError: "TaskNotFound CreationNotFound NotFound",
}


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, text in CODES.items() for code in text.split()])
def test_vidus_codes(kind: type[Exception], code: str) -> None:
    for answer in ({"err_code": code}, {"code": 400, "reason": code}, {"error": {"code": code}}):
        with pytest.raises(kind):
            vidu.judge(400, answer)
    vidu.judge(200, {"state": "failed", "err_code": code})


@pytest.mark.parametrize("value", ["", None, "../x", "a/b", "a b", "x" * 200, True, {"id": 1}])
def test_a_task_id_that_could_lead_elsewhere_is_none(value: object) -> None:
    with pytest.raises(UnsureError):
        task_id(value)
    assert task_id("88-a_b.c:1") == "88-a_b.c:1" and task_id(123) == "123"


# --- the journal


def test_the_journal_survives_a_torn_line_and_keeps_orders_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "v")
    first = journal.announce("k1")
    journal.accepted("k1", "t1")
    journal.announce("k2")
    journal.ended("k2", "refused")
    journal.close()
    path = tmp_path / "v.jsonl"
    with path.open("ab") as stream:
        stream.write(b'{"key": "k1", "sha2')
    again = Journal(tmp_path, "v")
    entry, ended = again.entry("k1"), again.entry("k2")
    assert entry is not None and (entry.mark, entry.task, entry.sha256) == (first.mark, "t1", "")
    assert ended is not None and ended.ended == "refused"
    assert again.announce("k2").mark not in (ended.mark, first.mark)
    assert path.read_bytes().endswith(b"\n") and again.tasks() == {"t1"}
    again.close()
    Journal(tmp_path, "v").close()  # what came after the torn line can be read
    other = Journal(tmp_path / "other", "v")
    assert other.announce("k1").mark != first.mark  # two run folders never share an order
    other.close()


def test_a_damaged_journal_stops_instead_of_ordering_anew(tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").write_text('{"nonce": "a"}\nnonsense\n')
    with pytest.raises(UserError, match="is damaged"):
        Journal(tmp_path, "v")
