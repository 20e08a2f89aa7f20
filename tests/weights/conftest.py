"""Where the small reference files are: copies in the repository first, then the folder of real data."""

from pathlib import Path

import pytest

COPIES = Path(__file__).resolve().parents[1] / "oracle"


@pytest.fixture
def oracle(shared):
    return lambda relative: COPIES / relative if (COPIES / relative).exists() else shared(f"oracle/{relative}")
