"""Method cards: the facts of a method, read from `card.toml` without importing its adapter."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ffbench.embedded import NAME as EMBEDDED
from ffbench.errors import UserError
from ffbench.records import Scalar

Kind = Literal["control", "open", "commercial", "reference", "tool"]
UNKNOWN = "unknown until pulled"
"""What a card says for a hash that nobody could know when it was written."""
_POSITIVE = ("width", "height", "num_frames", "fps", "steps")


@dataclass(frozen=True)
class Weight:
    """One file or repository of weights that a method loads."""

    name: str
    revision: str
    sha256: str
    licence: str = ""


@dataclass(frozen=True)
class Memory:
    """GPU memory of one configuration, and who measured or stated it."""

    configuration: str
    gib: float
    source: str


@dataclass(frozen=True)
class Price:
    """What a vendor asks for one video, who said so and when."""

    date: str
    source: str
    usd: float | str = "unknown"
    """US dollars a video, or "unknown"."""
    when: Mapping[str, Scalar] = field(default_factory=dict)
    """Settings that this price is for; empty for any."""
    unit: str = ""
    """What the vendor counts in, such as credits; the adapter notes `units` where an answer says how many."""
    unit_usd: float | str = "unknown"


@dataclass(frozen=True)
class Card:
    """What is known about a method before anything of it is imported."""

    name: str
    """Name in the table of methods, with `@variant` where one was asked for."""
    target: str
    """`package.module:Class`."""
    folder: Path
    summary: str
    kind: Kind
    revision: str
    """Version of the adapter; part of every generation's key, so raise it when an output may change."""
    licence: str
    settings: Mapping[str, Scalar]
    """Every native setting with its default; the type of the default is the type of the setting."""
    paper: str = ""
    repository: str = ""
    commit: str = ""
    weights: tuple[Weight, ...] = ()
    memory: tuple[Memory, ...] = ()
    price: tuple[Price, ...] = ()
    """Of a commercial method; the first whose conditions hold counts."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """GiB of weights of each network as the settings load them, for methods whose networks can take turns on a GPU."""
    preprocessing: str = ""
    """What becomes of the reference photograph before the model sees it."""
    dropped: str = ""
    """Which frames of what the model makes are not in the video."""
    deviations: tuple[str, ...] = ()
    """Where the adapter differs from the authors' own code."""
    batch: int = 1
    """Most requests the method takes at once."""
    environment: str = "embedded"
    """`embedded`, or the requirements file of the interpreter of its own that it needs."""
    python: str = ""
    """Python version of that interpreter."""
    labels: bool = False
    """Any `name@label` is allowed and only names the run, for adapters that stand for many tools."""
    variants: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Named overrides of `settings`, asked for as `name@variant`."""
    suites: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Overrides of `settings` on suites whose name begins so; what a variant sets stands."""


