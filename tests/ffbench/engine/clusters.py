"""Ray clusters of this machine, each node with resources of its own, and toys that tell what they were given."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOYS = """
import os, signal, time
from pathlib import Path
from ffbench.errors import UserError

class Toy:
    def __init__(self, config):
        self.folder = Path(config)
    def open(self):
        pass
    def do(self, payload):
        what, number = payload
        with (self.folder / "log").open("a") as log:
            log.write(f"{what} {number}\\n")
        if what == "raise":
            raise ValueError(f"bad {number}")
        if what == "ask":
            raise UserError("no credit", "top up")
        if what == "die" or (what == "die once" and not (self.folder / f"died-{number}").exists()):
            (self.folder / f"died-{number}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "given":
            import ray
            return ray.get_runtime_context().get_assigned_resources(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if what == "sleep":
            time.sleep(number)
        return number * 2, os.getpid()
    def close(self):
        pass
"""


class Nodes:
    """A Ray cluster of several nodes; its head holds no worker, as where a head only coordinates."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        args = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 100 * 2**20}
        self._cluster = Cluster(initialize_head=True, head_node_args=args)
        self._nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, cpus: int = 1, gpus: int = 0, memory_gib: float = 2.0) -> None:
        """Add a node."""
        size = {"memory": int(memory_gib * 2**30), "object_store_memory": 100 * 2**20}
        for left in (2, 1, 0):
            try:
                self._nodes.append(self._cluster.add_node(num_cpus=cpus, num_gpus=gpus, **size))
                return
            except Exception as error:
                # a bare one, of Ray's, on a machine that is too busy to start a node in its time
                if not left or "timed out" not in str(error):
                    raise

    def kill(self) -> None:
        """Kill the processes of the node that was added first, with every worker that is on it."""
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@contextlib.contextmanager
def nodes(*paths: Path) -> Iterator[Nodes]:
    """A cluster without a node that works, while the block runs; workers import from `paths` too."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *([before] if before else [])])
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    cluster = Nodes()
    try:
        yield cluster
    finally:
        cluster.close()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
