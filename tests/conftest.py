"""Fixtures: where the optional folder of real data sets, tokenizers and reference outputs is."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("ROLLTUNE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture
def shared():
    """`shared("data/hotdog")` is that path; the test is skipped, saying so, where the folder is absent."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"the folder of real data has no {relative} (set ROLLTUNE_SHARED to its place)")
        return path

    return find
