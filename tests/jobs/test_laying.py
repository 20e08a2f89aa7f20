"""How a run is laid over cards, as far as one card can tell."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rolltune import sharding
from rolltune.errors import UserError
from rolltune.jobs.laying import check_hosts, groups_for
from rolltune.recipe import Recipe

OPENED = SimpleNamespace(shapes=lambda: {"text/norm/scale": jax.ShapeDtypeStruct((2,), np.float32)})


@pytest.mark.parametrize("sharding", ["rolls", "auto"])
def test_a_group_of_cards_that_there_will_be_none_of_is_said(sharding):
    said: list[str] = []
    for group in (0, 2):
        recipe = Recipe(sharding=sharding, sharding_group=group)
        assert groups_for(recipe, OPENED, 8, lambda: True, said.append) is None
    assert said == ["sharding_group counts for nothing: each card has the whole base"]


@dataclasses.dataclass(frozen=True)
class Card:
    """One of a host's, as far as it is laid out here."""

    process_index: int
    id: int


CARDS = [Card(host, 2 * host + number) for host in range(4) for number in range(2)]  # of four hosts, two on each


@pytest.mark.parametrize(("size", "rolls", "groups"), [(2, 4, 4), (2, 9, 4), (4, 2, 2), (4, 1, 2), (8, 1, 1)])
def test_groups_lie_within_a_host_or_are_of_whole_ones(size, rolls, groups):
    mesh = sharding.groups_of(rolls, size, CARDS)
    assert mesh.shape == {"rolls": groups, "cards": size} and set(mesh.devices.flat) == set(CARDS)
    assert sharding.hosts_in_group(mesh) == max(1, size // 2)
    few = sharding.groups_of(2, 2, [Card(host, 4 * host + number) for host in range(2) for number in range(4)])
    assert [card.id for card in few.devices.flat] == [0, 1, 4, 5]  # of two groups on each host one is enough


@pytest.mark.parametrize("size", [1, 3, 6, 16])
def test_other_groups_are_refused_with_those_that_can_be(size):
    with pytest.raises(UserError, match=f"sharding_group: {size} of 4 hosts with 2 cards each.*: 2, 4, 8, or 0 for"):
        sharding.groups_of(1, size, CARDS)


def test_every_host_or_group_of_hosts_needs_a_roll(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    for size, fewest in ((2, 4), (4, 2), (8, 1)):
        mesh = sharding.groups_of(None, size, CARDS)
        check_hosts(fewest, mesh)
        if fewest > 1:
            with pytest.raises(UserError, match=f"{fewest - 1} rolls? at once on {fewest} "):
                check_hosts(fewest - 1, mesh)
    with pytest.raises(UserError, match=r"3 rolls at once on 4 hosts.*--config\.sharding=fsdp"):
        check_hosts(3, None)


@pytest.mark.parametrize(("group", "slots", "size"), [(0, 8, 2), (0, 1, 8), (4, 8, 4)])
def test_what_fits_no_card_is_cut_within_a_host_if_each_has_a_roll(group, slots, size):
    recipe = Recipe(sharding="auto", sharding_group=group)
    places = groups_for(recipe, OPENED, slots, lambda: False, lambda text: None, CARDS)
    assert places is not None and sharding.cards_in_group(places.mesh) == size
