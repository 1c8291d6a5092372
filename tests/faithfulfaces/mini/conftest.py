from __future__ import annotations

import pytest

from faithfulfaces.mini import footage
from faithfulfaces.mini.footage import Footage


@pytest.fixture(scope="session")
def clips() -> Footage:
    """Six people of the training split, one of each scene type."""
    return footage.clips("train", 0, count=6)


@pytest.fixture(scope="session")
def frames() -> Footage:
    """Loose frames of four people of the measuring networks'."""
    return footage.loose("measure", 0, count=4)
