"""How a run is laid over cards, as far as one card can tell."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rolltune.jobs.laying import groups_for
from rolltune.recipe import Recipe

OPENED = SimpleNamespace(shapes=lambda: {"text/norm/scale": jax.ShapeDtypeStruct((2,), np.float32)})


@pytest.mark.parametrize("sharding", ["rolls", "auto"])
def test_a_group_of_cards_that_there_will_be_none_of_is_said(sharding):
    said: list[str] = []
    for group in (0, 2):
        recipe = Recipe(sharding=sharding, sharding_group=group)
        assert groups_for(recipe, OPENED, 8, lambda: True, said.append) is None
    assert said == ["sharding_group counts for nothing: each card has the whole base"]
