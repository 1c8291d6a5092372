from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faithfulfaces import recipes
from faithfulfaces.cli import main
from faithfulfaces.config import Aligner, Base, Checkpoint, Data, Lora, Optim, Parallel, Train
from faithfulfaces.context import vace_context
from faithfulfaces.data import accumulation
from faithfulfaces.runs import run
from faithfulfaces.training.madeup import made_up_clips
from ffbench.errors import UserError


@pytest.mark.parametrize("recipe", [recipes.debug, recipes.mini_base])
def test_made_up_clips_fit_the_recipes_base(recipe: Callable[[], Train]) -> None:
    config = recipe()
    assert config.base is not None
    arch = config.base.arch
    clips = made_up_clips(
        dataclasses.replace(config, data=dataclasses.replace(config.data, pair_batch=2, video_batch=2))
    )
    cached, data = clips.cached(0), config.data
    grid = (data.height // 8, data.width // 8)
    assert cached.latents.shape == (arch.get("in_channels", 16), data.latent_frames, *grid)
    assert clips.blank is not None and clips.blank.shape == cached.latents.shape
    assert cached.text.shape[1] == arch["text_dim"]
    context = vace_context(cached.reference[None], clips.blank)
    assert context.shape == (1, arch.get("vace_in_channels", 96), data.latent_frames + 1, *grid)


def test_the_paper_s_recipe_has_every_number_of_section_4_1() -> None:
    paper = recipes.paper_vace14b()
    assert paper.aligner.elements == 4096
    assert paper.lora == Lora(rank=128, alpha=128, stacks=("blocks", "vace_blocks"), attentions=("attn1", "attn2"))
    assert (paper.data.width, paper.data.height, paper.data.num_frames) == (832, 480, 81)
    assert (paper.data.video_batch, paper.data.pair_batch, paper.steps) == (32, 1024, 5000)
    assert accumulation(paper.data, 32) == 1
    assert paper.base is not None
    assert paper.base.arch == {}, "diffusers' default is the 14B"
    assert paper.aligner.pooling == "max"
    assert paper.aligner.depth == 0


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_every_recipe_is_itself_by_name_and_survives_json(name: str) -> None:
    made = recipes.recipe(name)
    assert made.name == name
    assert json.loads(json.dumps(dataclasses.asdict(made)))["steps"] == made.steps


def test_a_recipe_of_the_user_s_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom faithfulfaces import recipes\n"
        "def longer():\n    return dataclasses.replace(recipes.debug(), name='longer', steps=3)\n"
        "def nothing():\n    return 3\n"
    )
    assert recipes.recipe(f"{path}:longer").steps == 3
    with pytest.raises(UserError, match=r"gives no faithfulfaces\.config\.Train"):
        recipes.recipe(f"{path}:nothing")
    with pytest.raises(UserError, match=r"gives no faithfulfaces\.config\.Train"):
        recipes.recipe(f"{path}:absent")
    with pytest.raises(UserError, match=r"no recipe 'absent\.py:x'"):
        recipes.recipe("absent.py:x")
    path.write_text("def longer(:\n")
    with pytest.raises(UserError, match="is no Python") as caught:
        recipes.recipe(f"{path}:longer")
    assert "line 1" in caught.value.what
    with pytest.raises(UserError, match="no recipe 'papr'"):
        recipes.recipe("papr")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Data(pair_batch=1), "pair_batch must be at least 2"),
        (lambda: Data(video_batch=0), "Data.video_batch must be at least 1"),
        (lambda: Data(pairs="all"), "Data.pairs must be any or reference"),
        (lambda: Data(num_frames=80), "Data.num_frames must be 4k"),
        (lambda: Optim(lr=0), "Optim.lr must be above 0"),
        (lambda: Optim(weight_decay=-1), "Optim.weight_decay cannot be negative"),
        (lambda: Optim(schedule="linear"), "Optim.schedule must be"),
        (lambda: Parallel(dtype="float16"), "Parallel.dtype must be"),
        (lambda: Checkpoint(keep=0), "Checkpoint.keep must be at least 1"),
        (lambda: Train(name="x", base=Base()), "Train.lora goes with Train.aligner and Train.base"),
        (lambda: Train(name="x", steps=0), "Train.steps must be at least 1"),
        (lambda: Aligner(image_size=50, patch=16), "Aligner.image_size 50 is no multiple"),
    ],
)
def test_bad_values_name_their_field(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_absent_shards_are_named(tmp_path: Path) -> None:
    config = dataclasses.replace(recipes.aligner_only(), data=Data(shards=str(tmp_path / "none")))
    with pytest.raises(UserError, match="no shards"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def command_line(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `faithfulfaces ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["faithfulfaces", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--recipe", "debg", "--out", "x"), "no recipe 'debg'"),
        (("--recipe", "debug"), "no --out"),
    ],
)
def test_bad_input_on_the_command_line_is_two_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert command_line(monkeypatch, "train", *arguments) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.strip().splitlines()) == 2
    assert printed.out == ""


def test_ten_steps_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command_line(monkeypatch, "train", "--recipe", "debug", "--out", str(tmp_path / "run")) == 0
    assert len(capsys.readouterr().err.strip().splitlines()) == 10
    assert json.loads((tmp_path / "run/config.json").read_text())["name"] == "debug"
    assert (tmp_path / "run/checkpoints/step_0000010/complete.json").is_file()
