"""What a paid method costs: estimated, limited, counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ffbench.cards import Card, Price, card_gaps
from ffbench.cost import Meter, price_of
from ffbench.errors import UserError
from ffbench.records import Generation

DEAR = Price("2026-11-01", "price list", 0.5, {"mode": "pro"}, "unit", 0.1)
CHEAP = Price("2026-11-01", "price list", 0.2)


def card(**values: Any) -> Card:
    said = {"preprocessing": "None.", "dropped": "None.", "deviations": ("d",)}
    facts = {"repository": "https://vendor.example", "price": (DEAR, CHEAP), **said, **values}
    return Card("paid", "x.adapter:X", Path(), "s", "commercial", "1", "terms", {"mode": "std"}, **facts)


def record(status: str = "ok", **notes: Any) -> Generation:
    return Generation("c", "s", "1", "paid", "1", {}, 0, 0, status, provenance={"notes": notes})  # type: ignore[arg-type]


def test_the_first_price_that_fits_the_settings_counts() -> None:
    assert price_of(card(), {"mode": "pro"}) is DEAR
    assert price_of(card(), {"mode": "std"}) is CHEAP
    given = price_of(card(), {"mode": "pro"}, 0.7)
    assert given is not None and given.usd == 0.7 and given.unit_usd == 0.1
    assert price_of(replace(card(), kind="open"), {}) is None
    none = price_of(card(price=()), {})
    assert none is not None and none.usd == "unknown"


def test_an_estimate_above_the_limit_refuses_to_start() -> None:
    assert "10 videos x $0.2 = $2.00 at most (price: 2026-11-01 price list)" in Meter(card(), CHEAP, 10, 2.0).estimate()
    with pytest.raises(UserError) as caught:
        Meter(card(), CHEAP, 11, 2.0)
    assert "$2.20 at most" in caught.value.what and "--limit 10" in caught.value.fix
    with pytest.raises(UserError, match="is unknown"):
        Meter(card(), Price("2026-11-01", "nobody"), 1, 2.0)
    assert "price unknown" in Meter(card(), Price("2026-11-01", "nobody"), 1, None).estimate()
    assert Meter(card(), None, 10, 0.0).estimate() == ""  # a method that nobody is paid for
    assert Meter(card(), CHEAP, 0, 0.0).estimate() == ""


def test_every_record_counts_and_the_vendors_units_count_instead_of_the_estimate() -> None:
    meter = Meter(card(), DEAR, 4, None)
    for made in (record(), record("failed"), record("refused"), record(units=7)):
        meter.count(made)
    assert meter.spent == pytest.approx(3 * 0.5 + 0.7)
    assert meter.total() == "paid: 4 videos for $2.20 at most"


def test_the_limit_holds_while_running() -> None:
    meter = Meter(card(batch=2), DEAR, 6, 3.0)
    meter.count(record(units=20))  # the second of the batch is ordered already
    with pytest.raises(UserError, match=r"has cost \$2\.10, the next videos would pass --max-cost 3"):
        meter.count(record(units=1))
    last = Meter(card(batch=2), DEAR, 2, 1.0)
    last.count(record(units=20))
    last.count(record(units=20))  # nothing is left to order


def test_a_commercial_card_without_a_price_has_a_gap() -> None:
    assert card_gaps(card()) == []
    assert card_gaps(card(price=())) == ["price is empty"]
    assert card_gaps(card(price=(Price("", "x"),))) == ["price of any names no date or source"]
