"""Interpreters of methods that cannot share ours: made once, remembered by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import ffbench
from ffbench.cards import Card
from ffbench.durable import write_atomic
from ffbench.errors import UserError

OLDEST = (3, 10)
"""Python that the worker runs on."""


def root() -> Path:
    """Where environments lie: FFBENCH_ENVIRONMENTS, else ffbench/environments in the user's data folder."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    chosen = os.environ.get("FFBENCH_ENVIRONMENTS") or f"{data}/ffbench/environments"
    return Path(chosen).expanduser().absolute()


def variable(name: str) -> str:
    """The environment variable that names a method's interpreter, and goes before what was set up."""
    return f"FFBENCH_PYTHON_{name.upper().replace('-', '_')}"


def chosen(name: str) -> tuple[str, str]:
    """The interpreter of a method and where it was named; two empty texts where nobody named one.

    Raises:
        UserError: if it cannot be run, or the file of interpreters is damaged.
    """
    given = os.environ.get(variable(name), "")
    python, where = (given, variable(name)) if given else (_recorded().get(name, ""), str(root() / "pythons.json"))
    if python and not shutil.which(python):
        how = "set it to that environment's bin/python" if given else f"ffbench methods setup {name} --python PYTHON"
        raise UserError(f"{where} names {python}, which cannot be run", how)
    return (python, where) if python else ("", "")


def setup(card: Card, python: str, worker: Path | None, as_is: bool, log: IO[bytes]) -> str:
    """Make a method's environment, try it and remember its interpreter, which is returned.

    Args:
        card: the method; with a requirements file they are installed, else ffbench itself must be there already.
        python: an interpreter by name or path.
        worker: the packed worker (`ffbench.methods.pack_worker`) of a card with a requirements file, else None.
        as_is: `python` belongs to an environment that is ready; nothing is made or installed.
        log: what venv and pip print goes there.

    Raises:
        UserError: an interpreter of another version, an installation that fails, an environment that does not work.
    """
    found = shutil.which(python)
    if found is None:
        raise UserError(
            f"{python} is no program on the PATH and no executable file",
            f"ffbench methods setup {card.name} --python PYTHON, with the path of a Python {card.python}".rstrip(),
        )
    # absolute, but with its links: a virtual environment's python is a link, and known by its place
    found = os.path.abspath(found)  # noqa: PTH100
    _check_version(card, found)
    if worker is not None and not as_is:
        found = _make(card, found, log)
    _try(card, found, worker)
    _remember(card.name, found)
    return found


def _check_version(card: Card, python: str) -> None:
    said = _run([python, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    try:
        version = tuple(int(part) for part in said.split("."))
    except ValueError as error:
        raise UserError(f"{python} is no Python: it says {said[:80]!r}", "give --python an interpreter") from error
    wanted = tuple(int(part) for part in card.python.split(".")[:2]) if card.python else None
    if version < OLDEST or (wanted and version != wanted):
        need = card.python or f"{OLDEST[0]}.{OLDEST[1]} or newer"
        name = f"python{card.python}" if card.python else "python3"
        raise UserError(
            f"{card.name} needs Python {need}, and {python} is {said}",
            f"ffbench methods setup {card.name} --python {name}",
        )


def _make(card: Card, python: str, log: IO[bytes]) -> str:
    """A virtual environment with the card's requirements; its interpreter."""
    folder = root() / card.name
    requirements = card.folder / card.environment
    lines = requirements.read_text("utf-8").splitlines()
    wanted = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    made = str(folder / "bin" / "python")
    folder.parent.mkdir(parents=True, exist_ok=True)
    steps = [[python, "-m", "venv", "--clear", *([] if wanted else ["--without-pip"]), str(folder)]]
    if wanted:
        steps.append([made, "-m", "pip", "install", "--disable-pip-version-check", "-r", str(requirements)])
    for step in steps:
        done = subprocess.run(step, check=False, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise UserError(
                f"setting up {card.name} failed: {' '.join(step)} ended with exit code {done.returncode}",
                "its last lines say why; an environment made by other means: "
                f"ffbench methods setup {card.name} --python ITS/bin/python --as-is",
            )
    return made


def _try(card: Card, python: str, worker: Path | None) -> None:
    """Import the worker and the adapter there."""
    module = card.target.partition(":")[0]
    code = f"import sys; sys.path[:0] = {[str(worker)] if worker else []!r}; import ffbench.worker, {module}"
    if worker is None:
        code += f"; assert ffbench.__version__ == {ffbench.__version__!r}, ffbench.__version__"
    done = subprocess.run([python, "-I", "-c", code], check=False, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        fix = f"install what is missing in it: {python} -m pip install ..."
        if worker is None:
            fix = f"{python} -m pip install ffbench=={ffbench.__version__}, since {card.name} runs inside ffbench"
        raise UserError(f"{card.name} does not start with {python}: {' '.join(words)[:300]}", fix)


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, stdin=subprocess.DEVNULL)
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else f"exit code {done.returncode}"


def _recorded() -> dict[str, str]:
    path = root() / "pythons.json"
    try:
        return {str(key): str(value) for key, value in json.loads(path.read_text("utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error}", "delete it, and set the environments up again") from error


def _remember(name: str, python: str) -> None:
    known = {**_recorded(), name: python}
    write_atomic(root() / "pythons.json", (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
