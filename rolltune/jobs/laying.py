"""How a run is laid over this host's cards: rolls over cards, or a base that is cut over a group of them."""

from collections.abc import Callable

import jax

from rolltune import sharding
from rolltune.base import Opened
from rolltune.errors import UserError
from rolltune.memory import HEADROOM, gib, needs_of, peak, size_of
from rolltune.models import cut
from rolltune.models.cut import Places
from rolltune.recipe import Recipe
from rolltune.training.outline import Outline

AUTO = "auto"
ENTRIES = ("sharding", "sharding_rules", "sharding_group")  # of a recipe; a run may go on with others


def groups_for(
    recipe: Recipe, opened: Opened, slots: int, fits: Callable[[], bool], say: Callable[[str], None]
) -> Places | None:
    """The groups of cards that so many rolls train on, and what is cut over them; None for rolls over cards alone.

    `auto` cuts where the whole base, with what a card's rolls need, does not fit on each card: `fits` is asked where
    there are several. Raises UserError for rules that match nothing, and where the cards are those of several hosts.
    """
    shapes, here, hosts = opened.shapes(), len(sharding.cards_here()), jax.process_count()
    rules = recipe.laying
    if recipe.sharding == AUTO:
        rules = [(".*", sharding.ROLLS)] if here == 1 or hosts > 1 or fits() else [(".*", sharding.FSDP)]
    words = cut.words_for(rules, list(shapes))
    if set(words.values()) == {sharding.ROLLS}:
        if recipe.sharding_group:
            say("sharding_group counts for nothing: each card has the whole base")
        return None
    if hosts > 1:
        raise UserError(
            f"sharding: {recipe.sharding} is for the cards of one host, and this run has {hosts} hosts: leave it out "
            "(each card then has the whole base), or run on one host"
        )
    if here == 1:
        say("sharding: there is one card, which has all")
        return None
    made = cut.places_for(sharding.groups_of(max(slots, 1), recipe.sharding_group or here), words, shapes)
    size, parts = size_of(shapes), size_of([shapes[path] for path in made.paths])
    cards = sharding.cards_in_group(made.mesh)
    say(
        f"sharding: of {gib(size)} of weights {gib(parts)} are cut over {cards} cards: "
        f"{gib(size - parts + parts / cards)} on each. What else a card will need is not planned"
    )
    return made


def fits_whole(made: Outline, rolls: int, free: int) -> bool:
    """Whether a card with so many bytes free, which holds the whole base, has room for so many rolls."""
    return peak(needs_of(made, rolls, exact=True)).total <= free * HEADROOM


def check_slots(in_groups: bool, rolls: str) -> None:
    """Raises UserError where how many rolls fit is to be found out, which is done for a whole base on each card."""
    if rolls == AUTO and in_groups:
        raise UserError("--rolls auto: what fits beside a base that is cut over cards is not known; say a number")
