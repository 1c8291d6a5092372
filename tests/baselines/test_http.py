"""Kling and Vidu against a local HTTPS server: orders, faults, kills; nothing paid twice, nothing lost, no key seen."""

from __future__ import annotations

import base64
import io
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from baselines.http import fetch
from baselines.http.client import Network
from baselines.http.jobs import Pace
from baselines.kling.adapter import Kling
from baselines.vidu.adapter import Vidu
from ffbench.contract import RefusedError, Request, Runtime
from ffbench.errors import UserError
from ffbench.methods import find
from ffbench.records import Case, Reference
from ffbench.video import write_mp4
from tests.baselines.vendors import (
    ACCESS,
    API_KEY,
    SECRET,
    SENTINELS,
    VIDU_KEY,
    CutError,
    Vendor,
    certificate,
    once,
    playing,
)

FAST = Pace(poll=0.01, first=0.01, longest=0.05, settle=0.05, patience=20.0, faults=4)
BUILT: list[Kling | Vidu] = []
METHODS = ("kling", "kling@omni-path", "kling@multi-image", "vidu")


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_mp4(path, np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), np.uint8), 24.0)
    return path.read_bytes()


@pytest.fixture
def vendor(ca: Path, video: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendor]:
    monkeypatch.setenv("KLING_API_KEY", API_KEY)
    monkeypatch.setenv("VIDU_API_KEY", VIDU_KEY)
    monkeypatch.delenv("KLING_ACCESS_KEY", raising=False)
    monkeypatch.delenv("KLING_SECRET_KEY", raising=False)
    with playing(ca, video) as running:
        yield running
        for made in BUILT:
            close(made)
        BUILT.clear()


def build(method: str, vendor: Vendor, state: Path, pace: Pace = FAST, **overrides: Any) -> Kling | Vidu:
    settings = {**find(method).settings, **overrides}
    network = Network(frozenset({vendor.port}), vendor.trust)
    made = (Vidu if method.startswith("vidu") else Kling)(settings, vendor.url, network, pace)
    made.load(Runtime("cpu", "", {}, str(state)))
    BUILT.append(made)
    return made


def requests(folder: Path, count: int = 1, prompt: str = "a person turns the head") -> list[Request]:
    folder.mkdir(parents=True, exist_ok=True)
    photo = folder / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 50, 3), np.uint8)).save(photo)
    made = []
    for number in range(count):
        place = folder / f"request-{number}"
        place.mkdir(exist_ok=True)
        case = Case("s", "1", f"c{number}", "ann", (Reference(str(photo), "0" * 64),), "p", prompt, "woman")
        made.append(Request(case, number, str(place)))
    return made


def close(method: Kling | Vidu) -> None:
    """What the end of a process does: let go of the journal."""
    assert method._jobs is not None
    method._jobs._journal.close()
    method._api.close()


