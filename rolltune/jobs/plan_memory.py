"""What a training will need of a card, before anything is loaded; what fits it, and which choice is the fastest."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import jax
from rich import box
from rich.table import Table

from rolltune import base, device, gpus, sharding
from rolltune.base import Opened
from rolltune.data.sets import find_dataset
from rolltune.errors import UserError
from rolltune.free_memory import CONTEXT, HEADROOM, free_bytes, gib
from rolltune.jobs.laying import AUTO, groups_for, told
from rolltune.jobs.plan_choices import (
    ABOUT_FLOAT8,
    MOST_CARDS,
    Choice,
    changes,
    difference,
    flags_of,
    more_cards,
    on_each,
    over_cards,
    tried,
)
from rolltune.memory import Need, depths_for, most_rolls, needs_of, peak
from rolltune.models.cut import Places
from rolltune.programs import Program
from rolltune.quantize import FLOAT8
from rolltune.recipe import Recipe
from rolltune.tracking import note, print_table
from rolltune.training import setup
from rolltune.training.dataset import Data, Wanted, read_data
from rolltune.training.outline import NoTokenizer, Outline, Stated, outline, stated_data

Say = Callable[[str], None]
FITS, FITS_NOT = 0, 1
RULE = (
    "The fastest that fits, by this rule: first what works nothing out twice and rounds as the recipe does (no remat, "
    "four bits or float8 that were not asked for), then a base that is whole on each card, then batches in one piece, "
    "then the most rolls at once."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked of one plan, beside the recipe. The flags of 09-plan_memory.py."""

    dataset: str | None = None
    stated: Stated | None = None
    card: str | None = None
    cards: int | None = None  # of the machine; None: those that are here, of a described card one
    budget: int | None = None  # bytes of each card
    desktop: int = 0  # of these, what others hold
    rolls: int = 1
    tries: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    exact: bool = False
    reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def some_here(count: int) -> Sequence[Any]:
    """So many of the cards that are here. Raises UserError where there are fewer."""
    here = sharding.cards_here()
    if count > len(here):
        there = "is one" if len(here) == 1 else f"are {len(here)}"
        raise UserError(f"--cards {count}: there {there} here; --card NAME plans for cards that are not here")
    return here[:count]


@dataclasses.dataclass(frozen=True)
class Place:
    """What programs are compiled for, and how much memory each card has."""

    words: str
    described: device.Capability | None = None  # of a card that need not be here
    gpu: bool = False
    has: int | None = None  # bytes
    cards: Callable[[int], Sequence[Any]] = some_here  # so many of them
    float8: bool = False  # they multiply in it

    @property
    def first(self) -> Any:
        """A sharding on the first card, if it is only described; programs of arrays with it are compiled for that."""
        return jax.sharding.SingleDeviceSharding(self.cards(1)[0]) if self.described else None


@dataclasses.dataclass(frozen=True)
class Planned:
    choice: Choice
    needs: list[Need]

    @property
    def total(self) -> int:
        return peak(self.needs).total


def find_place(options: Options) -> Place:
    """The card to plan for: a described one, or the one that is here; a CPU's compiler where there is none.

    Raises UserError where more cards are asked for than there are, and none is named that could be described.
    """
    if options.card is not None:
        card = gpus.find(options.card)
        has = round(card.gib * 2**30)
        if gpus.compiler_here():
            words = f"{card.name}, by its description (it need not be here)"
            return Place(words, card.capability, True, has, lambda count: gpus.described(card, count), card.float8)
        virtual_cards(max(options.cards or 1, MOST_CARDS))
        return Place(
            f"{card.name}, but by this CPU's compiler: the one for GPUs is not installed here, and its figures may "
            "differ much. pip install 'jax[cuda12]' brings it; no card and no driver are needed",
            has=has,
            float8=card.float8,
        )
    some_here(options.cards or 1)
    first = jax.devices()[0]
    if first.platform == "gpu":
        free = free_bytes()
        has = None if free is None else free + round(CONTEXT)
        return Place(f"{first.device_kind}, which is here", None, True, has, float8=device.multiplies_float8())
    return Place("this CPU: name a graphics card with --card, or how much memory there is with --budget")


