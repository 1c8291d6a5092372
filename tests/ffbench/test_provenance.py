from __future__ import annotations

import getpass
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import ffbench
from ffbench import provenance as module
from ffbench.provenance import provenance


def git(folder: Path, *argv: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", *identity, "-C", str(folder), *argv], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_versions_are_those_that_python_reports() -> None:
    facts = provenance()
    assert facts["ffbench"] == ffbench.__version__ and facts["python"] == sys.version.split()[0]
    assert facts["packages"]["numpy"] == version("numpy") and facts["device"] == "cpu" and "gpu" not in facts
    assert "no-such-package" not in facts["packages"]


def test_it_names_no_user_and_no_path() -> None:
    text = json.dumps(provenance("cuda"))
    assert str(Path.home()) not in text and str(Path.cwd()) not in text and "/" not in text
    assert getpass.getuser() not in text.lower() or getpass.getuser() == "root"


def test_it_imports_no_torch() -> None:
    root = Path(ffbench.__file__).parents[1]
    code = "import sys; from ffbench.provenance import provenance; provenance('cpu'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_a_callers_changes_stay_its_own() -> None:
    provenance()["device"] = "elsewhere"
    assert provenance()["device"] == "cpu"


def test_a_checkout_names_its_commit_and_whether_it_is_dirty(tmp_path: Path) -> None:
    assert module._checkout(tmp_path) == {}
    git(tmp_path, "init", "-q")
    for name in module._OURS[:-1]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("a = 1\n")
    (tmp_path / "pyproject.toml").write_text("")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "x")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert module._checkout(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "notes.txt").write_text("mine")
    assert module._checkout(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "ffbench" / "x.py").write_text("a = 2\n")
    assert module._checkout(tmp_path) == {"commit": commit, "dirty": True}


def test_an_install_inside_a_strangers_repository_does_not_borrow_its_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    site = tmp_path / "site-packages"
    site.mkdir()
    assert module._checkout(site) == {}


def test_the_gpu_is_asked_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.1'\necho 'NVIDIA H200, 580.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    module._facts.cache_clear()
    assert provenance("cuda:1")["gpu"] == ["NVIDIA H200, 580.1"] * 2
    tool.unlink()
    module._facts.cache_clear()
    assert provenance("cuda:1")["gpu"] == []
    module._facts.cache_clear()
