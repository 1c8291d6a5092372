from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ffbench import mirror, storage
from ffbench.errors import UserError
from ffbench.mirror import mirrored
from ffbench.records import Case, Generation, Reference, from_json, to_json
from ffbench.shard import Shard
from ffbench.store import Run
from tests.ffbench.s3server import Line, s3_server

pytest.importorskip("moto")
pytest.importorskip("s3fs")

GENERATION = Generation("c0", "s", "1", "m", "1", {"steps": 1}, 0, 0, "ok", video_sha256="x")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def machine(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Be a machine: a cache of its own, and a line to the store."""
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(storage, "_PAUSE", 0.02)

    def become(name: str, address: str = server) -> None:
        monkeypatch.setenv("FFBENCH_MIRROR", str(tmp_path / name))
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)

    become("one")
    return become


@pytest.fixture
def bucket(machine: Callable[..., None]) -> Store:
    return Store(f"b{uuid.uuid4().hex[:12]}")


class Store:
    """What lies in a bucket, seen without the code under test."""

    def __init__(self, name: str) -> None:
        import boto3

        self._client = boto3.client("s3")
        self._client.create_bucket(Bucket=name)
        self.name = name
        self.url = f"s3://{name}/runs"

    def names(self) -> list[str]:
        return [one["Key"] for one in self._client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def read(self, key: str) -> bytes:
        return bytes(self._client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def write(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def generations(self) -> list[Generation]:
        parts = [key for key in self.names() if "/generations.jsonl.parts/" in key]
        return [from_json(Generation, line) for key in parts for line in self.read(key).decode().splitlines()]


def make(run: Run, number: int, size: int = 300) -> Generation:
    """A video and its record, as `generate` leaves them."""
    blank = replace(GENERATION, case_id=f"c{number}", seed=number)
    path = run.new_video(blank.key)
    path.write_bytes(hashlib.sha256(str(number).encode()).digest() * (size // 32))
    done = replace(
        blank, video=f"videos/{path.name}", video_sha256=hashlib.sha256(path.read_bytes()).hexdigest(), utc="now"
    )
    with run.lock():
        run.append_generations([done])
    return done


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("s3://bucket/runs", "s3://bucket/runs"),
        (Path("s3://bucket/runs/"), "s3://bucket/runs"),
        (Path("gs://bucket"), "gs://bucket"),
        ("runs", ""),
        ("/s3:/x", ""),
        ("C:/runs", ""),
    ],
)
def test_addresses_are_told_from_folders(place: str | Path, url: str) -> None:
    assert storage.url_of(place) == url


@pytest.mark.parametrize(
    "place", ["s3://", Path("s3://"), "http://host/runs", Path("hdfs://host/runs"), "s4://bucket/x"]
)
def test_other_addresses_make_no_folder_of_that_name(place: str | Path) -> None:
    with pytest.raises(UserError, match="names no bucket"):
        storage.url_of(place)


def test_without_credentials_no_second_attempt_is_made(
    machine: Callable[..., None], bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match=r"could not list: Unable to locate credentials"), mirrored(bucket.url):
        pass


def test_a_store_whose_package_is_missing_says_what_to_install() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(UserError, match="cannot be opened") as error:
        storage.Bucket("gs://bucket/runs")
    assert error.value.fix == "pip install 'ffbench[gs]'"


def test_another_machine_sees_what_one_made(machine: Callable[..., None], bucket: Store) -> None:
    with mirrored(bucket.url) as out:
        run = Run(out / "s@1" / "m")
        made = [make(run, number) for number in range(3)]
        run.write_meta({"method": "m"})
        (run.root / "logs").mkdir()
        run.log("worker.log").write_text("stays here")
        (run.root / ".part-x").write_text("stays here")
    machine("two")
    with mirrored(bucket.url) as out:
        run = Run(out / "s@1" / "m")
        assert list(run.generations().values()) == made
        assert all(
            hashlib.sha256(run.video(one).read_bytes()).hexdigest() == one.video_sha256
            for one in run.generations().values()
        )
        assert run.meta() == {"method": "m"}
        more = make(run, 3)
    machine("three")
    with mirrored(bucket.url, files=False) as out:
        run = Run(out / "s@1" / "m")
        assert list(run.generations().values()) == [*made, more]
        assert not (run.root / "videos").exists()
    assert not [key for key in bucket.names() if "logs" in key or ".part-" in key or key.endswith(".lock")]


def test_machines_write_at_once_and_no_record_is_lost(machine: Callable[..., None], bucket: Store) -> None:
    with mirrored(bucket.url) as first:
        make(Run(first / "s@1" / "m"), 0)
        machine("two")
        with mirrored(bucket.url) as second:
            make(Run(second / "s@1" / "m"), 1)
        make(Run(first / "s@1" / "m"), 2)
    machine("three")
    with mirrored(bucket.url) as out:
        assert sorted(one.seed for one in Run(out / "s@1" / "m").generations().values()) == [0, 1, 2]


def test_two_commands_of_one_machine_have_caches_of_their_own(machine: Callable[..., None], bucket: Store) -> None:
    with mirrored(bucket.url) as first, mirrored(bucket.url) as second:
        assert first != second
        make(Run(second / "s@1" / "m"), 1)
    with mirrored(bucket.url) as out:
        assert out == first
        assert len(Run(out / "s@1" / "m").generations()) == 1


def test_the_newest_record_of_a_key_counts_on_every_machine(machine: Callable[..., None], bucket: Store) -> None:
    with mirrored(bucket.url) as out:
        run = Run(out / "s@1" / "m")
        made = make(run, 0)
    for name, error in (("two", "e2"), ("one", "e3")):
        machine(name)
        with mirrored(bucket.url) as out, Run(out / "s@1" / "m").lock():
            Run(out / "s@1" / "m").append_generations([replace(made, status="failed", error=error)])
    for name in ("one", "two", "three"):
        machine(name)
        with mirrored(bucket.url) as out:
            assert [one.error for one in Run(out / "s@1" / "m").generations().values()] == ["e3"]


def test_a_video_is_there_before_its_record_and_lines_only_whole(
    machine: Callable[..., None], bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    put = storage.Bucket.put_bytes

    def spy(self: Any, data: bytes, name: str) -> Any:
        seen.append((name, {key for key in bucket.names() if key.endswith(".mp4")}, data))
        return put(self, data, name)

    monkeypatch.setattr(storage.Bucket, "put_bytes", spy)
    with mirrored(bucket.url, seconds=0.05) as out:
        run = Run(out / "s@1" / "m")
        for number in range(4):
            make(run, number, 50_000)
            with (run.root / "generations.jsonl").open("ab") as stream:
                stream.write(b'{"case_id":"torn')
            time.sleep(0.15)
    assert len(seen) > 1
    for _, videos, data in seen:
        assert data.endswith(b"\n")
        for line in data.decode().splitlines():
            assert f"runs/s@1/m/{from_json(Generation, line).video}" in videos
    assert len(bucket.generations()) == 4


def test_cut_connections_damage_nothing(machine: Callable[..., None], bucket: Store, server: str) -> None:
    line = Line(server)
    machine("one", line.address)
    line.cut_share = 0.3
    with mirrored(bucket.url, seconds=0.1) as out:
        run = Run(out / "s@1" / "m")
        made = [make(run, number, 40_000) for number in range(24)]
    machine("two", line.address)
    with mirrored(bucket.url) as out:
        run = Run(out / "s@1" / "m")
        assert list(run.generations().values()) == made
        for one in made:
            assert hashlib.sha256(run.video(one).read_bytes()).hexdigest() == one.video_sha256
        assert list(out.rglob(".part-*")) == []
    assert line.cuts > 3
    line.close()


def test_work_goes_on_without_the_network_and_is_uploaded_later(
    machine: Callable[..., None], bucket: Store, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Line(server)
    machine("one", line.address)
    with pytest.raises(UserError, match="could not upload") as error, mirrored(bucket.url, seconds=0.05) as out:
        make(Run(out / "s@1" / "m"), 0)
        line.down = True
        make(Run(out / "s@1" / "m"), 1)
        time.sleep(0.3)
    assert str(out) in error.value.fix
    assert "not uploaded yet" in capsys.readouterr().err
    with pytest.raises(UserError, match="could not"), mirrored(bucket.url):
        pass
    line.down = False
    with mirrored(bucket.url) as out:
        assert sorted(one.seed for one in Run(out / "s@1" / "m").generations().values()) == [0, 1]
    assert "that an earlier command left" in capsys.readouterr().err
    assert sorted(one.seed for one in bucket.generations()) == [0, 1]
    line.close()


def test_the_error_of_the_work_comes_before_that_of_the_upload(
    machine: Callable[..., None], bucket: Store, server: str
) -> None:
    line = Line(server)
    machine("one", line.address)
    with pytest.raises(UserError, match="mend me first"), mirrored(bucket.url) as out:
        make(Run(out / "s@1" / "m"), 0)
        line.down = True
        raise UserError("mend me first", "now")
    line.close()


def test_damage_in_the_store_is_told(machine: Callable[..., None], bucket: Store) -> None:
    with mirrored(bucket.url) as out:
        make(Run(out / "s@1" / "m"), 0)
    part = next(key for key in bucket.names() if ".parts/" in key)
    bucket.write(part, bucket.read(part)[:-20])
    machine("two")
    with pytest.raises(UserError, match="is damaged"), mirrored(bucket.url):
        pass
    bucket.write(part, b"")
    bucket.write("runs/../../evil.txt", b"x")
    with pytest.raises(UserError, match=r"damaged|outside"), mirrored(bucket.url):
        pass


def test_a_photograph_cannot_leave_its_folder(machine: Callable[..., None], bucket: Store, tmp_path: Path) -> None:
    case = Case("s", "1", "c", "i", (Reference("/gone/face.png", "../../../evil"),), "p", "prompt")
    bucket.write("runs/s@1/m/cases.jsonl", (to_json(case) + "\n").encode())
    bucket.write("runs/references/../../../evil.png", b"x")
    with pytest.raises(UserError, match="outside"), mirrored(bucket.url):
        pass
    assert list(tmp_path.rglob("evil*")) == []


def test_a_video_made_anew_elsewhere_is_fetched_again(machine: Callable[..., None], bucket: Store) -> None:
    with mirrored(bucket.url) as out:
        path = Run(out / "s@1" / "m").video(make(Run(out / "s@1" / "m"), 0))
    machine("two")
    with mirrored(bucket.url) as out:
        other = Run(out / "s@1" / "m").video(make(Run(out / "s@1" / "m"), 0, 640))
    machine("one")
    with mirrored(bucket.url):
        assert path.read_bytes() == other.read_bytes()


def test_protocols_of_two_machines_both_stand(machine: Callable[..., None], bucket: Store) -> None:
    with mirrored(bucket.url) as first:
        Run(first / "s@1" / "m").write_meta({"method": "m"})
        machine("two")
        with mirrored(bucket.url) as second:
            Run(second / "s@1" / "m").write_meta({"method": "m", "scoring": {"a@1": {"x": 1}}})
        Run(first / "s@1" / "m").write_meta({"method": "m", "scoring": {"b@1": {"x": 2}}})
    machine("three")
    with mirrored(bucket.url, files=False) as out:
        assert set(Run(out / "s@1" / "m").meta()["scoring"]) == {"a@1", "b@1"}


def test_photographs_come_along(machine: Callable[..., None], bucket: Store, tmp_path: Path) -> None:
    photo = tmp_path / "face.PNG"
    photo.write_bytes(b"a picture")
    sha256 = hashlib.sha256(b"a picture").hexdigest()
    case = Case("s", "1", "c", "i", (Reference(str(photo), sha256),), "p", "prompt")
    with mirrored(bucket.url) as out:
        run = Run(out / "s@1" / "m")
        run.root.mkdir(parents=True)
        run.write_cases([case])
    before = bucket.read("runs/s@1/m/cases.jsonl")
    photo.unlink()
    machine("two")
    with mirrored(bucket.url) as out:
        found = Path(Run(out / "s@1" / "m").cases()["c"].references[0].path)
        assert found.read_bytes() == b"a picture"
        assert found.is_relative_to(out)
    assert bucket.read("runs/s@1/m/cases.jsonl") == before


def test_shards_are_one_run_in_the_store_and_come_once(machine: Callable[..., None], bucket: Store) -> None:
    for index in (1, 2):
        machine(f"shard{index}")
        with mirrored(bucket.url) as out:
            make(Run(out / "s@1" / "m").sharded(Shard(index, 2)), index)
    machine("shard1")
    with mirrored(bucket.url) as out:
        run = Run(out / "s@1" / "m")
        assert sorted(one.seed for one in run.generations().values()) == [1, 2]
        assert [path.name for path in run.root.glob("generations*")] == ["generations.jsonl"]
        # the lines of a shard that come again, as when it is merged, are no news
        part = run.root / "generations.20260101T000000-1-of-2.jsonl"
        part.write_bytes((run.root / "generations.jsonl").read_bytes())
    assert len(bucket.generations()) == 2


def test_lines_of_workers_are_uploaded_as_they_come_and_once(
    machine: Callable[..., None], bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirrored(bucket.url, seconds=3600) as out:
        run, beside = Run(out / "s@1" / "m"), mirror.Mirror(storage.Bucket(bucket.url), out)
        with run.lock():
            for number in range(2):
                run.by_worker(f"{number}").append_generations([replace(GENERATION, case_id=f"c{number}")])
                beside.push()
                assert len(bucket.generations()) == number + 1, "before the command is over"
            names = list(beside._names())
        assert [path.name for path in run.root.glob("generations*")] == ["generations.jsonl"]
        # an upload that has looked at the folder before the workers' files were put together
        with monkeypatch.context() as patch:
            patch.setattr(mirror.Mirror, "_names", lambda _: iter(names))
            beside.push()
    assert sorted(one.case_id for one in bucket.generations()) == ["c0", "c1"]
    machine("two")
    with mirrored(bucket.url) as out:
        assert (out / "s@1" / "m" / "generations.jsonl").read_bytes().count(b"\n") == 2


def test_an_edited_record_file_is_uploaded_whole(machine: Callable[..., None], bucket: Store) -> None:
    with mirrored(bucket.url) as out:
        run = Run(out / "s@1" / "m")
        for number in range(3):
            make(run, number)
        mirror.Mirror(storage.Bucket(bucket.url), out).push()
    path = run.root / "generations.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with mirrored(bucket.url) as out:
        assert sorted(one.seed for one in Run(out / "s@1" / "m").generations().values()) == [0, 1, 2]


def test_lines_that_were_uploaded_twice_are_read_once(machine: Callable[..., None], bucket: Store) -> None:
    """As after a kill between the upload of a piece and the note of it."""
    with mirrored(bucket.url) as out:
        for number in range(3):
            make(Run(out / "s@1" / "m"), number)
    (piece,) = (name for name in bucket.names() if "/generations.jsonl.parts/" in name)
    again = piece.replace("parts/", "parts/9", 1).replace("9" + piece.rpartition("/")[2][:1], "9", 1)
    assert again != piece and len(again) == len(piece)
    bucket.write(again, bucket.read(piece))
    machine("two")
    with mirrored(bucket.url) as out:
        lines = (out / "s@1" / "m" / "generations.jsonl").read_bytes().splitlines()
    assert len(lines) == len(set(lines)) == 3


_KILLED = """
import sys
from pathlib import Path
from ffbench.generate import GenerateOptions, generate
from ffbench.mirror import mirrored
from ffbench.suites import load_suite
with mirrored(sys.argv[1], seconds=0.2) as out:
    print("ready", flush=True)
    done = generate(load_suite("mini"), "still", out, GenerateOptions(limit=int(sys.argv[2])))
print(done.ok, done.done_before)
"""


@pytest.mark.slow
def test_kills_in_the_middle_leave_only_whole_things(machine: Callable[..., None], bucket: Store) -> None:
    import random

    moments = random.Random(3)
    for number in range(4):
        machine(f"machine{number % 2}")
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED, bucket.url, "40"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(moments.uniform(1.0, 5.0))
        process.kill()
        process.wait()
        process.stdout.close()
        for one in bucket.generations():
            video = bucket.read(f"runs/mini@1/still/{one.video}")
            assert hashlib.sha256(video).hexdigest() == one.video_sha256
    machine("fresh")
    done = subprocess.run([sys.executable, "-c", _KILLED, bucket.url, "40"], check=True, capture_output=True, text=True)
    assert done.stdout.split()[1] == "40", done.stderr
    assert len({one.key for one in bucket.generations()}) == 40


@pytest.mark.slow
def test_the_commands_take_addresses(machine: Callable[..., None], bucket: Store) -> None:
    def ffbench(*words: str, code: int = 0) -> str:
        source = "from ffbench.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", source, *words], check=False, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert f"-> {bucket.url}/mini@1/still" in ffbench("generate", "-m", "still", "--limit", "2", "--out", bucket.url)
    machine("two")
    assert "2 ok" in ffbench("ls", "runs", "--out", bucket.url)
    machine("three")
    assert f"2 scored, 0 done before, 0 damaged: {bucket.url}" in ffbench("score", f"{bucket.url}/mini@1/still")
    machine("four")
    assert "still (control)" in ffbench("report", bucket.url, "--no-html")
    cells = json.loads(bucket.read("runs/mini@1/report/cells.json"))
    assert cells["lines"][0]["num_made"] == 2
    ffbench("generate", "-m", "sway", "--limit", "2", "--out", bucket.url)
    ffbench("score", "--out", bucket.url)
    machine("five")
    before = {name: bucket.read(name) for name in bucket.names()}
    by_name = ffbench("compare", "still", "sway", "--out", bucket.url)
    assert "still minus sway" in by_name
    by_place = ffbench("compare", f"{bucket.url}/mini@1/still", f"{bucket.url}/mini@1/sway")
    told = [
        [line for line in text.splitlines() if not line.startswith("fetch") and "s3://" not in line]
        for text in (by_name, by_place)
    ]
    assert told[0] == told[1]
    assert "0 errors" in ffbench("validate", "--suite", "mini", "--run", bucket.url)
    assert f"error: {bucket.url}/none is no run" in ffbench("compare", f"{bucket.url}/none", "still", code=2)
    assert {name: bucket.read(name) for name in bucket.names()} == before, "looking changes nothing there"
