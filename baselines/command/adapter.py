"""Runs a command of the user's for each video. Arguments are passed one by one, no shell ever sees them."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ffbench.contract import Output, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Scalar

PLACEHOLDERS = ("image", "prompt", "prompt_file", "seed", "output", "subject", "device")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_EXAMPLE = """--set 'argv=["mytool", "--image", "{image}", "--prompt", "{prompt}", "--out", "{output}"]'"""
_TAIL = 1000


class Command:
    """One run of a tool a request. The tool's output goes to the worker's log, its end into the error of a failure."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._argv = parse_argv(str(settings["argv"]))
        self._device = "cpu"

    def load(self, runtime: Runtime) -> None:
        """Check that the tool is there.

        Raises:
            UserError: if it cannot be run.
        """
        self._device = runtime.device
        if shutil.which(self._argv[0]) is None:
            raise UserError(
                f"argv names {self._argv[0]!r}, which is no program on the PATH and no executable file",
                "install it, give its full path, or start a script through its interpreter",
            )

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video file a request."""
        for request in requests:
            folder = Path(request.folder)
            output = folder / "output.mp4"
            prompt_file = folder / "prompt.txt"
            prompt_file.write_bytes(request.case.prompt.encode())
            values = {
                "image": request.case.references[0].path,
                "prompt": request.case.prompt,
                "prompt_file": str(prompt_file),
                "seed": str(request.seed),
                "output": str(output),
                "subject": request.case.subject,
                "device": self._device,
            }
            run([substitute(part, values) for part in self._argv])
            if not output.exists():
                raise RuntimeError("the command ended well, but {output} does not exist")
            yield Output(video=str(output))


def parse_argv(text: str) -> list[str]:
    """The setting `argv`: a JSON list of strings that names {output}.

    Raises:
        UserError: if it is something else, or holds a placeholder that does not exist.
    """
    try:
        argv = json.loads(text)
    except ValueError:
        argv = None
    if not isinstance(argv, list) or not all(isinstance(part, str) for part in argv) or not any(argv[:1]):
        raise UserError(f"argv is no JSON list of arguments: {text[:200]!r}", f"give {_EXAMPLE}")
    used = {name for part in argv for name in _PLACEHOLDER.findall(part)}
    for name in sorted(used - set(PLACEHOLDERS)):
        close = difflib.get_close_matches(name, PLACEHOLDERS, n=1)
        hint = f"; did you mean {{{close[0]}}}?" if close else ""
        raise UserError(
            f"argv holds {{{name}}}, which is no placeholder{hint}",
            "the placeholders are: " + " ".join(f"{{{known}}}" for known in PLACEHOLDERS),
        )
    if "output" not in used:
        raise UserError("argv does not say where the video goes", f"use {{output}}: {_EXAMPLE}")
    return argv


def substitute(part: str, values: Mapping[str, str]) -> str:
    """Fill the placeholders of one argument; what they are filled with is not looked at again."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], part)


def run(argv: Sequence[str]) -> None:
    """Run a command to its end, with what it prints on stderr.

    Raises:
        RuntimeError: with exit code and last words, if it fails.
    """
    tail = b""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 65536):
            tail = (tail + chunk)[-_TAIL:]
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()
    if process.returncode:
        how = f"exit code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        words = tail.decode("utf-8", "replace").strip()
        raise RuntimeError(f"the command failed with {how}" + (f"; its last words:\n{words}" if words else ""))
