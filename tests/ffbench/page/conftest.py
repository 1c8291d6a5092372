from __future__ import annotations

import pytest

from ffbench.tables.rows import Row, load_rows
from tests.ffbench.scored_runs import Made, cases, make_run

EVIL = "<script>alert(1)</script> \"quoted\" & 'single' ../../x\n😀 <img src=x onerror=alert(2)>"
"""A prompt that must be shown as it is."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Two methods and a control, six cases each; one video failed, one has no face, and a prompt is a trap."""
    root = tmp_path_factory.mktemp("page")
    suite = cases(root / "photos", 3, (("gym", EVIL), ("talk", "speaks")))
    methods = (
        Made("a", 0.8, failed=("id01-gym",)),
        Made("b", 0.5, faceless=("id02-gym",)),
        Made("still", 0.95, turn=2.0, kind="control"),
    )
    runs = [make_run(root / "runs", made, suite, with_videos=True) for made in methods]
    return [row for run in runs for row in load_rows(run, "standard@1")]