def seen(folder: Path, *texts: str) -> str:
    """Everything that is written under a folder, and the texts given."""
    files = [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    return "\n".join([*files, *texts])


def refuse_sentinels(text: str) -> None:
    for sentinel in (*SENTINELS, "sentinel-signature", "eyJ"):
        assert sentinel not in text


# --- the plain way


@pytest.mark.parametrize("method", METHODS)
def test_photograph_and_prompt_become_the_vendors_video(
    method: str, vendor: Vendor, tmp_path: Path, video: bytes
) -> None:
    vendor.polls = 2
    made = build(method, vendor, tmp_path / "state")
    outputs = list(made.generate(requests(tmp_path / "r", 3)))
    assert [Path(output.video).read_bytes() for output in outputs] == [video] * 3
    assert vendor.most == 3 and len(vendor.tasks) == 3
    assert len({task.mark for task in vendor.tasks.values()}) == 3
    assert outputs[0].notes["task"] in vendor.tasks
    if method == "kling":
        assert outputs[0].notes["units"] == 3.5 and outputs[0].notes["seed"] == "not supported"
    if method == "vidu":
        assert outputs[0].notes["units"] == 8.0
    refuse_sentinels(seen(tmp_path))


def test_kling_is_asked_as_documented(vendor: Vendor, tmp_path: Path) -> None:
    for number, method in enumerate(METHODS[:3]):
        list(build(method, vendor, tmp_path / method).generate(requests(tmp_path / str(number))))
    omni, path, multi = vendor.tasks.values()
    assert [task.path for task in (omni, path, multi)] == [
        "/v1/videos/omni-video", "/omni-video/kling-3.0-omni", "/v1/videos/multi-image2video"
    ]  # fmt: skip
    prompt = "The woman is the one in <<<image_1>>>. a person turns the head"
    photo = omni.body["image_list"][0]["image_url"]
    assert omni.body == {
        "model_name": "kling-v3-omni", "prompt": prompt, "mode": "std", "duration": "5", "aspect_ratio": "16:9",
        "external_task_id": omni.mark, "image_list": [{"image_url": photo}], "sound": "off",
    }  # fmt: skip
    with Image.open(io.BytesIO(base64.b64decode(photo, validate=True))) as image:  # raw, without a data: prefix
        assert image.size == (300, 360)  # a side below 300 px would be refused
    assert path.body["contents"] == [
        {"type": "prompt", "text": prompt.replace("<<<image_1>>>", "@image_1")},
        {"type": "refer_image", "url": photo, "id": "image_1"},
    ]
    assert path.body["settings"] == {"resolution": "720p", "aspect_ratio": "16:9", "duration": 5, "audio": "off"}
    assert multi.body["image_list"] == [{"image": photo}] and multi.body["prompt"] == "a person turns the head"


def test_vidu_is_asked_as_documented(vendor: Vendor, tmp_path: Path) -> None:
    list(build("vidu", vendor, tmp_path / "state").generate(requests(tmp_path / "r", 2)))
    first, second = vendor.tasks.values()
    photo = first.body.pop("images")[0]
    assert photo.startswith("data:image/png;base64,")
    assert first.body == {
        "model": "viduq2", "duration": 5, "aspect_ratio": "16:9", "resolution": "720p", "movement_amplitude": "auto",
        "prompt": "a person turns the head", "seed": 2**31 - 1, "bgm": False, "payload": first.mark,
    }  # fmt: skip
    assert second.body["seed"] == 1  # given as it is; 0 would be a random one
    assert "audio" not in second.body
    list(build("vidu@q3", vendor, tmp_path / "q3").generate(requests(tmp_path / "q")))
    assert list(vendor.tasks.values())[-1].body["audio"] is False


def test_access_and_secret_key_sign_a_token(vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KLING_API_KEY")
    monkeypatch.setenv("KLING_ACCESS_KEY", ACCESS)
    monkeypatch.setenv("KLING_SECRET_KEY", SECRET)
    (output,) = build("kling", vendor, tmp_path / "state").generate(requests(tmp_path / "r"))
    assert Path(output.video).is_file()
    with pytest.raises(UserError, match="set KLING_API_KEY in"):  # the newer form takes no token
        build("kling@omni-path", vendor, tmp_path / "other")


# --- keys


@pytest.mark.parametrize(("method", "name"), [("kling", "KLING_API_KEY"), ("vidu", "VIDU_API_KEY")])
def test_a_missing_or_impossible_key_is_named_and_not_shown(
    method: str, name: str, vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(UserError) as caught:
        build(method, vendor, tmp_path)
    assert name in caught.value.fix
    monkeypatch.setenv(name, f"{API_KEY}\r\nX-Injected: 1")
    with pytest.raises(UserError) as caught:
        build(method, vendor, tmp_path)
    assert name in caught.value.what and API_KEY not in str(caught.value)


@pytest.mark.parametrize(("method", "name"), [("kling", "KLING_API_KEY"), ("vidu", "VIDU_API_KEY")])
def test_a_refused_key_stops_the_command_and_is_never_shown(
    method: str, name: str, vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "wrong-sentinel-key-5555"
    monkeypatch.setenv(name, wrong)
    with pytest.raises(UserError, match="does not accept the key") as caught:
        list(build(method, vendor, tmp_path / "s").generate(requests(tmp_path / "r")))
    assert len([one for one in vendor.log if one[0] == "POST"]) == 2 and not vendor.tasks
    assert wrong not in seen(tmp_path, str(caught.value))


# --- throttling, faults, refusals


@pytest.mark.parametrize("method", METHODS)
def test_the_vendors_cap_is_waited_for(method: str, vendor: Vendor, tmp_path: Path) -> None:
    vendor.cap, vendor.polls = 2, 3
    outputs = list(build(method, vendor, tmp_path / "s").generate(requests(tmp_path / "r", 5)))
    assert len(outputs) == 5 and vendor.most <= 2 and len(vendor.tasks) == 5
    assert len(vendor.posts) > 5 and len(set(vendor.posts)) == 5  # tried again under the same mark


def test_back_off_doubles_with_jitter(vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("baselines.http.jobs.time.sleep", lambda seconds: slept.append(seconds))
    vendor.faults = once("POST", 429, {"code": 1302, "message": "slow down"}, 9)
    kling = build("kling", vendor, tmp_path / "s", Pace(poll=0.0, first=1.0, longest=16.0))
    list(kling.generate(requests(tmp_path / "r")))
    pauses = [seconds for seconds in slept if seconds > 0.5]
    for pause, least in zip(pauses, (1, 2, 4, 8, 16, 16, 16, 16, 16), strict=True):
        assert 0.9 * least < pause <= 1.5 * least
    assert len({round(pause / least, 3) for pause, least in zip(pauses[4:], (16,) * 5, strict=True)}) > 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "fault",
    [(500, {"code": 5000, "message": "internal"}), (503, "<html>busy</html>"), (200, "not json"), (0, CutError())],
    ids=["500", "503", "garbage", "cut"],
)
def test_faults_while_asking_are_survived(
    method: str, fault: tuple[int, Any], vendor: Vendor, tmp_path: Path, video: bytes
) -> None:
    vendor.faults = once("GET", *fault, 3)
    (output,) = build(method, vendor, tmp_path / "s").generate(requests(tmp_path / "r"))
    assert Path(output.video).read_bytes() == video and len(vendor.tasks) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("accepted", [True, False])
def test_an_unanswered_order_is_looked_up_before_it_is_sent_again(
    method: str, accepted: bool, vendor: Vendor, tmp_path: Path
) -> None:
    if accepted:  # the order arrives, its answer does not

        def vanish() -> None:
            vendor.on_accept = None
            raise CutError

        vendor.on_accept = vanish
    else:
        vendor.faults = once("POST", 0, CutError())
    outputs = list(build(method, vendor, tmp_path / "s").generate(requests(tmp_path / "r", 3)))
    assert len(outputs) == 3 and len(vendor.tasks) == 3
    assert len(vendor.posts) == 3


def test_another_folders_task_with_the_same_prompt_is_not_taken_for_ours(vendor: Vendor, tmp_path: Path) -> None:
    list(build("vidu", vendor, tmp_path / "other").generate(requests(tmp_path / "q", 3)))
    vendor.faults = once("POST", 0, CutError())  # ours does not arrive
    (output,) = build("vidu", vendor, tmp_path / "s").generate(requests(tmp_path / "r"))
    assert len(vendor.tasks) == 4 and output.notes["task"] == list(vendor.tasks)[-1]


@pytest.mark.parametrize("method", METHODS)
def test_where_nobody_can_tell_nothing_is_ordered_again(method: str, vendor: Vendor, tmp_path: Path) -> None:
    vendor.faults = [*once("POST", 502, "bad gateway"), *once("GET", 400, {"code": 1200, "reason": "BadRequest"}, 50)]
    with pytest.raises(RuntimeError, match=r"cannot tell whether .* was accepted.*orders nothing new"):
        list(build(method, vendor, tmp_path / "s").generate(requests(tmp_path / "r")))
    assert len([one for one in vendor.log if one[0] == "POST"]) == 1


REFUSALS = [
    ("kling", 400, {"code": 1301, "message": "content safety"}),
    ("kling", 200, {"code": 1300, "message": "platform policy"}),
    ("vidu", 400, {"code": 400, "reason": "TaskPromptPolicyViolation", "message": "no"}),
    ("vidu", 200, {"err_code": "AuditSubmitIllegal"}),
    ("vidu", 403, {"error": {"code": "CreationPolicyViolation"}}),
]


@pytest.mark.parametrize(("method", "status", "body"), REFUSALS)
def test_a_refused_order_is_a_refusal_also_at_http_200(
    method: str, status: int, body: dict[str, Any], vendor: Vendor, tmp_path: Path
) -> None:
    vendor.faults = once("POST", status, body)
    made = build(method, vendor, tmp_path / "s")
    asked = requests(tmp_path / "r", 3)
    outputs = made.generate(asked)
    with pytest.raises(RefusedError):
        next(outputs)
    # the worker gives the rest again one by one: same answer for the first, no second order for the others
    with pytest.raises(RefusedError):
        list(made.generate(asked[:1]))
    for one in asked[1:]:
        list(made.generate([one]))
    assert len(vendor.tasks) == 2 and len(vendor.posts) == 2


@pytest.mark.parametrize(
    ("method", "why", "kind"),
    [
        ("kling", "Failure to pass the risk control system", RefusedError),
        ("kling@omni-path", "violates the content policy", RefusedError),
        ("kling", "internal trouble", RuntimeError),
        ("vidu", "CreationPolicyViolation", RefusedError),
        ("vidu", "NoFaceDetected", RuntimeError),
    ],
)
def test_a_task_that_fails_says_why_and_is_ordered_anew_only_by_a_new_command(
    method: str, why: str, kind: type[Exception], vendor: Vendor, tmp_path: Path
) -> None:
    vendor.fail = {0: why}
    made = build(method, vendor, tmp_path / "s")
    asked = requests(tmp_path / "r")
    for _ in range(2):
        with pytest.raises(kind, match=why):
            list(made.generate(asked))
    assert len(vendor.tasks) == 1
    close(made)
    (output,) = build(method, vendor, tmp_path / "s").generate(asked)
    first, second = vendor.tasks.values()
    assert output.notes["task"] == second.id and first.mark != second.mark


@pytest.mark.parametrize(
    ("method", "status", "body", "reason"),
    [
        ("kling", 429, {"code": 1102, "message": "resource pack exhausted"}, "resource pack"),
        ("kling", 404, {"code": 1203, "message": "model not found"}, "retires models"),
        ("vidu", 403, {"reason": "CreditInsufficient", "message": "no credits"}, "credits"),
    ],
)
def test_an_account_without_credit_stops_the_command(
    method: str, status: int, body: dict[str, Any], reason: str, vendor: Vendor, tmp_path: Path
) -> None:
    vendor.faults = once("POST", status, body, 5)
    with pytest.raises(UserError) as caught:
        list(build(method, vendor, tmp_path / "s").generate(requests(tmp_path / "r", 2)))
    assert reason in str(caught.value)
    assert len([one for one in vendor.log if one[0] == "POST"]) == 1  # not tried again


def test_a_prompt_that_the_vendor_would_refuse_is_not_sent(vendor: Vendor, tmp_path: Path) -> None:
    for method, most in (("kling", 2500), ("vidu", 2000)):
        with pytest.raises(RuntimeError, match=f"takes {most}"):
            list(build(method, vendor, tmp_path / method).generate(requests(tmp_path / "r", prompt="x" * 2600)))
    assert vendor.log == []


def test_slow_work_is_given_up_and_found_again(vendor: Vendor, tmp_path: Path) -> None:
    vendor.polls = 10**6
    pace = Pace(poll=0.01, patience=0.2)
    made = build("kling", vendor, tmp_path / "s", pace)
    with pytest.raises(RuntimeError, match="not finished; --redo failed goes on with task 800000"):
        list(made.generate(requests(tmp_path / "r")))
    close(made)
    vendor.tasks["800000"].left = 0
    (output,) = build("kling", vendor, tmp_path / "s").generate(requests(tmp_path / "r"))
    assert output.notes["task"] == "800000" and len(vendor.posts) == 1


# --- downloads


def test_cut_and_expired_downloads_are_fetched_again_with_a_fresh_address(
    vendor: Vendor, tmp_path: Path, video: bytes
) -> None:
    vendor.file.status = [403, 500]
    vendor.file.cuts = [1000]
    (output,) = build("vidu", vendor, tmp_path / "s").generate(requests(tmp_path / "r"))
    assert Path(output.video).read_bytes() == video
    addresses = [path for verb, path in vendor.log if path.startswith("/files")]
    assert len(addresses) == 4 and len(set(addresses)) == 4


def test_a_cut_that_no_length_shows_is_seen_in_the_file(vendor: Vendor, tmp_path: Path, video: bytes) -> None:
    vendor.file.length = False
    vendor.file.cuts = [len(video) - 100, 40]
    (output,) = build("vidu", vendor, tmp_path / "s").generate(requests(tmp_path / "r"))
    assert Path(output.video).read_bytes() == video


def test_a_result_that_is_gone_says_so_and_the_next_command_orders_anew(vendor: Vendor, tmp_path: Path) -> None:
    vendor.file.status = [404] * 5
    made = build("kling", vendor, tmp_path / "s")
    with pytest.raises(RuntimeError, match="expired at the vendor"):
        list(made.generate(requests(tmp_path / "r")))
    close(made)
    list(build("kling", vendor, tmp_path / "s").generate(requests(tmp_path / "r")))
    assert len(vendor.tasks) == 2


def _private(vendor: Vendor) -> None:
    vendor.file.redirects = ["https://169.254.169.254/latest/meta-data/"]


def _plain(vendor: Vendor) -> None:
    vendor.file.redirects = [f"http://127.0.0.1:{vendor.port}/files/x.mp4"]


def _text(vendor: Vendor) -> None:
    vendor.file.kind = "text/html"


def _disguised(vendor: Vendor) -> None:
    vendor.file.body = b"<html>" * 1000


def _encoded(vendor: Vendor) -> None:
    vendor.file.encoding = "gzip"


def _huge(vendor: Vendor) -> None:
    vendor.file.announced = 10 * 2**30


def _loop(vendor: Vendor) -> None:
    vendor.file.redirects = [f"{vendor.url}/files/x.mp4"] * 20


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_private, "private network"),
        (_plain, "is refused: results come over https"),
        (_text, "no video"),
        (_disguised, "no MP4"),
        (_encoded, "encoded"),
        (_huge, "offers 10737418240 bytes, more than 1073741824"),
        (_loop, "redirects more than 5 times"),
    ],
)
def test_a_result_that_must_not_be_taken(
    spoil: Callable[[Vendor], None], reason: str, vendor: Vendor, tmp_path: Path
) -> None:
    spoil(vendor)
    with pytest.raises(RuntimeError, match=reason) as caught:
        list(build("kling", vendor, tmp_path / "s").generate(requests(tmp_path / "r")))
    assert not list(tmp_path.rglob("*.mp4")) and not list(tmp_path.rglob("*.part"))
    refuse_sentinels(seen(tmp_path, str(caught.value)))


@pytest.mark.parametrize("length", [True, False])
def test_size_and_time_of_a_download_are_limited(
    length: bool, vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.file.length = length
    network = Network(frozenset({vendor.port}), vendor.trust)
    url = f"{vendor.url}/files/x.mp4?signature=sentinel-signature"
    with pytest.raises(fetch.UnsafeError, match="more than 1000") as caught:
        fetch.fetch_video(url, tmp_path / "x.mp4", network, most_bytes=1000)
    refuse_sentinels(str(caught.value))
    vendor.file.pause = 0.2
    monkeypatch.setattr(fetch, "MOST_SECONDS", 0.1)
    with pytest.raises(fetch.FetchError, match="takes more than"):
        fetch.fetch_video(url, tmp_path / "x.mp4", network)
    assert not list(tmp_path.iterdir())


def test_a_server_with_another_certificate_is_not_believed(vendor: Vendor, tmp_path: Path) -> None:
    stranger = Network(frozenset({vendor.port}))  # the system's authorities, who do not know the server
    with pytest.raises(fetch.FetchError, match="ConnectError"):
        fetch.fetch_video(f"{vendor.url}/files/x.mp4", tmp_path / "x.mp4", stranger)


# --- kills

DRIVER = """
import json, ssl, sys
from pathlib import Path
from baselines.http import fetch
from baselines.http.client import Network
from baselines.http.jobs import Pace
from baselines.kling.adapter import Kling
from baselines.vidu.adapter import Vidu
from ffbench.contract import Request, Runtime
from ffbench.methods import find
from ffbench.records import Case, Reference
method, url, port, ca, folder, photo, count = sys.argv[1:]
network = Network(frozenset({int(port)}), ssl.create_default_context(cafile=ca))
pace = Pace(poll=0.02, first=0.02, longest=0.1, settle=0.1)
made = (Vidu if method == "vidu" else Kling)(find(method).settings, url, network, pace)
made.load(Runtime("cpu", "", {}, str(Path(folder) / "state")))
asked = []
for number in range(int(count)):
    place = Path(folder, "scratch", str(number))
    place.mkdir(parents=True, exist_ok=True)
    (place / "video.mp4").unlink(missing_ok=True)
    case = Case("s", "1", f"c{number}", "ann", (Reference(photo, "0" * 64),), "p", "a person turns", "woman")
    asked.append(Request(case, number, str(place)))
print("started", flush=True)
for output in made.generate(asked):
    print(json.dumps(output.notes["task"]), flush=True)
"""


def start(method: str, vendor: Vendor, folder: Path, count: int) -> subprocess.Popen[str]:
    photo = requests(folder / "photo")[0].case.references[0].path
    where = [vendor.url, str(vendor.port), str(vendor.ca), str(folder), photo, str(count)]
    argv = [sys.executable, "-c", DRIVER, method, *where]
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    refuse_sentinels(out + err)
    return [json.loads(line) for line in out.splitlines() if line != "started"]


@pytest.mark.parametrize("method", ["kling", "kling@omni-path", "vidu"])
def test_killed_between_order_and_answer_nothing_is_ordered_twice(method: str, vendor: Vendor, tmp_path: Path) -> None:
    process = start(method, vendor, tmp_path, 3)

    def kill() -> None:
        vendor.on_accept = None
        process.send_signal(signal.SIGKILL)
        process.wait()
        raise CutError

    vendor.on_accept = kill
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and len(vendor.tasks) == 1, err
    assert finish(start(method, vendor, tmp_path, 3)) == list(vendor.tasks)
    assert len(vendor.tasks) == len(vendor.posts) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kling", "vidu"])
def test_twenty_random_kills(method: str, vendor: Vendor, tmp_path: Path) -> None:
    vendor.polls, vendor.file.pause = 5, 0.002
    rng, phases = random.Random(f"{method} kills"), []
    while len(phases) < 20:
        process = start(method, vendor, tmp_path, 24)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        journal = (tmp_path / "state" / f"{method}.jsonl").read_text()
        if process.returncode == 0:  # it came to its end: another run folder is begun
            (tmp_path / "state").rename(tmp_path / f"state-{len(phases)}")
        else:
            phases.append(tuple(journal.count(word) for word in ('"mark"', '"task"', '"sha256"')))
    finish(start(method, vendor, tmp_path, 24))
    folders = list(tmp_path.glob("state*"))
    assert len(vendor.tasks) == len(vendor.posts) == 24 * len(folders)
    assert len(list(tmp_path.glob("state*/*.mp4"))) == len(vendor.tasks)
    assert len({phase[1] for phase in phases}) > 2 and len({phase[2] for phase in phases}) > 2, phases
    refuse_sentinels(seen(tmp_path))
    print(method, "marks, tasks and videos at each kill:", phases)


def test_a_finished_video_is_not_fetched_again_and_a_changed_one_is(
    vendor: Vendor, tmp_path: Path, video: bytes
) -> None:
    first = build("vidu", vendor, tmp_path / "s")
    (output,) = first.generate(requests(tmp_path / "r"))
    close(first)
    Path(output.video).unlink()
    before = len(vendor.log)
    second = build("vidu", vendor, tmp_path / "s")
    (output,) = second.generate(requests(tmp_path / "r"))
    assert Path(output.video).read_bytes() == video and len(vendor.log) == before
    close(second)
    (kept,) = (tmp_path / "s").glob("*.mp4")
    Path(output.video).unlink()
    kept.write_bytes(b"changed")
    (output,) = build("vidu", vendor, tmp_path / "s").generate(requests(tmp_path / "r"))
    assert Path(output.video).read_bytes() == video and len(vendor.posts) == 1
