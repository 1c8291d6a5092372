"""Workers as actors of real Ray clusters of this machine: results, deaths, requests of GPUs and memory."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ffbench.cards import for_suite
from ffbench.engine import Engine, Job, Result, Task, open_pool
from ffbench.errors import UserError
from ffbench.generate import GenerateOptions, generate
from ffbench.methods import find
from ffbench.suites import load_suite
from tests.ffbench.engine.clusters import TOYS, Nodes, nodes

pytest.importorskip("ray", reason="pip install 'ffbench[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One node without and one with GPUs that exist in Ray's books alone."""
    folder = tmp_path_factory.mktemp("toys")
    (folder / "raytoys.py").write_text(TOYS)
    with nodes(folder) as made:
        made.add(cpus=1, memory_gib=2.0)
        made.add(cpus=2, gpus=2, memory_gib=4.0)
        yield made


def job(folder: Path, payloads: list[tuple[str, float]], gpus: int = 0, memory_gib: float = 0.0) -> Job:
    return Job("raytoys:Toy", str(folder), [Task(one, one[0]) for one in payloads], gpus, memory_gib)


def run(engine: Engine, *jobs: Job) -> list[Result]:
    with open_pool(engine) as pool:
        return list(pool.run(jobs))


def test_results_errors_and_deaths(cluster: Nodes, tmp_path: Path) -> None:
    payloads = [*(("double", n) for n in range(12)), ("raise", 7), ("die", 0), ("die once", 5)]
    done = {one.task: one for one in run(Engine("ray", 2, cluster.address), job(tmp_path, payloads))}
    assert sorted(done) == list(range(15))
    assert [done[n].value[0] for n in range(12)] == [2 * n for n in range(12)]
    assert done[12].error.startswith("ValueError: bad 7 (raytoys.py:") and not done[12].lost
    assert done[13].lost and "actor died" in done[13].error
    assert done[14].value[0] == 10
    begun = Counter((tmp_path / "log").read_text().splitlines())
    assert begun["die 0"] == begun["die once 5"] == 2
    assert all(count == 1 for what, count in begun.items() if what.startswith("double"))


def test_what_the_user_can_mend_ends_the_run(cluster: Nodes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no credit") as caught:
        run(Engine("ray", 2, cluster.address), job(tmp_path, [("ask", 1), ("double", 1)]))
    assert caught.value.fix == "top up"


def test_an_actor_has_the_gpus_and_the_memory_that_were_asked_for(cluster: Nodes, tmp_path: Path) -> None:
    asked = job(tmp_path, [("given", n) for n in range(4)], gpus=1, memory_gib=1.5)
    done = run(Engine("ray", 2, cluster.address, "cuda"), asked)
    for one in done:
        resources, _ = one.value
        assert resources["CPU"] == 1 and resources["GPU"] == 1
        assert resources["memory"] == pytest.approx(1.5 * 2**30, rel=1e-3)
    assert {devices for _, devices in (one.value for one in done)} <= {"0", "1"}, "each has one of the node's own"
    plain = run(Engine("ray", 1, cluster.address), job(tmp_path, [("given", 0)]))
    assert "GPU" not in plain[0].value[0] and "memory" not in plain[0].value[0]


def test_memory_keeps_workers_apart(cluster: Nodes, tmp_path: Path) -> None:
    """3 GiB fit once, on the larger node: of two workers one waits, and the other does it all."""
    payloads = [("sleep", 0.1)] * 6
    crowded = run(Engine("ray", 2, cluster.address), job(tmp_path, payloads, memory_gib=3.0))
    assert len({one.value[1] for one in crowded}) == 1
    roomy = run(Engine("ray", 2, cluster.address), job(tmp_path, [("sleep", 1.0)] * 6, memory_gib=1.5))
    assert len({one.value[1] for one in roomy}) == 2


def test_a_method_without_a_node_that_is_large_enough_is_refused_before_it_starts(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FFBENCH_WEIGHTS", str(tmp_path))
    suite = dataclasses.replace(load_suite("mini"), name="other")
    engine = Engine("ray", 1, cluster.address, "cuda")
    needed = sum(find("vace").parts.values())
    assert needed > 40
    with pytest.raises(UserError, match=rf"1 CPU and 1 GPU and {needed:.1f} GiB of memory; no node") as caught:
        generate(suite, "vace", tmp_path, GenerateOptions(limit=1, device="cuda", engine=engine))
    assert "--memory" in caught.value.fix
    with pytest.raises(UserError, match=r"1 CPU and 9\.0 GiB of memory; no node"):
        generate(
            suite,
            "still",
            tmp_path,
            GenerateOptions(limit=1, memory=9.0, engine=dataclasses.replace(engine, device="cpu")),
        )


def test_the_mini_world_asks_for_no_memory_of_the_large_one() -> None:
    assert for_suite(find("vace"), "mini").parts == for_suite(find("faithfulfaces"), "mini").parts == {}
    assert for_suite(find("vace"), "mini").memory == () != for_suite(find("vace"), "paper").memory
    assert find("vace@1.3b").parts == {} and for_suite(find("vace"), "paper").parts == find("vace").parts


def test_addresses_that_nobody_answers_are_told_at_once() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        began = time.monotonic()
        with (
            pytest.raises(UserError, match=f"no Ray cluster at 127.0.0.1:{port}"),
            open_pool(Engine("ray", 1, f"127.0.0.1:{port}")),
        ):
            pass
        assert time.monotonic() - began < 15
    with pytest.raises(UserError, match="'here' is no address"), open_pool(Engine("ray", 1, "here")):
        pass
    with pytest.raises(UserError, match="--device cuda:1 cannot"), open_pool(Engine("ray", 1, device="cuda:1")):
        pass
