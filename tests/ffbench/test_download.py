from __future__ import annotations

import email.utils
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from ffbench import download as module
from ffbench.download import download
from ffbench.errors import UserError
from tests.ffbench.fileserver import FileServer, serving, sha

BODY = random.Random(1).randbytes(700_001)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    for name in ("FFBENCH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_arrives_whole_and_its_hash_is_returned(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "w.bin"
    assert download(server.add("w.bin", BODY), target, sha256=sha(BODY), bytes=len(BODY)) == sha(BODY)
    assert target.read_bytes() == BODY
    assert leftovers(target.parent) == {"w.bin"}


def test_hash_and_size_may_be_unknown_and_the_length_unsent(server: FileServer, tmp_path: Path) -> None:
    assert download(server.add("w.bin", BODY, length=False), tmp_path / "w.bin") == sha(BODY)


def test_a_good_target_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(BODY)
    assert download(server.add("w.bin", BODY), tmp_path / "w.bin", sha256=sha(BODY)) == sha(BODY)
    assert server.log == []


def test_a_cut_connection_is_resumed_and_no_byte_is_sent_twice(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, cuts=[200_000, 100_000])
    download(url, tmp_path / "w.bin", sha256=sha(BODY), bytes=len(BODY))
    assert [asked.status for asked in server.log] == [200, 206, 206]
    assert [asked.range for asked in server.log] == [None, "bytes=200000-", "bytes=300000-"]
    assert {asked.if_range for asked in server.log[1:]} == {'"v1"'}
    assert server.sent == len(BODY)
    assert (tmp_path / "w.bin").read_bytes() == BODY


def test_many_cuts_are_survived_while_each_brings_bytes(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, cuts=[70_000] * 9)
    assert download(url, tmp_path / "w.bin") == sha(BODY)
    assert len(server.log) == 10 > module.ATTEMPTS


def test_a_server_without_ranges_starts_over(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, ranges=False, cuts=[200_000])
    assert download(url, tmp_path / "w.bin") == sha(BODY)
    assert [asked.status for asked in server.log] == [200, 200]


def test_a_changed_file_starts_over_instead_of_being_mixed(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = BODY[::-1]
    url = server.add("w.bin", BODY, cuts=[200_000])

    def change() -> None:  # once the first answer was cut, another version stands there
        while not server.log or server.log[0].sent < 200_000:
            time.sleep(0.001)
        server.add("w.bin", other, etag='"v2"')

    changer = threading.Thread(target=change)
    monkeypatch.setattr(module, "BACKOFF_S", 0.3)
    changer.start()
    assert download(url, tmp_path / "w.bin") == sha(other)
    changer.join()
    assert server.log[1].if_range == '"v1"'
    assert server.log[1].status == 200


@pytest.mark.parametrize(
    ("etag", "modified", "resumed"),
    [
        (None, "Tue, 01 Sep 2026 10:00:00 GMT", True),
        ('W/"v1"', None, False),  # a weak tag proves no byte equality
        (None, None, False),
    ],
)
def test_only_a_strong_validator_lets_it_resume(
    server: FileServer, tmp_path: Path, etag: str | None, modified: str | None, resumed: bool
) -> None:
    url = server.add("w.bin", BODY, etag=etag, modified=modified, cuts=[200_000])
    assert download(url, tmp_path / "w.bin") == sha(BODY)
    assert server.log[1].range == ("bytes=200000-" if resumed else None)


def test_unavailable_then_available(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, answers=[(503, {}), (502, {}), (429, {"Retry-After": "0"})])
    assert download(url, tmp_path / "w.bin") == sha(BODY)
    assert [asked.status for asked in server.log] == [503, 502, 429, 200]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(server: FileServer, tmp_path: Path, form: str) -> None:
    at = datetime.now(UTC) + timedelta(seconds=2)
    value = "1" if form == "seconds" else email.utils.format_datetime(at, usegmt=True)
    url = server.add("w.bin", BODY, answers=[(503, {"Retry-After": value})])
    begin = time.monotonic()
    download(url, tmp_path / "w.bin")
    assert 0.9 <= time.monotonic() - begin < 3.0


def test_too_long_a_retry_after_is_reported(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, answers=[(429, {"Retry-After": "3600"})])
    with pytest.raises(UserError, match="wait 3600 s"):
        download(url, tmp_path / "w.bin")


def test_it_gives_up_after_the_last_attempt(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, answers=[(500, {})] * 20)
    with pytest.raises(UserError, match="500") as caught:
        download(url, tmp_path / "w.bin")
    assert len(server.log) == module.ATTEMPTS
    assert len(str(caught.value).splitlines()) == 2


def test_not_found_is_not_tried_again(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="404"):
        download(f"{server.url}/none.bin?token=secret", tmp_path / "w.bin")
    assert len(server.log) == 1


def test_nobody_listens(tmp_path: Path) -> None:
    with serving() as gone:
        url = f"{gone.url}/w.bin?token=secret"
    with pytest.raises(UserError, match=r"127\.0\.0\.1 cannot be reached for w\.bin") as caught:
        download(url, tmp_path / "w.bin")
    assert "secret" not in str(caught.value)
    assert "--from ARCHIVE" in caught.value.fix


def test_a_wrong_hash_leaves_nothing_behind(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY)
    (tmp_path / "w.bin").write_bytes(b"old")
    with pytest.raises(UserError) as caught:
        download(url, tmp_path / "w.bin", sha256=sha(b"else"))
    assert sha(BODY) in caught.value.what
    assert sha(b"else") in caught.value.what
    assert leftovers(tmp_path) == {"w.bin"}
    assert (tmp_path / "w.bin").read_bytes() == b"old"


def test_a_wrong_size_is_refused_before_the_body(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY)
    with pytest.raises(UserError, match=f"offers {len(BODY)} bytes for w.bin, expected 5"):
        download(url, tmp_path / "w.bin", bytes=5)
    assert not (tmp_path / "w.bin").exists()


def test_more_than_the_expected_bytes_are_cut_off(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, length=False)
    with pytest.raises(UserError, match="more than the 5 bytes"):
        download(url, tmp_path / "w.bin", bytes=5)
    assert leftovers(tmp_path) == set()


def test_fewer_than_the_expected_bytes_are_no_success(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, length=False)
    with pytest.raises(UserError, match=f"after {len(BODY)} of {len(BODY) + 1} bytes"):
        download(url, tmp_path / "w.bin", bytes=len(BODY) + 1)
    assert not (tmp_path / "w.bin").exists()


def test_a_compressed_answer_is_refused(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, headers={"Content-Encoding": "gzip"})
    with pytest.raises(UserError, match="re-encoded"):
        download(url, tmp_path / "w.bin")


def test_a_part_longer_than_the_file_starts_over(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, cuts=[200_000, 0, 0, 0, 0, 0])
    with pytest.raises(UserError):
        download(url, tmp_path / "w.bin")
    server.add("w.bin", BODY[:150_000])  # same tag, shorter: the range cannot be satisfied
    assert download(url, tmp_path / "w.bin") == sha(BODY[:150_000])
    assert [asked.status for asked in server.log[-2:]] == [416, 200]


def test_a_part_note_torn_by_a_kill_starts_over(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "w.bin.part").write_bytes(b"half")
    (tmp_path / "w.bin.part.json").write_text('{"url": "http')
    assert download(server.add("w.bin", BODY), tmp_path / "w.bin") == sha(BODY)
    assert server.log[0].range is None


def test_redirects_are_followed_with_the_range(server: FileServer, tmp_path: Path) -> None:
    real = server.add("real.bin", BODY, cuts=[200_000])
    url = server.add("w.bin", b"", answers=[(302, {"Location": f"{real}?signed=1"}), (307, {"Location": "/real.bin"})])
    assert download(url, tmp_path / "w.bin") == sha(BODY)
    assert [asked.range for asked in server.log if asked.path.startswith("/real")] == [None, "bytes=200000-"]


def test_a_redirect_to_nowhere_is_refused(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", b"", answers=[(302, {"Location": "https://example.org:port/w"})] * 20)
    with pytest.raises(UserError, match="Invalid URL in location header"):
        download(url, tmp_path / "w.bin")


def test_a_range_that_was_not_asked_for_starts_over(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, cuts=[200_000])
    server.files["w.bin"].shift = 1
    assert download(url, tmp_path / "w.bin") == sha(BODY)
    assert [asked.status for asked in server.log] == [200, 206, 200]


def test_a_server_that_never_ends_its_cuts_is_given_up(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.0)
    with pytest.raises(UserError, match="broke off 100 times"):
        download(server.add("w.bin", BODY, cuts=[10] * 200), tmp_path / "w.bin")


def test_endless_redirects_end(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", b"", answers=[(302, {"Location": "/w.bin"})] * 20)
    with pytest.raises(UserError, match="without end"):
        download(url, tmp_path / "w.bin")


def test_a_redirect_to_plain_http_elsewhere_is_refused(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", b"", answers=[(302, {"Location": "http://example.org/w.bin?key=secret"})])
    with pytest.raises(UserError, match=r"redirects to http://example.org/w.bin, which is not https"):
        download(url, tmp_path / "w.bin")


@pytest.mark.parametrize(
    "url",
    ["http://example.org/w", "ftp://example.org/w", "file:///etc/passwd", "https://", "http://127.0.0.1.example.org/w"],
)
def test_addresses_that_are_not_https_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not https"):
        download(url, tmp_path / "w.bin")


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no address"):
        download("https://[", tmp_path / "w.bin")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on this machine")
    made = tmp_path / "tls.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", made, "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    return made


def test_an_untrusted_certificate_is_refused_at_once(certificate: Path, tmp_path: Path) -> None:
    with serving(certificate) as server:
        url = server.add("w.bin", BODY)
        with pytest.raises(UserError, match=r"certificate of 127\.0\.0\.1 is not trusted") as caught:
            download(url, tmp_path / "w.bin")
        assert "SSL_CERT_FILE" in caught.value.fix
        assert server.log == []


def test_certificates_of_the_network_and_no_step_down_from_https(
    server: FileServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(certificate) as safe:
        assert download(safe.add("w.bin", BODY, cuts=[100_000]), tmp_path / "w.bin") == sha(BODY)
        plain = server.add("w.bin", BODY)
        down = safe.add("down.bin", b"", answers=[(302, {"Location": plain})])
        with pytest.raises(UserError, match="which is not https"):
            download(down, tmp_path / "down.bin")
    assert server.log == []


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert download(server.add("w.bin", BODY), tmp_path / "w.bin") == sha(BODY)


def test_https_may_not_fall_back_to_http_even_on_loopback() -> None:
    with pytest.raises(UserError, match="not https"):
        module._check("http://127.0.0.1/w", before="https://example.org/w")


@pytest.mark.parametrize("name", ["FFBENCH_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_is_refused_at_once(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=f"{name} forbids"):
        download(server.add("w.bin", BODY), tmp_path / "w.bin")
    assert server.log == []


def test_a_full_disk_is_seen_before_the_body(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("w.bin", BODY)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="no room for w"):
        download(url, tmp_path / "w.bin")
    assert not (tmp_path / "w.bin.part").exists()


def test_a_disk_that_fills_while_writing(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = module._Part.begin

    def begin_on_a_full_device(part: module._Part, url: str, validator: str, total: int | None) -> None:
        begin(part, url, validator, total)
        part.path.symlink_to("/dev/full")  # the kernel answers every write with "no space left on device"

    monkeypatch.setattr(module._Part, "begin", begin_on_a_full_device)
    with pytest.raises(UserError, match="no room"):
        download(server.add("w.bin", BODY), tmp_path / "w.bin")


def test_a_folder_that_cannot_be_made_is_named(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot be written"):
        download(server.add("w.bin", BODY), tmp_path / "file" / "w.bin")


def _pull_in_a_child(url: str, target: Path, expected: str) -> subprocess.Popen[str]:
    code = (
        "import sys\nfrom pathlib import Path\nfrom ffbench.download import download\n"
        "print(download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, url, str(target), expected],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def _until(what: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not what():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.01)


def test_two_processes_fetch_once(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, pause=0.1)
    target = tmp_path / "w.bin"
    children = [_pull_in_a_child(url, target, sha(BODY)) for _ in range(2)]
    results = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert [out.strip() for out, _ in results] == [sha(BODY)] * 2
    assert len(server.log) == 1
    assert sum("another process is at it; waiting" in err for _, err in results) == 1


def test_a_killed_download_goes_on_where_it_stopped(server: FileServer, tmp_path: Path) -> None:
    body = random.Random(2).randbytes(4_000_000)
    url = server.add("w.bin", body, pause=0.05)
    target = tmp_path / "w.bin"
    child = _pull_in_a_child(url, target, sha(body))
    part = tmp_path / "w.bin.part"
    _until(lambda: part.is_file() and part.stat().st_size >= 1_000_000)
    child.kill()
    child.communicate()
    assert not target.exists()
    arrived = part.stat().st_size
    server.files["w.bin"].pause = 0.0
    assert download(url, target, sha256=sha(body)) == sha(body)
    assert server.log[1].range == f"bytes={arrived}-"
    assert server.log[1].sent == len(body) - arrived
    assert target.read_bytes() == body


def test_killed_between_the_last_byte_and_the_move(server: FileServer, tmp_path: Path) -> None:
    url = server.add("w.bin", BODY, cuts=[len(BODY) - 1, 0, 0, 0, 0, 0])
    with pytest.raises(UserError):
        download(url, tmp_path / "w.bin")
    with (tmp_path / "w.bin.part").open("ab") as stream:
        stream.write(BODY[-1:])
    asked = len(server.log)
    assert download(url, tmp_path / "w.bin", sha256=sha(BODY)) == sha(BODY)
    assert len(server.log) == asked
