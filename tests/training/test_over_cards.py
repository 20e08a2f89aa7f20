"""The tests of over_cards.py and over_groups.py, in processes of four virtual devices."""

from pathlib import Path

import pytest

QUICK = "--xla_backend_optimization_level=0"  # programs that run three steps are not worth LLVM's time


@pytest.mark.parametrize(("name", "more"), [("over_cards.py", ""), ("over_groups.py", QUICK)])
def test_over_four_virtual_cards(on_four_cards, name, more):
    on_four_cards(Path(__file__).parent / name, more)