def plan_memory(options: Options, recipe: Recipe, say: Say) -> int:
    """The exit status: 0 something fits (or nothing was said about room), 1 nothing does."""
    place = find_place(options)
    cards = options.cards or (1 if options.card else len(sharding.cards_here()))
    say(f"planned for: {f'{cards} x ' if cards > 1 else ''}{place.words}")
    if options.card is not None and recipe.dtype == "auto":
        recipe = dataclasses.replace(recipe, dtype=gpus.find(options.card).dtype)
    if place.described:
        # Programs for a card that is not there can be written into the cache of compiled ones, but not read from it.
        jax.config.update("jax_enable_compilation_cache", False)
    room = room_of(options, place)
    with device.described_gpu(place.described) if place.described else nullcontext():
        return _plan(options, recipe, cards, place, room, say)


def virtual_cards(count: int) -> None:
    """So many devices of this CPU to compile for in the place of cards; to be asked for before JAX has looked."""
    with suppress(RuntimeError):  # it has: those that there are have to do
        jax.config.update("jax_num_cpu_devices", count)


def room_of(options: Options, place: Place) -> int | None:
    """Bytes that are left for arrays. Raises UserError where the desktop leaves none."""
    has = options.budget if options.budget is not None else place.has
    if has is None:
        return None
    room = has - options.desktop - (round(CONTEXT) if place.gpu or options.card else 0)
    if room <= 0:
        raise UserError(
            f"of {gib(has)} the desktop ({gib(options.desktop)}) and CUDA itself ({gib(CONTEXT)}) leave nothing: "
            "say how much the card has with --budget, and what others hold with --desktop"
        )
    return room


def _plan(options: Options, recipe: Recipe, cards: int, place: Place, room: int | None, say: Say) -> int:
    known: dict[bytes, Program] = {}
    inputs = Rows(options, say)

    def planned(choice: Choice) -> Planned:
        note(f"compiling: {choice.words}")
        laid = inputs.outline(choice, place.cards(choice.cards) if choice.shares else ())
        return Planned(choice, needs_of(laid, choice.each, place.first, options.exact, known))

    def possible(choice: Choice) -> Planned | None:
        try:
            return planned(choice)
        except UserError as error:
            note(f"  left out: {error}")
            return None

    own = Choice("the recipe as it is", recipe, options.rolls, stated=options.stated, cards=cards)
    first = planned(own)
    if recipe.sharding == AUTO and cards > 1 and room is not None and first.total > room:
        say(f"sharding=auto: a card that holds the whole base needs {gib(first.total)}, so {cards} cards share one")
        own = dataclasses.replace(own, recipe=over_cards(recipe))
        first = planned(own)
    if own.shares:
        opened = inputs.opened(own)
        if places := places_of(own, opened, place.cards(cards)):
            say(told(places, opened.shapes()))
    print_table(parts_table(first))
    made = inputs.outline(own)
    depths = depths_for(made)
    if not options.exact and depths[1] < made.depth:
        say(
            f"compiled with {depths[0]} and {depths[1]} of the {made.depth} layers; what all of them need grows evenly "
            "with their number (--exact compiles them all)"
        )
    most = peak(first.needs)
    beside = f"; CUDA itself takes about {gib(CONTEXT)} more" if place.gpu or options.card else ""
    say(f"most at a time: {gib(most.total)}, in: {most.part}{beside}")
    if room is None and not options.tries:
        return FITS
    others = tried(own, options.tries) if options.tries else changes(own, inputs.opened(own), place.float8)
    done = [first, *(one for choice in others if (one := possible(choice)))]
    print_table(choices_table(done, room))
    if recipe.quantize not in FLOAT8 and any(one.choice.recipe.quantize in FLOAT8 for one in done):
        say(ABOUT_FLOAT8)
    if room is None:
        return FITS
    say(f"room for arrays: {gib(room)}{' of ' + gib(options.budget) if options.budget else ''}")
    more = on_more_cards(own, room, possible) if first.total > room and options.card else []
    return verdict(done, room, lambda one: most_that_fit(one, room, planned), say, more)


def on_more_cards(own: Choice, room: int, possible: Callable[[Choice], Planned | None]) -> list[Planned]:
    """The same on the fewest cards with which it fits, or on the most that are tried."""
    found: list[Planned] = []
    for choice in more_cards(own):
        if one := possible(choice):
            found = [one]
            if one.total <= room:
                break
    return found


