"""The suite `paper` against a real HTTP server that speaks the hub's interface."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ffbench import download as downloading
from ffbench.errors import UserError
from ffbench.image import png_bytes
from ffbench.suites import fetch_suite, hub, load_suite
from tests.ffbench.fileserver import FileServer, serving, sha

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = f"api/datasets/{hub.DATASET}"
RESOLVE = f"datasets/{hub.DATASET}/resolve/{COMMIT}"


def names() -> list[str]:
    """30 people with 5 photographs each, as the dataset names them, and what is left out."""
    people = [
        f"{('stars', 'ai', 'sport')[i % 3]}_{('man', 'woman')[i % 2]}_Person_{chr(65 + i % 26)}{i}" for i in range(30)
    ]
    found = [f"{5 * i + k}_{person}_{k}.png" for i, person in enumerate(people) for k in range(1, 6)]
    return [*found, "normal_face/151_normal_man_X_1.png", "readme.md"]


def body(name: str) -> bytes:
    seed = int(sha(name.encode())[:6], 16)
    return png_bytes(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("FFBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloading, "BACKOFF_S", 0.01)
    for name in ("FFBENCH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url + "/")
        running.add(f"{API}/revision/main", json.dumps({"sha": COMMIT}).encode())
        yield running


def listed(server: FileServer, files: list[str]) -> None:
    entries: list[dict[str, object]] = [{"type": "directory", "path": "eval/face_images", "oid": "x"}]
    for name in files:
        path = f"eval/face_images/{name}"
        content = body(name)
        server.add(f"{RESOLVE}/{path}", content)
        lfs = {"lfs": {"oid": sha(content), "size": len(content)}} if len(name) % 2 else {"lfs": None}
        entries.append({"type": "file", "path": path, "size": len(content), "oid": "y", **lfs})
    server.add(f"{API}/tree/{COMMIT}/eval", json.dumps(entries).encode())


@pytest.fixture
def fetched(server: FileServer, tmp_path_factory: pytest.TempPathFactory) -> FileServer:
    """A server whose suite was fetched; once for all tests, since it takes a second."""
    listed(server, names())
    kept = tmp_path_factory.getbasetemp() / "fetched-paper"
    if kept.is_dir():
        shutil.copytree(kept, hub.paper_folder())
    else:
        load_suite("paper")
        shutil.copytree(hub.paper_folder(), kept)
    return server


def test_thirty_people_one_photograph_each(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(server, names())
    suite = load_suite("paper")
    manifest = json.loads((hub.paper_folder() / "manifest.json").read_text())
    assert len(suite.cases) == 600
    assert suite.version == f"1-{manifest['digest']}"
    assert len({case.identity_id for case in suite.cases}) == 30
    assert (manifest["seed"], manifest["commit"], manifest["endpoint"]) == (hub.SEED, COMMIT, "127.0.0.1")
    assert all(row["of"] == 5 and "normal" not in row["from"] for row in manifest["people"])
    assert [row["identity_id"] for row in manifest["people"]] == [f"id{i:02d}" for i in range(1, 31)]
    numbers = [int(row["from"].rpartition("/")[2].split("_")[0]) for row in manifest["people"]]
    assert [(number - 1) // 5 for number in numbers] == list(range(30))
    assert len({number % 5 for number in numbers}) == 5  # the draw is no fixed place
    # what lies here is used again without a network, and says the same
    monkeypatch.setenv("FFBENCH_OFFLINE", "1")
    asked = len(server.log)
    again = load_suite("paper")
    assert again == suite
    assert len(server.log) == asked


def test_the_draw_depends_on_seed_and_person_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    people: dict[str, list[hub.Remote]] = {}
    for name in names():
        if image := hub._image(f"eval/face_images/{name}", ""):
            people.setdefault(image.person, []).append(image)
    assert len(people) == 30
    first = {person: hub.draw(images) for person, images in people.items()}
    assert {person: hub.draw(images[::-1]) for person, images in people.items()} == first
    assert {image.person for image in first.values()} == set(people)
    monkeypatch.setattr(hub, "SEED", 1)
    changed = sum(hub.draw(images) != first[person] for person, images in people.items())
    assert 15 <= changed <= 29  # four of five are expected to change


def test_a_tar_archive_serves_as_well(fetched: FileServer) -> None:
    server = fetched
    plain = load_suite("paper").version
    for path in list(server.files):
        if "resolve" in path:
            del server.files[path]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in [*names(), "../../../evil_man_x_1.png"]:
            info = tarfile.TarInfo(f"face_images/{name}")
            content = body(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("face_images/900_ai_man_Link_1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    data = buffer.getvalue()
    server.add(f"{API}/tree/{COMMIT}/eval", b"[]")
    root = [{"type": "file", "path": "face_images.tar", "lfs": {"oid": sha(data)}}]
    server.add(f"{API}/tree/{COMMIT}", json.dumps(root).encode())
    server.add(f"{RESOLVE}/face_images.tar", data)
    (hub.paper_folder() / "manifest.json").unlink()
    assert load_suite("paper").version == plain
    assert not list(hub.paper_folder().parent.parent.glob("evil*"))


def test_a_file_that_changed_is_named_and_fetched_again(fetched: FileServer) -> None:
    path = hub.paper_folder() / "id07.png"
    before = path.read_bytes()
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=r"id07.png is gone or has changed") as caught:
        load_suite("paper")
    assert "ffbench suites fetch paper" in caught.value.fix
    assert fetch_suite("paper") == hub.paper_folder() / "manifest.json"
    assert path.read_bytes() == before


def test_other_people_than_thirty_can_be_corrected(server: FileServer) -> None:
    # one person's photographs carry a misspelt name
    files = [name.replace("Person_C2_4", "Persn_C2_4") for name in names()]
    listed(server, files)
    with pytest.raises(UserError, match="holds 31 people in 150 photographs") as caught:
        load_suite("paper")
    table = hub.paper_folder() / "people.csv"
    assert str(table) in caught.value.fix
    table.write_text(table.read_text().replace("Persn_C2\n", "Person_C2\n").replace("Persn_C2\r\n", "Person_C2\r\n"))
    assert len(load_suite("paper").cases) == 600


def test_a_photograph_with_another_hash_is_refused(server: FileServer) -> None:
    listed(server, names())
    for path, file in server.files.items():
        if path.endswith(".png"):
            file.body = b"other"
    with pytest.raises(UserError, match="sha256"):
        load_suite("paper")
    assert not (hub.paper_folder() / "manifest.json").exists()


def test_without_network_the_command_is_named(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="not on this machine") as caught:
        load_suite("paper")
    assert "ffbench suites fetch paper" in caught.value.fix
    assert len(str(caught.value).splitlines()) == 2
    assert server.log == []


@pytest.mark.parametrize(
    ("path", "content", "what"),
    [
        ("revision/main", b"{}", "in an unknown form"),
        ("revision/main", b'{"sha": "../../x"}', "in an unknown form"),
        ("revision/main", b"<html>", "does not answer with JSON"),
        (f"tree/{COMMIT}/eval", b'{"error": 1}', "in an unknown form"),
        (f"tree/{COMMIT}/eval", json.dumps([{"type": "file", "path": "x"}] * 1000).encode(), "more than one page"),
    ],
)
def test_answers_that_are_no_listing(server: FileServer, path: str, content: bytes, what: str) -> None:
    listed(server, names())
    server.add(f"{API}/{path}", content)
    with pytest.raises(UserError, match=what):
        load_suite("paper")


def test_a_damaged_manifest(fetched: FileServer) -> None:
    (hub.paper_folder() / "manifest.json").write_text('{"people": [{}]}')
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        load_suite("paper")


def test_a_damaged_archive(server: FileServer) -> None:
    server.add(f"{API}/tree/{COMMIT}/eval", json.dumps([{"type": "file", "path": "eval/face_images.tar"}]).encode())
    server.add(f"{API}/tree/{COMMIT}", b"[]")
    server.add(f"{RESOLVE}/eval/face_images.tar", b"no tar" * 100)
    with pytest.raises(UserError, match=r"face_images.tar is damaged"):
        load_suite("paper")


def test_published_file_names_are_understood() -> None:
    # three names as public scripts quote them
    for path, person, number in (
        ("eval/face_images/1_stars_woman_Taylor_Swift_1.png", "stars_woman_Taylor_Swift", 1),
        ("eval/face_images/117_ai_man_Huang_2.png", "ai_man_Huang", 117),
        ("eval/face_images/124_ai_man_Yoshua_Bengio_4.png", "ai_man_Yoshua_Bengio", 124),
    ):
        image = hub._image(path, "")
        assert image is not None
        assert (image.person, image.number) == (person, number)
