from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import random
import subprocess
import sys
import tarfile
import time
import tomllib
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ffbench import download, weights
from ffbench.errors import UserError
from ffbench.protocols import PROTOCOLS
from ffbench.weights.pins import REGISTRY
from tests.ffbench.fileserver import FileServer, serving, sha

DET = random.Random(1).randbytes(200_000)
REC = random.Random(2).randbytes(300_000)
NET = random.Random(3).randbytes(400_000)
FREE = b"free weights"


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return out.getvalue()


NESTED = zipped({"pack/pack/det.onnx": DET, "pack/pack/rec.onnx": REC, "pack/pack/readme.txt": b"hello"})


class Shelf:
    """A registry of small weights at a local server, and the folder they go to."""

    def __init__(self, server: FileServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.archive = NESTED
        self.file_urls: dict[str, str] = {}
        self.net_urls = [f"{server.url}/net.bin"]

    def write(self) -> None:
        entry = {"licence": "L", "source": "https://example.org", "evidence": "made up", "purpose": "test"}
        head = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
        lines = [f"[pack]\n{head}research_only = true\n"]
        url = f"{self.server.url}/pack.zip"
        lines.append(f'[pack.archive]\nname = "pack.zip"\nurls = ["{url}"]\nsha256 = "{sha(self.archive)}"\n')
        lines.append(f"bytes = {len(self.archive)}\n")
        for name, body in (("det.onnx", DET), ("rec.onnx", REC)):
            urls = f'urls = ["{self.file_urls[name]}"]\n' if name in self.file_urls else ""
            lines.append(f'[[pack.files]]\nname = "{name}"\n{urls}sha256 = "{sha(body)}"\nbytes = {len(body)}\n')
        lines.append(f"[net]\n{head}research_only = true\nabout_mb = 7\n")
        lines.append(f'[[net.files]]\nname = "net.bin"\nurls = {json.dumps(self.net_urls)}\n')
        lines.append(f"[free]\n{head}research_only = false\n")
        lines.append('[[free.files]]\nname = "free.pth"\n')
        lines.append('urls = ["https://huggingface.co/some/repo/resolve/main/free.pth"]\n')
        lines.append(f'sha256 = "{sha(FREE)}"\nbytes = {len(FREE)}\n')
        (self.folder.parent / "registry.toml").write_text("".join(lines))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    for name in list(os.environ):
        if name.startswith(("FFBENCH_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(download, "BACKOFF_S", 0.01)
    monkeypatch.setenv("FFBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("FFBENCH_WEIGHTS_REGISTRY", str(tmp_path / "registry.toml"))
    with serving() as server:
        made = Shelf(server, tmp_path / "weights")
        made.write()
        server.add("pack.zip", NESTED)
        server.add("net.bin", NET)
        server.add("some/repo/resolve/main/free.pth", FREE)
        yield made


# the registry that ships


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FFBENCH_WEIGHTS_REGISTRY", raising=False)
    monkeypatch.delenv("FFBENCH_COMMERCIAL_OK", raising=False)
    monkeypatch.setenv("FFBENCH_WEIGHTS", str(tmp_path / "empty"))


@pytest.mark.usefixtures("shipped")
def test_every_network_of_every_protocol_is_in_the_registry() -> None:
    names = {network.weights for protocol in PROTOCOLS.values() for network in protocol.networks.values()} - {""}
    assert names
    for name in names:
        with pytest.raises(UserError, match=f"weights {name} are not on this machine") as caught:
            weights.resolve(name)
        assert caught.value.fix.startswith(f"ffbench weights pull {name.partition('/')[0]}   (")


@pytest.mark.usefixtures("shipped")
def test_the_missing_pack_is_reported_in_two_lines_with_its_terms() -> None:
    with pytest.raises(UserError) as caught:
        weights.resolve("buffalo_l/det_10g.onnx")
    assert str(caught.value) == (
        "error: weights buffalo_l/det_10g.onnx are not on this machine\n"
        "fix:   ffbench weights pull buffalo_l   (research only, 289 MB)"
    )


@pytest.mark.usefixtures("shipped")
def test_pins_are_whole_and_addresses_are_https() -> None:
    entries = weights.registry()
    assert set(entries) == {
        "buffalo_l", "antelopev2", "curricularface-ir101", "inception-torchvision", "fid-inception", "clip-vit-b-32",
        "facenet-vggface2", "6drepnet",
    }  # fmt: skip
    for entry in entries.values():
        items = [*entry.files, *([entry.archive] if entry.archive else [])]
        assert all(url.startswith("https://") for item in items for url in item.urls)
        assert all(bool(item.sha256) == bool(item.bytes) for item in items)
        assert entry.bytes or entry.about_mb
        assert entry.evidence.strip()
    unpinned = {name for name, entry in entries.items() if not all(file.sha256 for file in entry.files)}
    assert unpinned == {"curricularface-ir101", "6drepnet"}


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("name", ["inception-torchvision", "fid-inception"])
def test_a_hash_in_the_published_file_name_agrees_with_the_pin(name: str) -> None:
    file = weights.registry()[name].files[0]
    assert file.name.removesuffix(".pth").rpartition("-")[2] == file.sha256[:8]


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("name", "package", "source", "part"),
    [
        ("inception-torchvision", "torchvision", "models/inception.py", None),
        ("fid-inception", "torch_fidelity", "feature_extractor_inceptionv3.py", None),
        ("facenet-vggface2", "facenet_pytorch", "models/inception_resnet_v1.py", None),
        ("clip-vit-b-32", "open_clip", "pretrained.py", "timm/vit_base_patch32_clip_224.openai/"),
        ("buffalo_l", "insightface", "utils/storage.py", "github.com/deepinsight/insightface/releases/download/"),
    ],
)
def test_addresses_are_those_of_the_packages_own_sources(
    name: str, package: str, source: str, part: str | None
) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    entry = weights.registry()[name]
    url = (entry.archive or entry.files[0]).urls[0]
    assert part is None or part in url
    assert (part or url) in (Path(spec.origin).parent / source).read_text("utf-8")


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ffbench import weights\nassert weights.list_rows()\n"
        "sys.exit(bool({'torch', 'rich', 'httpx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REGISTRY.parents[1], check=False).returncode == 0


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FFBENCH_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.weights_dir() == tmp_path / "ffbench" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.weights_dir() == Path.home() / ".cache" / "ffbench" / "weights"
    monkeypatch.setenv("FFBENCH_WEIGHTS", "~/w")
    assert weights.weights_dir() == Path.home() / "w"


# registry files of the user


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a", "TOML|Expected"),
        ("[a]\nfiles = []", "at least one file"),
        ('[a]\nlicense = "x"\n[[a.files]]\nname = "b"\nurls = ["u"]', "license"),
        ('[a]\n[[a.files]]\nname = "../b"', "plain name"),
        ('[a]\n[[a.files]]\nname = "b"\nsha256 = "abc"', "64 hex digits"),
        ('["../a"]\n[["../a".files]]\nname = "b"\nurls = ["u"]', "plain name"),
        ('[a]\n[[a.files]]\nname = "b"', "without an address"),
    ],
)
def test_a_bad_registry_is_named(shelf: Shelf, text: str, says: str) -> None:
    registry = shelf.folder.parent / "registry.toml"
    registry.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        weights.registry()
    assert str(registry) in caught.value.what


def test_a_missing_registry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_WEIGHTS_REGISTRY", "/nowhere.toml")
    with pytest.raises(UserError, match="nowhere"):
        weights.registry()


# pull and resolve


def test_a_nested_pack_is_pulled_and_resolved(shelf: Shelf) -> None:
    weights.pull(["pack"])
    found = weights.resolve("pack/det.onnx")
    assert found == (shelf.folder / "pack" / "det.onnx", sha(DET))
    assert found.path.read_bytes() == DET
    assert {p.name for p in (shelf.folder / "pack").iterdir()} == {"det.onnx", "rec.onnx"}
    assert not (shelf.folder / ".incoming" / "pack").exists()


def test_what_is_here_is_not_fetched_again(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    weights.pull(["pack/det.onnx"])
    weights.pull(["pack", "pack"])
    assert len(shelf.server.log) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("pack is here") == 2


def test_files_are_taken_one_by_one_where_the_archive_is_gone(shelf: Shelf) -> None:
    for name, body in (("det.onnx", DET), ("rec.onnx", REC)):
        shelf.file_urls[name] = shelf.server.add(f"single/{name}", body)
    shelf.write()
    del shelf.server.files["pack.zip"]
    weights.pull(["pack"])
    assert weights.resolve("pack/rec.onnx").sha256 == sha(REC)


def test_an_archive_that_is_gone_is_reported_with_the_mirror_variable(shelf: Shelf) -> None:
    del shelf.server.files["pack.zip"]
    with pytest.raises(UserError, match="404") as caught:
        weights.pull(["pack"])
    assert "FFBENCH_MIRROR_PACK" in caught.value.fix


def test_addresses_are_tried_in_order(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    shelf.net_urls = [f"{shelf.server.url}/gone.bin", f"{shelf.server.url}/net.bin"]
    shelf.write()
    weights.pull(["net"])
    assert [asked.path for asked in shelf.server.log] == ["/gone.bin", "/net.bin"]
    assert "404 Not Found for net.bin; trying the next address" in capfd.readouterr().err
    lock = json.loads((shelf.folder / "weights.lock.json").read_text())
    assert lock["net/net.bin"]["url"] == shelf.net_urls[1]


def test_unknown_names_are_answered_with_the_known(shelf: Shelf) -> None:
    for call in (weights.pull, weights.verify):
        with pytest.raises(UserError, match="no weights 'nope'") as caught:
            call(["nope"])
        assert "pack, net, free" in caught.value.fix
    for name in ("pack", "pack/none.onnx"):
        with pytest.raises(UserError) as caught:
            weights.resolve(name)
        assert "pack/det.onnx, pack/rec.onnx" in caught.value.fix


def test_a_users_own_file_resolves_to_its_hash(shelf: Shelf, tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(DET)
    assert weights.resolve(str(own)) == (own, sha(DET))
    own.write_bytes(REC)
    assert weights.resolve(str(own)).sha256 == sha(REC)
    with pytest.raises(UserError, match="no file"):
        weights.resolve(str(tmp_path / "gone.onnx"))


def test_a_tampered_file_is_refused_and_a_pull_mends_it(shelf: Shelf) -> None:
    weights.pull(["pack"])
    path = weights.resolve("pack/det.onnx").path
    path.write_bytes(DET[:-1] + b"x")
    with pytest.raises(UserError, match="is damaged") as caught:
        weights.resolve("pack/det.onnx")
    assert caught.value.fix == "ffbench weights pull pack"
    assert [(row.name, row.status) for row in weights.verify(["pack"])] == [
        ("pack/det.onnx", "damaged"),
        ("pack/rec.onnx", "ok"),
    ]
    weights.pull(["pack"])
    assert weights.resolve("pack/det.onnx").sha256 == sha(DET)


def test_verify_finds_a_change_that_hides_behind_the_old_time_and_size(shelf: Shelf) -> None:
    weights.pull(["pack"])
    path = weights.resolve("pack/det.onnx").path
    stat = path.stat()
    with path.open("rb+") as stream:
        stream.write(b"xxxx")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights.verify(["pack/det.onnx"])[0].status == "damaged"


def test_a_wrong_upstream_archive_is_not_installed(shelf: Shelf) -> None:
    shelf.server.add("pack.zip", NESTED[:-1] + b"x")
    with pytest.raises(UserError, match=sha(NESTED)):
        weights.pull(["pack"])
    assert not (shelf.folder / "pack").exists()


# hashes nobody published


def test_an_unpublished_hash_is_trusted_once_with_a_notice(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    weights.pull(["net"])
    assert f"notice: nobody published a sha256 of net/net.bin; {sha(NET)} is trusted" in capfd.readouterr().err
    lock = json.loads((shelf.folder / "weights.lock.json").read_text())
    assert lock["net/net.bin"]["sha256"] == sha(NET)
    assert lock["net/net.bin"]["bytes"] == len(NET)
    assert lock["net/net.bin"]["url"] == f"{shelf.server.url}/net.bin"
    assert lock["net/net.bin"]["utc"].endswith("+00:00")
    assert weights.resolve("net") == (shelf.folder / "net" / "net.bin", sha(NET))


def test_what_was_trusted_before_stays_in_the_lock(shelf: Shelf) -> None:
    shelf.folder.mkdir()
    (shelf.folder / "weights.lock.json").write_text('{"other/o.bin": {"sha256": "00"}}')
    weights.pull(["net"])
    lock = json.loads((shelf.folder / "weights.lock.json").read_text())
    assert set(lock) == {"other/o.bin", "net/net.bin"}


def test_what_was_trusted_is_held_to_ever_after(shelf: Shelf) -> None:
    weights.pull(["net"])
    weights.resolve("net").path.unlink()
    shelf.server.add("net.bin", NET[::-1])
    with pytest.raises(UserError, match=f"expected {sha(NET)}"):
        weights.pull(["net"])
    assert not (shelf.folder / "net" / "net.bin").exists()


def test_a_file_put_there_by_hand_is_trusted_only_on_demand(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> None:
    path = shelf.folder / "net" / "net.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(NET)
    with pytest.raises(UserError, match="by hand") as caught:
        weights.resolve("net")
    assert "ffbench weights verify net" in caught.value.fix
    assert weights.verify(["net"])[0].status == "recorded"
    assert "notice" in capfd.readouterr().err
    assert weights.verify(["net"])[0].status == "ok"
    assert weights.resolve("net/net.bin").sha256 == sha(NET)
    path.write_bytes(REC)
    with pytest.raises(UserError, match="damaged"):
        weights.resolve("net")


def test_a_damaged_lock_is_named(shelf: Shelf) -> None:
    shelf.folder.mkdir()
    (shelf.folder / "weights.lock.json").write_text("{")
    with pytest.raises(UserError, match=r"weights\.lock\.json is damaged"):
        weights.verify()


# mirrors, offline, licences


def test_hf_endpoint_replaces_the_hub(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", shelf.server.url + "/")
    weights.pull(["free"])
    assert weights.resolve("free").sha256 == sha(FREE)
    assert [asked.path for asked in shelf.server.log] == ["/some/repo/resolve/main/free.pth"]


def test_a_mirror_is_used_alone_and_held_to_the_pin(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFBENCH_MIRROR_FREE", f"{shelf.server.url}/mine/")
    shelf.server.add("mine/free.pth", b"fake weights")
    with pytest.raises(UserError, match=sha(FREE)):
        weights.pull(["free"])
    shelf.server.add("mine/free.pth", FREE)
    weights.pull(["free"])
    assert {asked.path for asked in shelf.server.log} == {"/mine/free.pth"}


@pytest.mark.parametrize("variable", ["FFBENCH_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_pulls_only_what_is_here(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    weights.pull(["net"])
    monkeypatch.setenv(variable, "1")
    weights.pull(["net"])
    with pytest.raises(UserError, match=f"pack is not on this machine, and {variable} forbids") as caught:
        weights.pull(["pack"])
    assert len(str(caught.value).splitlines()) == 2
    assert len(shelf.server.log) == 1


@pytest.mark.parametrize("way", ["parameter", "environment"])
def test_research_only_is_refused_where_asked(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", shelf.server.url)
    weights.pull()
    weights.pack(None, shelf.folder.parent / "all.tar")
    given: dict[str, Any] = {"commercial_ok": way == "parameter"}
    if way == "environment":
        monkeypatch.setenv("FFBENCH_COMMERCIAL_OK", "1")
    for act in (
        lambda: weights.resolve("pack/det.onnx", **given),
        lambda: weights.pull(["free", "net"], **given),
        lambda: weights.pull(source=shelf.folder.parent / "all.tar", **given),
    ):
        with pytest.raises(UserError, match="for research only") as caught:
            act()
        assert caught.value.fix.endswith("not refused: free")
    assert weights.resolve("free", **given).sha256 == sha(FREE)
    weights.pull(["free"], source=shelf.folder.parent / "all.tar", **given)


def test_listing_tells_what_is_here(shelf: Shelf) -> None:
    weights.pull(["net"])
    rows = {row.name: row for row in weights.list_rows()}
    assert [rows[name].present for name in ("pack", "net", "free")] == [False, True, False]
    assert (rows["pack"].bytes, rows["pack"].sha256) == (len(NESTED), sha(NESTED))
    assert (rows["net"].bytes, rows["net"].sha256) == (0, sha(NET))
    assert (rows["pack"].research_only, rows["free"].research_only) == (True, False)
    assert rows["pack"].files == ("det.onnx", "rec.onnx")


# archives that are not what they should be


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"det.onnx": DET, "rec.onnx": REC, "../../evil.txt": b"x", "/etc/evil": b"x"}, None),
        ({"../det.onnx": DET, "rec.onnx": REC}, "lacks det.onnx"),
        ({"other/det.onnx": DET, "rec.onnx": REC}, "lacks det.onnx"),
        ({"det.onnx": DET, "pack/det.onnx": DET, "rec.onnx": REC}, "holds det.onnx twice"),
        ({"det.onnx": DET + b"x", "rec.onnx": REC}, f"{len(DET) + 1} bytes, expected {len(DET)}"),
        ({"det.onnx": DET[::-1], "rec.onnx": REC}, f"expected {sha(DET)}"),
    ],
)
def test_zips_give_only_what_is_expected(shelf: Shelf, members: dict[str, bytes], says: str | None) -> None:
    shelf.archive = zipped(members)
    shelf.write()
    shelf.server.add("pack.zip", shelf.archive)
    if says is None:
        weights.pull(["pack"])
        assert {p.name for p in (shelf.folder / "pack").iterdir()} == {"det.onnx", "rec.onnx"}
        assert list(shelf.folder.parent.rglob("evil*")) == []
        return
    with pytest.raises(UserError, match=says):
        weights.pull(["pack"])
    assert not (shelf.folder / "pack" / "det.onnx").exists()


def test_a_zip_that_says_less_than_it_holds_is_refused(shelf: Shelf) -> None:
    body = bytearray(zipped({"det.onnx": DET + b"x" * 1000, "rec.onnx": REC}))
    central = body.index(b"PK\x01\x02")
    body[central + 24 : central + 28] = len(DET).to_bytes(4, "little")  # uncompressed size
    shelf.archive = bytes(body)
    shelf.write()
    shelf.server.add("pack.zip", shelf.archive)
    with pytest.raises(UserError):
        weights.pull(["pack"])
    assert not (shelf.folder / "pack" / "det.onnx").exists()


def test_a_file_that_is_no_zip_is_refused(shelf: Shelf) -> None:
    shelf.archive = b"no zip at all"
    shelf.write()
    shelf.server.add("pack.zip", shelf.archive)
    with pytest.raises(UserError, match="is damaged"):
        weights.pull(["pack"])


@pytest.fixture
def packed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A tar of `pack` and `net`, and an empty weights folder without network."""
    weights.pull(["pack", "net"])
    weights.pack(None, tmp_path / "first.tar")
    monkeypatch.setenv("FFBENCH_WEIGHTS", str(tmp_path / "fresh"))
    monkeypatch.setenv("FFBENCH_OFFLINE", "1")
    return tmp_path / "first.tar"


def test_pack_and_pull_from_move_weights_to_an_air_gapped_machine(
    packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    weights.pull(source=packed)
    assert weights.resolve("pack/rec.onnx") == (tmp_path / "fresh" / "pack" / "rec.onnx", sha(REC))
    assert weights.resolve("net").sha256 == sha(NET)
    assert f"{sha(NET)} is trusted" in capfd.readouterr().err
    assert {p.name for p in (tmp_path / "fresh" / ".incoming").iterdir() if not p.name.endswith(".lock")} == set()
    weights.pack(["net", "pack"], tmp_path / "second.tar")
    assert (tmp_path / "second.tar").read_bytes() == packed.read_bytes()


def test_pull_from_takes_only_what_is_named(packed: Path) -> None:
    weights.pull(["net", "free"], source=packed)
    assert [row.name for row in weights.list_rows() if row.present] == ["net"]
    with pytest.raises(UserError, match="holds none of: free"):
        weights.pull(["free"], source=packed)


def test_pull_from_is_held_to_the_lock(packed: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FFBENCH_OFFLINE")
    shelf.server.add("net.bin", NET[::-1])
    weights.pull(["net"])
    with pytest.raises(UserError, match=f"expected {sha(NET[::-1])}"):
        weights.pull(source=packed)
    assert weights.resolve("net").sha256 == sha(NET[::-1])
    assert not (weights.weights_dir() / "pack").exists()  # nothing of a bad archive is installed


def test_pack_refuses_what_is_missing_or_damaged(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights are in"):
        weights.pack(None, tmp_path / "w.tar")
    weights.pull(["pack"])
    with pytest.raises(UserError, match=r"net/net\.bin are not on this machine"):
        weights.pack(["pack", "net"], tmp_path / "w.tar")
    (shelf.folder / "pack" / "det.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="is damaged"):
        weights.pack(None, tmp_path / "w.tar")
    assert not (tmp_path / "w.tar").exists()


def tarred(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, body in members:
            info.size = len(body) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(body))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def manifest(**files: bytes) -> tuple[tarfile.TarInfo, bytes]:
    data = {"format": 1, "files": {n.replace("__", "/") + ".bin": {"sha256": sha(b)} for n, b in files.items()}}
    return member("manifest.json"), json.dumps(data).encode()


GOOD = (member("net/net.bin"), NET)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([manifest(net__net=NET), (member("../evil.bin"), b"x")], "no file of weights that ffbench knows"),
        ([manifest(net__net=NET), (member("/tmp/evil.bin"), b"x")], "no file of weights that ffbench knows"),
        ([manifest(net__net=NET), (member("net/../net/net.bin"), NET)], "no file of weights that ffbench knows"),
        ([manifest(net__net=NET), (member("net/net.bin", tarfile.SYMTYPE, "/etc/passwd"), b"")], "no file of weights"),
        ([manifest(net__net=NET), (member("net/net.bin", tarfile.LNKTYPE, "/etc/passwd"), b"")], "no file of weights"),
        ([manifest(net__net=NET), (member("net", tarfile.SYMTYPE, "/tmp"), b""), GOOD], "no file of weights"),
        ([manifest(net__net=NET), (member("net/net.bin", tarfile.FIFOTYPE), b"")], "no file of weights"),
        ([manifest(net__net=NET), GOOD, GOOD], "twice"),
        ([manifest(net__net=NET), (member("free/free.pth"), FREE + b"x")], "bytes, expected"),
        ([manifest(net__net=REC), GOOD], f"expected {sha(REC)}"),
        ([GOOD], "no manifest"),
        ([(member("manifest.json"), b'{"format": 2, "files": {}}'), GOOD], "does not state|no manifest"),
        ([(member("manifest.json"), b"[]"), GOOD], "no manifest"),
        ([(member("manifest.json"), b" " * (2 << 20)), GOOD], "more than 1 MiB"),
        ([manifest(other=NET), GOOD], "does not state the sha256 of net/net.bin"),
    ],
)
def test_tars_are_taken_whole_or_not_at_all(
    shelf: Shelf, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], says: str
) -> None:
    source = tarred(tmp_path / "bad.tar", members)
    with pytest.raises(UserError, match=says):
        weights.pull(source=source)
    assert not (shelf.folder / "net").exists()
    assert not (shelf.folder / "weights.lock.json").exists()
    assert list(tmp_path.rglob("evil*")) == []
    assert not Path("/tmp/evil.bin").exists()


def test_tars_that_are_none_or_cut_or_compressed_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    whole = tarred(tmp_path / "good.tar", [manifest(net__net=NET), GOOD]).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.tar").write_bytes(b"not a tar")
    tarred(tmp_path / "gz.tar", [manifest(net__net=NET), GOOD], "w:gz")
    for name in ("cut.tar", "none.tar", "gz.tar"):
        with pytest.raises(UserError, match="is damaged or no plain tar"):
            weights.pull(source=tmp_path / name)
    with pytest.raises(UserError, match="there is no archive"):
        weights.pull(source=tmp_path / "gone.tar")
    weights.pull(source=tmp_path / "good.tar")
    assert weights.resolve("net").sha256 == sha(NET)


# several processes, and kills


def in_a_child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from ffbench import weights\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REGISTRY.parents[1],
    )


def until(what: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not what():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.01)


def test_two_processes_pull_once(shelf: Shelf) -> None:
    shelf.server.files["pack.zip"].pause = 0.1
    children = [in_a_child("weights.pull(['pack', 'net'])") for _ in range(2)]
    results = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], results
    assert sorted(asked.path for asked in shelf.server.log) == ["/net.bin", "/pack.zip"]
    assert [row.status for row in weights.verify(["pack", "net"])] == ["ok"] * 3


def test_a_killed_pull_goes_on_and_ends_as_an_undisturbed_one(shelf: Shelf) -> None:
    shelf.server.files["pack.zip"].pause = 0.1
    part = shelf.folder / ".incoming" / "pack" / "pack.zip.part"
    for already in (60_000, 200_000):  # killed twice, further on each time
        child = in_a_child("weights.pull(['pack'])")
        until(lambda already=already: part.is_file() and part.stat().st_size > already)
        child.kill()
        child.communicate()
        with pytest.raises(UserError, match="not on this machine"):
            weights.resolve("pack/det.onnx")
    shelf.server.files["pack.zip"].pause = 0.0
    weights.pull(["pack"])
    assert [row.status for row in weights.verify(["pack"])] == ["ok", "ok"]
    assert [asked.status for asked in shelf.server.log] == [200, 206, 206]
    assert not part.exists()


# loading


class Bomb:
    """A pickle that creates a file when it is read by a careless loader."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def test_plain_state_dicts_load_in_every_form(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}
    save_file(state, tmp_path / "s.safetensors")
    torch.save(state, tmp_path / "zip.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save({"model_state_dict": state}, tmp_path / "model.pth")
    torch.save(state, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    for name in ("s.safetensors", "zip.pth", "wrapped.pth", "model.pth", "legacy.bin"):
        loaded = weights.load_state_dict(tmp_path / name)
        assert list(loaded) == sorted(state) or set(loaded) == set(state)
        assert all(torch.equal(loaded[key], state[key]) for key in state)
        assert all(value.device.type == "cpu" for value in loaded.values())


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "inside"])
def test_code_in_a_file_is_never_run(tmp_path: Path, form: str) -> None:
    import torch

    flag, path = tmp_path / "executed", tmp_path / "evil.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(flag)))
        pickle.loads(path.read_bytes())  # the bomb works
        assert flag.exists()
        flag.unlink()
    elif form == "inside":
        torch.save({"a": torch.zeros(1), "b": Bomb(flag)}, path)
    else:
        torch.save(Bomb(flag), path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match="no plain state dict") as caught:
        weights.load_state_dict(path)
    assert not flag.exists()
    assert len(str(caught.value).splitlines()) == 2


def test_whole_modules_and_torchscript_are_refused(tmp_path: Path) -> None:
    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; files of it are still about
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    for name in ("module.pth", "script.pt"):
        with pytest.raises(UserError, match="no plain state dict"):
            weights.load_state_dict(tmp_path / name)


def test_other_content_is_refused(tmp_path: Path) -> None:
    import torch

    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    for name in ("list.pth", "numbers.pth"):
        with pytest.raises(UserError, match="other things than tensors"):
            weights.load_state_dict(tmp_path / name)
    for name in ("junk.pth", "junk.safetensors", "empty.pth", "empty.safetensors"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"junk junk junk")
        with pytest.raises(UserError, match="no plain state dict"):
            weights.load_state_dict(tmp_path / name)
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:2000])
    with pytest.raises(UserError, match="no plain state dict"):
        weights.load_state_dict(tmp_path / "cut.pth")
    for name in ("gone.pth", "gone.safetensors"):
        with pytest.raises(UserError, match="no file"):
            weights.load_state_dict(tmp_path / name)


def test_the_registry_file_is_plain_toml() -> None:
    assert len(tomllib.loads(REGISTRY.read_text("utf-8"))) == 8
