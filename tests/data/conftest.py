"""What the tests of the tasks share: where the real puzzles lie, and small files."""

from __future__ import annotations

from pathlib import Path

import pytest

REAL_PUZZLES = Path(__file__).parents[2].parent / "shared" / "data" / "puzzles"


@pytest.fixture
def real_puzzles() -> Path:
    """The folder of collected lists, which is no part of the repository."""
    if not REAL_PUZZLES.is_dir():
        pytest.skip("the collected lists of real puzzles (../shared/data/puzzles) are not on this machine")
    return REAL_PUZZLES
