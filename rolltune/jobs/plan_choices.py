"""What a plan compares: ways to run a recipe, how they differ, and what to type for them."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from rolltune import recipe as recipes
from rolltune import sharding
from rolltune.base import Opened
from rolltune.errors import UserError
from rolltune.jobs.laying import AUTO, ENTRIES
from rolltune.quantize import DECODER, NF4, Quantized
from rolltune.recipe import Recipe
from rolltune.training.outline import Stated

MOST_TRIED = 64


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to run the recipe. `effort` orders choices by time: the lower the faster."""

    words: str
    recipe: Recipe
    rolls: int
    effort: tuple[int, ...] = (0,)
    stated: Stated | None = None
    model: Mapping[str, int] = dataclasses.field(default_factory=dict)  # entries of the model's config that differ
    cards: int = 1  # of the machine

    @property
    def shares(self) -> bool:
        """Whether cards share a base, or the rows of a batch."""
        return self.cards > 1 and self.recipe.sharding not in (AUTO, sharding.ROLLS)

    @property
    def group(self) -> int:
        """How many cards do; 1 where each has its own rolls."""
        return (self.recipe.sharding_group or self.cards) if self.shares else 1

    @property
    def groups(self) -> int:
        """Over how many cards, or groups of cards, the rolls are laid."""
        return max(1, self.cards // self.group)

    @property
    def each(self) -> int:
        """Rolls on each of them."""
        return -(-self.rolls // self.groups)


def difference(one: Choice, own: Choice) -> dict[str, Any]:
    """What is changed: entries of the recipe, rolls, what is stated of the data. A batch in pieces is one change."""
    changed = {
        entry.name: getattr(one.recipe, entry.name)
        for entry in dataclasses.fields(Recipe)
        if getattr(one.recipe, entry.name) != getattr(own.recipe, entry.name)
    }
    if "batch" in changed and one.recipe.batch * one.recipe.accumulate == own.recipe.batch * own.recipe.accumulate:
        changed.pop("accumulate", None)
    if one.rolls != own.rolls:
        changed["rolls"] = one.rolls
    if one.stated != own.stated:
        changed["stated"] = one.stated
    if one.cards != own.cards:  # which share the base then: that is one change
        changed = {name: value for name, value in changed.items() if name not in ENTRIES} | {"cards": one.cards}
    return changed | {f"model.{name}": value for name, value in one.model.items()}


def flags_of(one: Choice, own: Choice) -> str:
    """What to type for a choice, beside what was typed."""
    changed = difference(one, own)
    said = []
    for name, value in changed.items():
        if name == "cards":
            said.append(f"on {value} such cards that share the base (--cards {value} --config.sharding=fsdp)")
        elif name == "rolls":
            said.append(f"--rolls {value}")
        elif name == "stated":
            said.append("rows as stated there")
        elif name.startswith("model."):
            said.append(f"{name.removeprefix('model.')} = {value} in the model's own files")
        else:
            said.append(f"--config.{name}={value}")
            if name == "batch" and one.recipe.accumulate != own.recipe.accumulate:
                said.append(f"--config.accumulate={one.recipe.accumulate}")
    return " ".join(said) or "nothing to change"


ABOUT_FLOAT8 = (
    "float8 is other arithmetic than bfloat16: what is multiplied is rounded to eight bits, weights and activations, "
    "there and back; large steps are faster with it, and what is learned is to be looked at (docs/memory.md)"
)


def changes(own: Choice, opened: Opened, float8: bool = False) -> list[Choice]:
    """What can be changed without another result, to rounding: fastest first. Four bits change the numbers, too, and
    so does float8, which is for cards that multiply in it: of a file in four bits, its own."""
    recipe = own.recipe
    pieces = recipe.batch > 1
    small = lambda r: dataclasses.replace(r, batch=1, accumulate=recipe.accumulate * recipe.batch)
    remat = lambda r: dataclasses.replace(r, remat=True)
    widest = lambda r: dataclasses.replace(r, remat="attention")
    packed = lambda r: dataclasses.replace(r, quantize="nf4")
    adapters = not recipe.packing and recipe.method == "lora"
    can_pack = adapters and not is_packed(opened)
    eight = lambda r: dataclasses.replace(r, quantize="float8" if can_pack else "nf4-float8")
    can_multiply = float8 and (can_pack or (adapters and in_four_bits(opened)))
    found: list[Choice] = []

    def add(words: str, effort: tuple[int, ...], made: Recipe) -> None:
        if made != recipe:
            found.append(dataclasses.replace(own, words=words, recipe=made, effort=effort))

    if own.rolls > 1:
        found.append(dataclasses.replace(own, words="one roll", rolls=1, effort=(0,)))
    if recipe.evaluate_batch > 1:
        add("rows evaluated one by one", (0, 0, 1), dataclasses.replace(recipe, evaluate_batch=1))
    if pieces:
        add("row by row", (0, 1), small(recipe))
    if not recipe.remat:
        add("remat of the MLPs", (1, 0), widest(recipe))
    if recipe.remat is not True:
        add("remat", (1, 0, 1), remat(recipe))
        if pieces:
            add("remat, row by row", (1, 1), small(remat(recipe)))
    if can_multiply:
        add("float8", (1, 0, 1, 1), eight(recipe))
        add("float8, remat", (1, 0, 1, 2), remat(eight(recipe)))
    if can_pack:
        add("four bits", (1, 0, 2), packed(recipe))
        add("four bits, remat", (2, 0), remat(packed(recipe)))
        if pieces:
            add("four bits, remat, row by row", (2, 1), small(remat(packed(recipe))))
    if own.shares:
        add("whole base on each card", (-1,), on_each(recipe))
        if can_multiply:
            add("float8, whole base on each card", (1, 0, 0, 1), on_each(eight(recipe)))
        if can_pack:
            add("four bits, whole base on each card", (1, 0, 1), on_each(packed(recipe)))
        if own.rolls > 1 and own.group == own.cards >= 4 and own.cards % 2 == 0:
            halves = dataclasses.replace(recipe, sharding_group=own.cards // 2)
            add(f"cut over groups of {own.cards // 2} cards", (0, 0, 2), halves)
    elif own.cards > 1:
        add(f"cut over {own.cards} cards", (0, 2), over_cards(recipe))
        if not recipe.remat:
            add(f"cut over {own.cards} cards, remat", (1, 2), over_cards(remat(recipe)))
    return found


def over_cards(recipe: Recipe, word: str = sharding.FSDP) -> Recipe:
    """With a base that all cards share."""
    return dataclasses.replace(recipe, sharding=word, sharding_rules=(), sharding_group=0)


def on_each(recipe: Recipe) -> Recipe:
    """With a whole base on each card."""
    return over_cards(recipe, sharding.ROLLS)


MOST_CARDS = 8  # of one host


def more_cards(own: Choice) -> list[Choice]:
    """The same on twice as many cards of one host, and so on, that share the base: the fewest first."""
    counts = [2**power for power in range(1, MOST_CARDS.bit_length()) if 2**power > own.cards]
    recipe = own.recipe if own.shares else over_cards(own.recipe)
    recipe = dataclasses.replace(recipe, sharding_group=0)
    return [dataclasses.replace(own, words=f"{count} cards", recipe=recipe, cards=count) for count in counts]


def is_packed(opened: Opened) -> bool:
    """Whether the file itself has its matrices in few bits."""
    return any(isinstance(leaf, Quantized) for leaf in opened.shapes().values())


def in_four_bits(opened: Opened) -> bool:
    """Whether the file has all of the decoder's matrices so: a word for them packs none that it has left whole."""
    decoder = [leaf for path, leaf in opened.shapes().items() if re.fullmatch(DECODER, path)]
    return bool(decoder) and all(isinstance(leaf, NF4) for leaf in decoder)


def tried(own: Choice, tries: Mapping[str, tuple[str, ...]]) -> list[Choice]:
    """Every combination of what is to be tried. Raises UserError for an entry or a value that can't be."""
    count = math.prod(map(len, tries.values()))
    if count > MOST_TRIED:
        raise UserError(f"--try: {count} combinations, each compiled for itself; try at most {MOST_TRIED}")
    found = []
    for values in itertools.product(*tries.values()):
        pairs = dict(zip(tries, values, strict=True))
        found.append(_with(own, pairs))
    return found


def _with(own: Choice, pairs: Mapping[str, str]) -> Choice:
    recipe, stated, rolls, model = own.recipe, own.stated, own.rolls, dict(own.model)
    texts = []
    for name, value in pairs.items():
        if name == "rolls":
            rolls = whole_number(value, "--try rolls")
        elif name.startswith("model."):
            model[name.removeprefix("model.")] = whole_number(value, f"--try {name}")
        elif name in ("tokens", "picture"):
            if stated is None:
                raise UserError(f"--try {name}: the rows of --dataset are as long as they are; leave --dataset away")
            if name == "tokens":
                stated = dataclasses.replace(stated, tokens=whole_number(value, "--try tokens"))
                if stated.tokens <= stated.answer:
                    raise UserError(f"--try tokens={value}: {stated.answer} of them are the answer's")
            else:
                stated = dataclasses.replace(stated, pictures=(picture_size(value, "--try picture"),))
        else:
            texts.append(f"--config.{name}={value}")
    values = dataclasses.asdict(recipe)
    made = recipes.load(None, texts, **{name: value for name, value in values.items() if name not in pairs})
    effort = (int(bool(made.remat)) + int(made.quantize != own.recipe.quantize), made.accumulate)
    words = ", ".join(f"{name}={value or 'none'}" for name, value in pairs.items())
    return Choice(words, made, rolls, effort, stated, model, own.cards)


def whole_number(text: str, name: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{name} {text!r}: expected a number from 1")
    return int(text)


def picture_size(text: str, name: str) -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT". Raises UserError for what is no size."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and 0 < int(side) <= 65_536 for side in sides):
        raise UserError(f"{name} {text!r}: expected WIDTHxHEIGHT in pixels, such as 672x672")
    return int(sides[1]), int(sides[0])
