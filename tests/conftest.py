"""Shared fixtures. Real faces and small real networks lie outside the project; tests that use them skip without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def no_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of weights that holds none, whatever is installed on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FFBENCH_WEIGHTS", str(tmp_path_factory.mktemp("no-weights")))
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium under Playwright, or a skip where one of them is absent.

    Of a module, not of the session: while Playwright runs, its thread can have no event loop of another test.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()
