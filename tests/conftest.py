"""Shared fixtures. Real faces and small real networks lie outside the project; tests that use them skip without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# one thread: sums in a fixed order, equal to those of the single-threaded processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")

ASSETS = Path(os.environ.get("FFBENCH_TEST_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real photographs, videos and small networks, or a skip where it is absent."""
    if not (ASSETS / "models").is_dir():
        pytest.skip("shared assets are not on this machine")
    return ASSETS