def verdict(
    done: Sequence[Planned], room: int, most: Callable[[Planned], int], say: Say, more: Sequence[Planned] = ()
) -> int:
    """Says what to take, or that nothing fits, and which two changes help most: `more` are those of another machine."""
    own = done[0]
    if own.total > room:
        for line in refusal(own, [*done[1:], *more], room):
            say(line)
    fitting = [one for one in done if one.total <= room]
    if not fitting:
        say("none of these fits: take a smaller model, shorter rows or smaller pictures")
        return FITS_NOT
    best = min(fitting, key=lambda one: (one.choice.effort, -one.choice.rolls))
    say(RULE)
    say(f"take: {best.choice.words}, which needs {gib(best.total)}: {flags_of(best.choice, own.choice)}")
    say(f"up to {most(best)} rolls at once fit with it")
    return FITS


def most_that_fit(one: Planned, room: int, planned: Callable[[Choice], Planned]) -> int:
    """Rolls at once, as many on each card, or on each group of cards."""
    each, groups = one.choice.each, one.choice.groups
    more = planned(dataclasses.replace(one.choice, rolls=(each + 1) * groups))
    return (each - 1 + most_rolls(one.needs, more.needs, room)) * groups


def refusal(own: Planned, others: Sequence[Planned], room: int) -> list[str]:
    """Why a run can't be, and the two single changes that save most, of two different things."""
    most = peak(own.needs)
    lines = [f"{own.choice.words} cannot fit: {most.part} needs {gib(most.total)}, and there is room for {gib(room)}"]
    single = [one for one in others if len(difference(one.choice, own.choice)) == 1 and one.total < own.total]
    entry = lambda one: next(iter(difference(one.choice, own.choice)))
    smallest = {entry(one): one for one in sorted(single, key=lambda one: -one.total)}
    best = sorted(smallest.values(), key=lambda one: one.total)
    # More cards are one of the two, where they help.
    more = [one for one in best if one.choice.cards > own.choice.cards][:1]
    best = [*[one for one in best if one not in more][: 2 - len(more)], *more]
    for one in best:
        enough = "fits" if one.total <= room else "not enough alone"
        lines.append(f"  {flags_of(one.choice, own.choice)}: {gib(one.total)}, {enough}")
    return lines if best else [*lines, "  no change of the recipe that was tried makes it smaller"]


# Entries of a recipe that decide what is read of the data, in Wanted's order, and what rows are made of it.
READ_BY = ("task", "answers", "positive", "frames")
ENCODED_BY = ("model", "tokenizer", "prompt", "max_tokens", "truncate", "augment", "views", "num_crops")


class Rows:
    """The data of a plan: read and encoded once for all choices that differ in nothing that decides either."""

    def __init__(self, options: Options, say: Say):
        self.options, self.say = options, say
        self._data: dict[Wanted, Data] = {}
        self._made: dict[Any, Any] = {}

    def opened(self, choice: Choice) -> Opened:
        r = choice.recipe
        stand_in = None if self.options.dataset else NoTokenizer
        opened = base.open_model(r.model, r.tokenizer, r.dtype, r.packing, r.num_crops, stand_in)
        if not choice.model:
            return opened
        config = opened.model.config
        known = {entry.name for entry in dataclasses.fields(config)}
        for name, value in choice.model.items():
            if name not in known or not isinstance(getattr(config, name), int):
                numbers = [one for one in sorted(known) if isinstance(getattr(config, one), int)]
                raise UserError(f"--try model.{name}: {opened.model.family.name} has no such number; it has: {numbers}")
            config = dataclasses.replace(config, **{name: value})
        return dataclasses.replace(opened, model=dataclasses.replace(opened.model, config=config))

    def outline(self, choice: Choice, cards: Sequence[Any] = ()) -> Outline:
        """`cards`: those that share a base, if any do."""
        opened = self.opened(choice)
        own = tuple(getattr(choice.recipe, name) for name in (*READ_BY, *ENCODED_BY))
        key = (choice.stated, tuple(choice.model.items()), own)
        if key not in self._made:
            self._made[key] = self._read(opened, choice)
        data, inputs = self._made[key]
        return outline(opened, choice.recipe, data, inputs, places_of(choice, opened, cards) if cards else None)

    def _read(self, opened: Opened, choice: Choice) -> Any:
        if self.options.dataset is None:
            assert choice.stated is not None
            return stated_data(opened.model, choice.recipe, choice.stated)
        wanted = Wanted(*(getattr(choice.recipe, name) for name in READ_BY))
        if wanted not in self._data:
            found = find_dataset(self.options.dataset)
            self._data[wanted] = read_data(found, wanted, self.say, self.options.reading)
        data = self._data[wanted]
        return data, setup.encode(opened.model, choice.recipe, data)


