"""The review page's server, over real HTTP."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import uvicorn

from faithfulfaces.dataset import answers, journal
from faithfulfaces.dataset.calibrate import read_labels
from faithfulfaces.dataset.caption import BY_HAND, captions
from faithfulfaces.dataset.clips import Clips
from faithfulfaces.dataset.folder import Folder
from faithfulfaces.dataset.records import ClipRecord
from faithfulfaces.dataset.review import app
from ffbench.errors import UserError
from ffbench.video import read_clip
from tests.faithfulfaces.dataset.made_build import FIRST, FPS, SETTINGS, YAWS, angles_of, make_build, source_frames

TOKEN = "a-token-of-the-tests"


class Site(NamedTuple):
    root: Path
    videos: Path
    records: dict[str, ClipRecord]
    """By the stem of the source."""
    client: httpx.Client
    """Below the secret address."""

    def key(self, name: str) -> str:
        return self.records[name].key

    def say(self, name: str, value: str, reviewer: str = "ann", **given: Any) -> httpx.Response:
        number = len(list(journal.read(Folder(self.root).reviews)))
        body = {
            "id": f"{number:032x}", "reviewer": reviewer, "key": self.key(name), "question": "pose", "value": value,
        }  # fmt: skip
        return self.client.post("answer", json=body | given)


class Running:
    """A real server in a thread."""

    def __init__(self, clips: Clips, *, blind: bool = False) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(app(clips, TOKEN, blind=blind), host="127.0.0.1", port=0, log_level="error", ws="none")
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.url = ""

    def __enter__(self) -> Running:
        self._thread.start()
        until = time.monotonic() + 30
        while not self._server.started and time.monotonic() < until:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/{TOKEN}/"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ClipRecord]]:
    folder = tmp_path_factory.mktemp("original")
    return folder, make_build(folder / "set", folder / "videos")


@pytest.fixture
def records(original: tuple[Path, list[ClipRecord]], tmp_path: Path) -> list[ClipRecord]:
    """A copy of a build in `set`, its sources in `videos`."""
    shutil.copytree(original[0], tmp_path, dirs_exist_ok=True)
    return original[1]


@pytest.fixture
def site(records: list[ClipRecord], tmp_path: Path) -> Iterator[Site]:
    by_name = {Path(r.source).stem: r for r in records}
    with (
        Running(Clips(tmp_path / "set", "all", tmp_path / "videos")) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        yield Site(tmp_path / "set", tmp_path / "videos", by_name, client)


def test_everything_carries_a_strict_policy_and_asks_nobody_else(site: Site) -> None:
    for name in ("", "page.css", "page.js", "curves.js", "clips"):
        response = site.client.get(name)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "://" not in response.text.replace("http://www.w3.org/2000/svg", "")
        assert "style=" not in response.text
    assert site.client.get("").headers["content-type"].startswith("text/html")


def test_without_the_secret_or_under_another_name_there_is_nothing(site: Site) -> None:
    root = str(site.client.base_url).replace(TOKEN + "/", "")
    for path in (
        "",
        "clips",
        "docs",
        "openapi.json",
        "wrong/",
        "wrong/clips",
        TOKEN[:-1] + "/clips",
        "static/../clips",
    ):
        assert httpx.get(root + path).status_code == 404, path
    there = root + TOKEN + "/clips"
    assert httpx.get(there, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(there, headers={"Host": "localhost:1"}).status_code == 200
    assert httpx.get(root, headers={"Host": "["}).status_code in (400, 403, 404)


def test_paths_are_never_taken_from_a_request(site: Site) -> None:
    for key in ("../set/settings.json", "/etc/passwd", "lost-0", ""):
        for path in ("clip", "video", "crop"):
            assert site.client.get(path, params={"key": key, "number": 0}).status_code == 404
    for number in (-1, 999):
        assert site.client.get("crop", params={"key": site.key("turns"), "number": number}).status_code == 404


def test_clips_come_in_the_same_order_with_their_own_answers(site: Site) -> None:
    assert site.client.get("clips").json()["clips"] == [
        {"key": key} for key in sorted(r.key for r in site.records.values())
    ]
    assert site.say("nods", "unqualified").json() == {"saved": f"{0:032x}"}
    mine = {clip["key"]: clip for clip in site.client.get("clips", params={"reviewer": "ann"}).json()["clips"]}
    assert mine[site.key("nods")] == {"key": site.key("nods"), "pose": "unqualified"}
    other = site.client.get("clips", params={"reviewer": "bob"}).json()
    assert all("pose" not in clip for clip in other["clips"])
    assert other["name"] == "set"


def test_a_clip_shows_the_pose_of_its_sample(site: Site) -> None:
    shown = site.client.get("clip", params={"key": site.key("turns")}).json()
    expected = angles_of(0, YAWS["turns"])[FIRST : FIRST + SETTINGS.video.frames]
    found = np.array([[np.nan if v is None else v for v in column] for column in shown["angles"]]).T
    np.testing.assert_allclose(found, expected, atol=0.006)
    np.testing.assert_allclose(shown["seconds"], np.arange(20) / 10)
    assert shown["ranges"][1] == pytest.approx([np.nanmin(expected[:, 1]), np.nanmax(expected[:, 1])], abs=0.06)
    assert (shown["verdict"], shown["threshold"], shown["caption"]) == ("qualified", 120, "")
    assert shown["variation"] == pytest.approx(site.records["turns"].variation, abs=0.06)
    assert len(shown["crops"]) == 10
    for crop in shown["crops"]:
        row = FIRST + round(crop["seconds"] * 10)
        assert crop["euler"] == pytest.approx(angles_of(0, YAWS["turns"])[row].tolist(), abs=0.001)


def test_films_are_given_in_parts(site: Site) -> None:
    key = {"key": site.key("turns")}
    whole = site.client.get("video", params=key)
    assert whole.headers["content-type"] == "video/mp4"
    part = site.client.get("video", params=key, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    crop = site.client.get("crop", params=key | {"number": 3})
    assert crop.headers["content-type"] == "image/jpeg"


def test_a_rejected_clip_is_cut_from_its_source_once(site: Site, tmp_path: Path) -> None:
    key = site.key("talks")
    made = Folder(site.root).preview(key)
    assert not made.exists()
    threads = [
        threading.Thread(target=site.client.get, args=("clip",), kwargs={"params": {"key": key}}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = site.client.get("clip", params={"key": key}).json()
    assert (shown["verdict"], shown["reason"]) == ("rejected", "the pose varies too little")
    assert len(shown["crops"]) == 10
    video = tmp_path / "preview.mp4"
    video.write_bytes(site.client.get("video", params={"key": key}).content)
    clip = read_clip(video, ["all"])
    # every second frame of the source from the sample's first on; encoding costs a little
    expected = source_frames(3)[2 * FIRST : 2 * (FIRST + 20) : FPS // 10]
    found = clip.frames["all"].pixels
    assert found.shape == expected.shape
    error = np.abs(found.astype(int) - expected).mean((1, 2, 3))
    late = np.abs(found[:-1].astype(int) - expected[1:]).mean((1, 2, 3))
    assert error.max() < 3 < late.min()


def test_a_source_that_is_gone_is_said_and_costs_no_other_clip(site: Site) -> None:
    (site.videos / "talks.mp4").unlink()
    (site.videos / "still.mp4").write_bytes(b"no video")
    for name in ("talks", "still"):
        refused = site.client.get("clip", params={"key": site.key(name)})
        assert refused.status_code == 409
        assert f"{name}.mp4 cannot be read" in refused.json()["error"]
    assert site.client.get("clip", params={"key": site.key("nods")}).status_code == 200


def test_answers_are_on_the_disk_and_counted_once(site: Site) -> None:
    log = Folder(site.root).reviews
    assert site.say("turns", "qualified").status_code == 200
    assert site.say("turns", "qualified", id=f"{0:032x}").status_code == 200
    assert site.say("turns", "reject", question="sample").status_code == 200
    assert site.say("turns", "").status_code == 200
    found = answers.read(log)
    assert [(a.question, a.value, a.blind) for a in found] == [
        ("pose", "qualified", False), ("sample", "reject", False), ("pose", "", False),
    ]  # fmt: skip
    assert all(a.utc.endswith("+00:00") for a in found)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"value": "maybe"}, 422),
        ({"value": "accept"}, 422),
        ({"question": "age"}, 422),
        ({"reviewer": ""}, 422),
        ({"reviewer": "<script>"}, 422),
        ({"id": "short"}, 422),
        ({"more": 1}, 422),
        ({"key": "nobody"}, 404),
        ({"key": 5}, 422),
    ],
)
def test_answers_that_fit_nothing_are_refused(site: Site, given: dict[str, Any], status: int) -> None:
    assert site.say("turns", **{"value": "qualified", **given}).status_code == status
    assert not Folder(site.root).reviews.exists()


def test_large_requests_are_refused(site: Site) -> None:
    assert site.client.post("answer", content=b"x" * 70_000).status_code == 413
    assert site.client.post("answer", content=iter([b"{}"])).status_code == 413


def test_a_full_disk_is_said_and_nothing_counts(site: Site) -> None:
    # a device that is always full, in place of the log
    Folder(site.root).reviews.symlink_to("/dev/full")
    refused = site.say("turns", "qualified")
    assert (refused.status_code, refused.json()["error"]) == (507, "nothing was saved: No space left on device")
    Folder(site.root).reviews.unlink()
    assert site.say("turns", "qualified").status_code == 200


def test_captions_are_mended_and_never_written_over_unseen(site: Site) -> None:
    path, key = Folder(site.root).captions, site.key("turns")
    journal.append(path, {"key": key, "prompt": "A person turns.", "provenance": {"model": "vl"}})
    shown = site.client.get("clip", params={"key": key}).json()
    assert (shown["caption"], shown["caption_by"]) == ("A person turns.", "vl")
    assert "it has 3 words, not 50 to 200" in shown["caption_problems"]
    body = {"reviewer": "ann", "key": key, "prompt": "A person  turns\nround.", "base": "A person turns."}
    assert site.client.post("caption", json=body).json()["caption"] == "A person turns round."
    late = site.client.post("caption", json=body | {"reviewer": "bob", "prompt": "Another."})
    assert (late.status_code, late.json()["caption"]) == (409, "A person turns round.")
    again = site.client.post("caption", json=body | {"base": "whatever"})
    assert again.status_code == 200
    kept = captions(path)[key]
    assert (kept.prompt, kept.made_with, kept.provenance["reviewer"]) == ("A person turns round.", BY_HAND, "ann")
    assert len(list(journal.read(path))) == 2
    assert site.client.post("caption", json=body | {"key": "nobody"}).status_code == 404


def test_answers_of_another_process_are_seen(site: Site) -> None:
    site.say("turns", "qualified")
    site.say("nods", "qualified")
    other = answers.Log(Folder(site.root).reviews)
    for name in ("turns", "nods"):
        other.add(
            answers.Answer(
                id=f"bob-{name}",
                reviewer="bob",
                key=site.key(name),
                question="pose",
                value="qualified",
                blind=True,
                utc="",
            )
        )
    assert site.client.get("agreement").json() == [
        {"question": "pose", "reviewers": ["ann", "bob"], "clips": 2, "same": 1.0, "kappa": None}
    ]
    site.say("nods", "unqualified")
    assert site.client.get("agreement").json()[0]["kappa"] == 0.0


def test_blind_sends_neither_angles_nor_verdict(records: list[ClipRecord], tmp_path: Path) -> None:
    with Running(Clips(tmp_path / "set"), blind=True) as server, httpx.Client(base_url=server.url) as client:
        shown = client.get("clip", params={"key": records[0].key}).json()
        assert set(shown) == {"key", "source", "start", "caption", "caption_by", "caption_problems", "crops"}
        assert all(set(crop) == {"seconds"} for crop in shown["crops"])
        body = {"id": "0" * 32, "reviewer": "a", "key": records[0].key, "question": "pose", "value": "qualified"}
        client.post("answer", json=body)
    assert answers.read(tmp_path / "set" / "reviews.jsonl")[0].blind


def test_which_clips_are_reviewed(records: list[ClipRecord], tmp_path: Path) -> None:
    root, videos = tmp_path / "set", tmp_path / "videos"
    assert [r.key for r in Clips(root).records] == sorted(r.key for r in records if r.verdict == "qualified")
    assert len(Clips(root, "all", videos).records) == 6
    chosen = [records[3].key, records[0].key]
    (tmp_path / "drawn.csv").write_text("source,clip\n" + "".join(f"x,{key}\n" for key in [*chosen, chosen[0]]))
    assert [r.key for r in Clips(root, videos=videos, only=tmp_path / "drawn.csv").records] == chosen
    with pytest.raises(UserError, match="rejected clips are cut"):
        Clips(root, only=tmp_path / "drawn.csv")
    (tmp_path / "other.csv").write_text("clip\nnobody\n")
    with pytest.raises(UserError, match="names 'nobody', which the build does not hold"):
        Clips(root, only=tmp_path / "other.csv")
    (tmp_path / "bad.csv").write_text("name\nx\n")
    with pytest.raises(UserError, match="has no column clip"):
        Clips(root, only=tmp_path / "bad.csv")
    with pytest.raises(UserError, match="rejected clips are cut"):
        Clips(root, "all")
    with pytest.raises(UserError, match="holds no dataset build"):
        Clips(tmp_path / "nothing")
    Folder(root).track(records[0].key).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"track of turns-.* is damaged"):
        Clips(root).angles(records[0])


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from faithfulfaces.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "data", *map(str, arguments)], check=False, capture_output=True, text=True
    )


def test_the_command_serves_until_it_is_stopped_and_labels_come_out(records: list[ClipRecord], tmp_path: Path) -> None:
    root, videos = tmp_path / "set", tmp_path / "videos"
    code = "from faithfulfaces.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "data", "review", root, "--show", "all", "--videos", videos, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            assert url.startswith("http://127.0.0.1:")
            assert len(url.split("/")[3]) == 24
            for number, (record, who) in enumerate((r, w) for r in records for w in ("ann", "bob")):
                value = "qualified" if record.verdict == "qualified" and who == "ann" else "unqualified"
                body = {"id": f"{number:032x}", "reviewer": who, "key": record.key, "question": "pose", "value": value}
                assert httpx.post(url + "answer", json=body).status_code == 200
        finally:
            process.kill()  # kill -9: nothing that was confirmed is lost
    done = command("labels", root, "--out", tmp_path / "labels.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pose  ann and bob: 6 clips, 66.7% the same, kappa 0.000")
    labels = read_labels(tmp_path / "labels.csv")
    assert labels.disputed == 2
    assert labels.keys == tuple(sorted(r.key for r in records if r.verdict != "qualified"))
    assert not labels.truth.any()


@pytest.mark.usefixtures("records")
def test_what_the_user_can_mend_is_two_lines(tmp_path: Path) -> None:
    done = command("labels", tmp_path / "set", "--out", tmp_path / "x.csv")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"error: {tmp_path / 'set'} holds no label")
    done = command("caption", tmp_path / "set", "--model", tmp_path / "no-model")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)
    assert "is no folder of a model" in done.stderr
