"""The catalogue agrees with the protocols and with docs/metrics.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffbench.metrics.catalog import METRICS
from ffbench.protocols import PROTOCOLS, SLOTS

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_catalogue_holds_exactly_what_protocols_name() -> None:
    named = {metric for protocol in PROTOCOLS.values() for metric in protocol.metrics}
    assert set(METRICS) == named
    assert all(info.id == name for name, info in METRICS.items())


def test_titles_are_unique_and_needs_are_slots() -> None:
    titles = [info.title for info in METRICS.values()]
    assert len(titles) == len(set(titles))
    for info in METRICS.values():
        assert set(info.needs) <= set(SLOTS), info.id
        assert info.needs, info.id
        assert info.low < info.high, info.id
        assert info.version >= 1
        assert "\n" not in info.summary


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_has_the_networks_its_metrics_need(protocol: str) -> None:
    recipe = PROTOCOLS[protocol]
    for metric in recipe.metrics:
        assert set(METRICS[metric].needs) <= set(recipe.networks), metric


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_a_section_in_the_page(metric: str) -> None:
    headings = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("### ")]
    assert any(f"`{metric}`" in heading for heading in headings)
