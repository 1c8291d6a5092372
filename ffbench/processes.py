"""Processes: the cores they may use, what groups of them take, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path


def cpus() -> int:
    """Cores for this process: those of its container or scheduler, or fewer where OMP_NUM_THREADS says so."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, int(asked)) if asked.isdigit() and int(asked) else allowed


def group_memory(group: int) -> float:
    """GiB of memory that the processes of a group have resident; shared pages count for each. 0 where nobody tells."""
    pages = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # after the name in parentheses: state, parent, group, ..., resident pages (proc_pid_stat(5))
            fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[2]) == group:
            pages += int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, with all that it has started, and wait for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()
