"""What the cards say, and what `ffbench ls` and `ffbench show` make of it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from ffbench.cards import card_gaps, in_short, read_card
from ffbench.errors import UserError
from ffbench.methods import METHODS, card, find
from ffbench.show import show

TEN = ("consisid", "vace", "hunyuancustom", "standin", "phantom", "concat_id", "skyreels_a2", "magref", "kling", "vidu")
"""The baselines of the paper's Table 1."""
PAID = ("kling", "vidu")


def flat(name: str, tmp_path: Path) -> str:
    return " ".join(show(name, tmp_path).split())


@pytest.mark.parametrize("name", TEN)
def test_a_baselines_page_holds_every_fact_of_its_card(name: str, tmp_path: Path) -> None:
    own, page = card(name), flat(name, tmp_path)
    facts = [own.summary, own.licence, own.repository, own.preprocessing, own.dropped, *own.deviations]
    facts += [f"{key} = {value!r}" for key, value in own.settings.items()]
    facts += [part for weight in own.weights for part in (weight.name, weight.revision, weight.sha256, weight.licence)]
    facts += [f"{one.gib:g} GiB: {one.configuration} ({one.source})" for one in own.memory]
    facts += [f"{name}@{variant}: " for variant in own.variants]
    if name not in PAID:
        facts += [own.paper, own.commit]
    missing = [fact for fact in facts if " ".join(fact.split()) not in page]
    # a long word is broken at the page's width
    assert [fact for fact in missing if fact.replace(" ", "") not in page.replace(" ", "")] == []
    assert all(facts[:4])


@pytest.mark.parametrize("name", [name for name in TEN if name not in PAID])
def test_native_settings_are_all_there(name: str) -> None:
    own = card(name)
    wanted = {"width", "height", "num_frames", "fps", "steps", "negative_prompt", "dtype"}
    wanted |= {"guidance_image", "guidance_text"} if name == "phantom" else {"guidance"}
    # CogVideoX has no shift
    wanted |= set() if name == "consisid" else {"shift"}
    assert wanted <= own.settings.keys()
    assert own.paper and own.commit and own.weights and own.memory and own.preprocessing and own.dropped
    assert ("drop" in own.settings) == own.dropped.startswith("4")


def test_licences_that_bind_are_said() -> None:
    assert "European Union" in card("hunyuancustom").licence and card("concat_id").licence.startswith("none")
    assert all("paid" in card(name).licence for name in PAID)


def test_a_variants_page_has_its_own_settings_and_the_methods_variants(tmp_path: Path) -> None:
    page = flat("vace@1.3b", tmp_path)
    assert page.startswith("vace@1.3b (open") and "vace@1.3b@" not in page
    assert "variants vace@1.3b: base = 'Wan-AI/Wan2.1-VACE-1.3B-diffusers'" in page
    assert "offload" not in page and "offload transformer 32.3" in flat("vace", tmp_path)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_list_says_kind_size_and_licence(name: str) -> None:
    own, line = card(name), in_short(card(name))
    assert line.startswith(own.summary) and f"({own.kind}" in line and "\n" not in line
    if "num_frames" in own.settings:
        assert f"{own.settings['width']}x{own.settings['height']}, {own.settings['num_frames']} frames at" in line
    assert f"; licence {own.licence.split(';')[0]})" in line


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('parts = "large"\n', "parts must be a table of GiB, got 'large'"),
        ("parts = { x = true, y = 'b' }\n", "could not convert string to float: 'b'"),
        ("preprocessing = 3\n", "preprocessing must be text"),
        ('dropped = ["a"]\n', "dropped must be text"),
        ('proprocessing = "x"\n', "unknown field 'proprocessing'; did you mean 'preprocessing'"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, line: str, match: str) -> None:
    text = (card("still").folder / "card.toml").read_text("utf-8")
    (tmp_path / "card.toml").write_text(line + text, "utf-8")
    with pytest.raises(UserError, match=match) as caught:
        read_card(tmp_path / "card.toml", "mine", "mine:Mine")
    assert len(str(caught.value).splitlines()) == 2


def test_a_copied_card_is_read_alike(tmp_path: Path) -> None:
    own = find("magref")
    shutil.copy(own.folder / "card.toml", tmp_path)
    read = read_card(tmp_path / "card.toml", "magref", own.target)
    assert dataclasses.replace(read, folder=own.folder) == own and card_gaps(read) == []