def read_card(path: Path, name: str, target: str) -> Card:
    """Read a card strictly.

    Raises:
        UserError: naming the file and the field that is wrong, unknown or missing.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(
            f"the card of {name} cannot be read: {path}: {error}", "write one, see docs/methods.md"
        ) from error
    known = {item.name for item in fields(Card)} - {"name", "target", "folder"}
    for key in data:
        if key not in known:
            raise UserError(f"{path}: unknown field {key!r}{_nearest(key, known)}", "remove it, see docs/methods.md")
    for key in ("summary", "kind", "revision", "licence", "settings"):
        if key not in data:
            raise UserError(f"{path}: the field {key!r} is missing", "add it, see docs/methods.md")
    if data["kind"] not in get_args(Kind):
        raise UserError(f"{path}: kind is {data['kind']!r}", f"write one of: {', '.join(get_args(Kind))}")
    try:
        card = Card(name=name, target=target, folder=path.parent, **_typed(data))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {error}", "mend the card, see docs/methods.md") from error
    for variant in card.variants:
        with_variant(card, variant)
    for suite in card.suites:
        for_suite(card, suite)
    return card


def with_variant(card: Card, variant: str) -> Card:
    """The card under the name `name@variant`, with the variant's settings.

    Raises:
        UserError: if the card has no such variant, or the variant has a setting that the card lacks.
    """
    name = f"{card.name}@{variant}"
    if variant not in card.variants:
        if card.labels:
            return replace(card, name=name)
        has = f"its variants are: {', '.join(card.variants)}" if card.variants else "it has none"
        raise UserError(f"{card.name} has no variant {variant!r}{_nearest(variant, card.variants)}", has)
    values = card.variants[variant]
    return _resized(replace(card, name=name, settings=_overridden(card, f"variant {variant}", values)), values)


def for_suite(card: Card, suite: str) -> Card:
    """The card with the settings that it has for a suite of this name.

    Raises:
        UserError: if those override a setting that the card lacks.
    """
    chosen = card.variants.get(card.name.partition("@")[2], {})
    for prefix, values in card.suites.items():
        if suite.startswith(prefix):
            values = {key: value for key, value in values.items() if key not in chosen}
            card = _resized(replace(card, settings=_overridden(card, f"suites {prefix}", values)), values)
    return card


def _resized(card: Card, values: Mapping[str, Scalar]) -> Card:
    """The card without `parts` and `memory` where settings load networks of other sizes than those it tells of."""
    other = "base" in values or values.get("checkpoint") == EMBEDDED
    return replace(card, parts={}, memory=()) if other else card


def _overridden(card: Card, where: str, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    settings = dict(card.settings)
    for key, value in values.items():
        if key not in settings or type(value) is not type(settings[key]):
            raise UserError(
                f"{card.folder / 'card.toml'}: {where}: {key} = {value!r} overrides no setting of that type",
                "name a setting of [settings] and keep its type",
            )
        settings[key] = value
    return settings


def override(card: Card, pairs: Iterable[str]) -> dict[str, Scalar]:
    """All settings of a card with the user's `key=value` overrides, read as the type of the card's default.

    Raises:
        UserError: for an unknown key (naming the nearest), a value of another type, or a size that is not positive.
    """
    settings = dict(card.settings)
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair!r} is no key=value", "write --set KEY=VALUE, such as --set num_frames=49")
        if key not in settings:
            raise UserError(
                f"{card.name} has no setting {key!r}{_nearest(key, settings)}",
                f"its settings are: {', '.join(settings)}",
            )
        settings[key] = _parse(card, key, text)
    for key in _POSITIVE:
        value = settings.get(key)
        if isinstance(value, int | float) and not value > 0:
            raise UserError(f"{card.name}: {key}={value} is not above zero", f"give --set {key}=N with N above zero")
    return settings


def card_gaps(card: Card) -> list[str]:
    """What a card of its kind should say and does not; empty for a complete card."""
    wanted: dict[str, tuple[str, ...]] = {
        "control": ("deviations",),
        "tool": ("deviations",),
        "open": ("paper", "repository", "commit", "weights", "memory", "preprocessing", "dropped", "deviations"),
        "reference": ("paper", "weights", "memory", "preprocessing", "dropped", "deviations"),
        "commercial": ("repository", "price", "preprocessing", "dropped", "deviations"),
    }
    always = ("summary", "revision", "licence", "settings")
    gaps = [f"{key} is empty" for key in (*always, *wanted[card.kind]) if not getattr(card, key)]
    if card.commit and not re.fullmatch(r"[0-9a-f]{7,40}", card.commit):
        gaps.append(f"commit {card.commit!r} is no git commit")
    for weight in card.weights:
        if not (weight.name and weight.revision and weight.licence):
            gaps.append(f"weights {weight.name!r} lack a revision or a licence")
        if weight.sha256 != UNKNOWN and not re.fullmatch(r"[0-9a-f]{64}", weight.sha256):
            gaps.append(f"weights {weight.name!r}: sha256 is neither 64 hex digits nor {UNKNOWN!r}")
    gaps += [f"memory {memory.configuration!r} names no source" for memory in card.memory if not memory.source]
    gaps += [f"price {price.when or 'of any'} names no date or source" for price in card.price if not _said(price)]
    if card.environment != "embedded":
        if not (card.folder / card.environment).is_file():
            gaps.append(f"environment {card.environment!r} is no file beside the card")
        if not card.python:
            gaps.append("python is empty: which version does its environment need?")
    return gaps


def in_short(card: Card) -> str:
    """One line: what it is, of which kind, how large its videos are, and its licence up to the first semicolon."""
    size = "size by the vendor" if card.kind == "commercial" else ""
    width, height, frames, fps = (card.settings.get(key) for key in ("width", "height", "num_frames", "fps"))
    if isinstance(fps, float) and None not in (width, height, frames):
        size = f"{width}x{height}, {frames} frames at {fps:g}/s"
    facts = [card.kind, size, f"licence {card.licence.partition(';')[0]}"]
    return f"{card.summary} ({'; '.join(fact for fact in facts if fact)})"


def _typed(data: Mapping[str, Any]) -> dict[str, Any]:
    typed = dict(data)
    typed["weights"] = tuple(Weight(**item) for item in data.get("weights", ()))
    typed["memory"] = tuple(Memory(**item) for item in data.get("memory", ()))
    typed["price"] = tuple(_price(item) for item in data.get("price", ()))
    typed["deviations"] = tuple(data.get("deviations", ()))
    typed["variants"] = {key: dict(table) for key, table in data.get("variants", {}).items()}
    typed["suites"] = {key: dict(table) for key, table in data.get("suites", {}).items()}
    typed["settings"] = dict(data["settings"])
    if not isinstance(typed.get("parts", {}), Mapping):
        raise TypeError(f"parts must be a table of GiB, got {typed['parts']!r}")
    typed["parts"] = {key: float(value) for key, value in data.get("parts", {}).items()}
    for key in ("preprocessing", "dropped"):
        if not isinstance(typed.get(key, ""), str):
            raise TypeError(f"{key} must be text, got {typed[key]!r}")
    for key, hint in (("batch", int), ("labels", bool), ("revision", str), ("summary", str), ("environment", str)):
        if key in typed and type(typed[key]) is not hint:
            raise TypeError(f"{key} must be {hint.__name__}, got {typed[key]!r}")
    if typed.get("batch", 1) < 1:
        raise ValueError("batch must be at least 1")
    for key, value in typed["settings"].items():
        if not isinstance(value, str | int | float | bool):
            raise TypeError(f"setting {key} must be text, a number or true/false, got {value!r}")
    return typed


def _price(item: Mapping[str, Any]) -> Price:
    price = Price(**item)
    for key, value in (("usd", price.usd), ("unit_usd", price.unit_usd)):
        if value != "unknown" and not (isinstance(value, float) and value > 0):
            raise ValueError(f'price: {key} is a number above zero with a fraction, or "unknown", got {value!r}')
    return price


def _said(price: Price) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", price.date) and price.source)


def _parse(card: Card, key: str, text: str) -> Scalar:
    default = card.settings[key]
    if isinstance(default, str):
        return text
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default) or value in (float("inf"), float("-inf")) or value != value:
        raise UserError(f"{card.name}: {key}={text!r} is not {wanted}", f"the default is {key}={json.dumps(default)}")
    return value  # type: ignore[no-any-return]


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
