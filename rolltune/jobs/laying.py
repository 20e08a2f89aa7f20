"""How a run is laid over the cards: rolls over cards, or a base that is cut over a group of them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from rolltune import recipe as recipes
from rolltune import sharding
from rolltune.base import Opened
from rolltune.errors import UserError
from rolltune.free_memory import HEADROOM, free_bytes, gib
from rolltune.memory import needs_of, peak, size_of
from rolltune.models import cut
from rolltune.models.cut import Places
from rolltune.recipe import Recipe
from rolltune.training.outline import Outline

AUTO = "auto"
ENTRIES = ("sharding", "sharding_rules", "sharding_group")  # of a recipe; a run may go on with others
SCORED = 0.8  # of what a card has free: the share that whole weights may take where rolls are scored; the rest is rows'


def groups_for(
    recipe: Recipe,
    opened: Opened,
    slots: int | None,
    fits: Callable[[], bool],
    say: Callable[[str], None],
    cards: Sequence[Any] | None = None,
) -> Places | None:
    """The groups of cards that so many rolls train on, and what is cut over them; None for rolls over cards alone.

    `slots` None: all groups that there are. `cards` are those of all hosts, or such as are only described.

    `auto` cuts where the whole base, with what a card's rolls need, does not fit on each card: `fits` is asked where
    there are several. Then, where nothing is said of groups, each host's cards are one if there is a roll for each
    host; otherwise all cards are. Raises UserError for rules that match nothing, and for groups that cannot be.
    """
    cards = sharding.all_cards() if cards is None else cards
    shapes, count, hosts = opened.shapes(), len(cards), sharding.hosts_of(cards)
    rules, size = recipe.laying, recipe.sharding_group or count
    if recipe.sharding == AUTO:
        rules = [(".*", sharding.ROLLS)] if count == 1 or fits() else [(".*", sharding.FSDP)]
        if not recipe.sharding_group and count > hosts and (slots is None or slots >= hosts):
            size = count // hosts
    words = cut.words_for(rules, list(shapes))
    if set(words.values()) == {sharding.ROLLS}:
        if recipe.sharding_group:
            say("sharding_group counts for nothing: each card has the whole base")
        return None
    if count == 1:
        say("sharding: there is one card, which has all")
        return None
    made = cut.places_for(sharding.groups_of(slots, size, cards), words, shapes)
    say(told(made, shapes))
    return made


def check_hosts(slots: int, mesh: Mesh | None) -> None:
    """Raises UserError where one of several hosts, or of several groups of them, would have none of so many rolls."""
    hosts, together = jax.process_count(), sharding.hosts_in_group(mesh)
    if slots >= hosts // together:
        return
    rolls = f"{slots} {'roll' if slots == 1 else 'rolls'} at once"
    if together > 1:
        raise UserError(
            f"{rolls} on {hosts // together} groups of {together} hosts: one of them would have nothing to train. Ask "
            "for more (--rolls 16, or auto for what fits), or make the groups larger (--config.sharding_group)"
        )
    raise UserError(
        f"{rolls} on {hosts} hosts: one of them would have nothing to train. Ask for more (--rolls 16, or auto for "
        "what fits), let the hosts share a base (--config.sharding=fsdp), or start fewer hosts"
    )


def told(places: Places, shapes: dict[str, Any]) -> str:
    """How much of a base each card of a group has, in words."""
    size, parts = size_of(shapes), size_of([shapes[path] for path in places.paths])
    cards = sharding.cards_in_group(places.mesh)
    return (
        f"sharding: of {gib(size)} of weights {gib(parts)} are cut over {cards} cards: "
        f"{gib(size - parts + parts / cards)} on each"
    )


def fits_whole(made: Outline, rolls: int, free: int) -> bool:
    """Whether a card with so many bytes free, which holds the whole base, has room for so many rolls."""
    return peak(needs_of(made, rolls, exact=True)).total <= free * HEADROOM


def typed(texts: Sequence[str]) -> dict[str, Any]:
    """The entries that say how a base lies, of what was typed (--config.sharding=fsdp); empty where nothing was: then
    each roll's own recipe says it.

    Raises UserError for other entries, and for values that these cannot have.
    """
    if not texts:
        return {}
    made = recipes.load(None, texts)
    if other := sorted(recipes.stated(None, texts) - set(ENTRIES)):
        raise UserError(
            f"--config.{other[0]}: a saved roll has its own recipe; only where its base lies may be said: "
            f"{', '.join(ENTRIES)}"
        )
    return {name: getattr(made, name) for name in ENTRIES}


def scoring_groups(recipe: Recipe, opened: Opened, say: Callable[[str], None]) -> Places | None:
    """Where the base of saved rolls lies while they are scored, one after the other: on a group of cards that share it.
    None: all of it on the first card.

    `auto` cuts where the weights, and those that a roll has in their place, would take more than SCORED of what a card
    has free. The groups that a roll was trained on may be others than there are here: then all cards are one.
    """
    here, shapes, free = len(sharding.cards_here()), opened.shapes(), free_bytes()
    fit_here = recipe.sharding_group > 1 and here % recipe.sharding_group == 0
    recipe = dataclasses.replace(recipe, sharding_group=recipe.sharding_group if fit_here else 0)
    numbers = sum(math.prod(leaf.shape) for leaf in shapes.values())
    weights = size_of(shapes) + (4 * numbers if recipe.method == "full" else 0)
    return groups_for(recipe, opened, 1, lambda: free is None or weights <= SCORED * free, say)
