"""The tests of planned_over_cards.py and saved_over_cards.py, in processes of four virtual devices."""

from pathlib import Path

import pytest

QUICK = "--xla_backend_optimization_level=0"  # programs that run once are not worth LLVM's time


@pytest.mark.parametrize("name", ["planned_over_cards.py", "saved_over_cards.py"])
def test_over_four_virtual_cards(on_four_cards, name):
    on_four_cards(Path(__file__).parent / name, QUICK)