def places_of(choice: Choice, opened: Opened, cards: Sequence[Any]) -> Places | None:
    """One group of cards that share a base; the others are like it. None where the rules cut nothing."""
    return groups_for(choice.recipe, opened, 1, lambda: False, lambda text: None, cards)


PARTS = {  # of a need, and their headings
    **{"weights": "weights", "kept": "kept", "trained": "trained", "optimizer": "optim."},
    **{"activations": "activ.", "temporary": "temp.", "workspace": "work"},
}


def parts_table(planned: Planned) -> Table:
    choice = planned.choice
    rolls = f"{choice.rolls} roll{'s' * (choice.rolls > 1)}"
    title = f"GiB, {rolls}" if choice.cards == 1 else f"GiB on each of {choice.cards} cards, {rolls}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("part", no_wrap=True)
    for name in (*PARTS.values(), "in all"):
        table.add_column(name, justify="right")
    most = peak(planned.needs)
    for need in planned.needs:
        figures = [getattr(need, name) for name in PARTS]
        cells = [f"{size / 2**30:.2f}" if size else "" for size in figures]
        table.add_row(need.part, *cells, f"{need.total / 2**30:.2f}", style="bold" if need is most else None)
    return table


def choices_table(done: Sequence[Planned], room: int | None) -> Table:
    title = "choices, fastest first"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for name, side in (("choice", "left"), ("rolls", "right"), ("GiB", "right"), ("most in", "left"), ("fits", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for one in sorted(done, key=lambda one: (one.choice.effort, -one.total)):
        most = peak(one.needs)
        fits = "" if room is None else ("yes" if most.total <= room else "no")
        table.add_row(one.choice.words, str(one.choice.rolls), f"{most.total / 2**30:.2f}", most.part, fits)
    return table


def check_room(made: Outline, rolls: int, free: int, say: Say) -> None:
    """Before hours of work: whether a run of so many rolls at once can fit what each card has free. The programs are
    those that it will run, so that the compiler's cache has them then.

    Raises UserError where it cannot, with the two changes that help most.
    """
    cards, recipe = sharding.all_cards(), made.recipe
    if made.cached.mesh is None:
        recipe = on_each(recipe)
    elif recipe.sharding == AUTO:
        recipe = dataclasses.replace(over_cards(recipe), sharding_group=sharding.cards_in_group(made.cached.mesh))
    choice = Choice("this run", recipe, rolls, cards=len(cards))
    own = Planned(choice, needs_of(made, choice.each, exact=True))
    most = peak(own.needs)
    if most.total <= free * HEADROOM:
        say(f"memory: {gib(most.total)} at most ({most.part}), {gib(free)} are free")
        return
    if most.total <= free:
        say(f"memory: {gib(most.total)} at most ({most.part}) of {gib(free)} that are free: it may just fit")
        return
    known: dict[bytes, Program] = {}
    others = []
    for one in changes(choice, made.opened):
        if len(difference(one, choice)) == 1:
            r = one.recipe
            note(f"looking for what helps: {one.words}")
            try:
                opened = made.opened if r.packing == made.recipe.packing else setup.open_model(r)
                places = places_of(one, opened, cards)
                again = outline(opened, r, made.data, made.inputs, places)
            except UserError:  # a model whose matrices can't be packed
                continue
            others.append(Planned(one, needs_of(again, one.each, known=known)))
    lines = refusal(own, others, free)
    raise UserError("\n".join([*lines, "09-plan_memory.py shows what fits; with --cards, what more cards would do"]))
