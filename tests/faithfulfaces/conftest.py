from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from faithfulfaces.cli import main
from faithfulfaces.model import save_model
from tests.faithfulfaces import crops, tiny_vace
from tests.faithfulfaces.commands import Command, Result


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["faithfulfaces", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return Result(int(left.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, checkpoint, face.png, empty.png."""
    folder = tmp_path_factory.mktemp("world")
    tiny_vace.write(folder / "base")
    size = {"width": 32, "height": 16, "num_frames": 5}
    config = dataclasses.replace(tiny_vace.CONFIG, base=str(folder / "base"), sampling=size)
    save_model(folder / "checkpoint", config, tiny_vace.parts(config, trained=True))
    tiny_vace.portrait().save(folder / "face.png")
    tiny_vace.landscape().save(folder / "empty.png")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crops.write(tmp_path_factory.mktemp("shards"), people=9)
