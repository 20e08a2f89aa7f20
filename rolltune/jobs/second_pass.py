"""Going on with a saved roll: which one, with which recipe, and what it has learned from already."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rolltune import recipe as recipes
from rolltune import trees
from rolltune.base import Model
from rolltune.data.sets import shown
from rolltune.errors import UserError
from rolltune.evaluation.tasks import Task
from rolltune.jobs.cards import check_trained, recipe_of
from rolltune.jobs.outputs import RANKED, named_roll
from rolltune.recipe import Recipe
from rolltune.weights.roll_file import RollCard, check_base, load_roll, nested_lora
from rolltune.weights.whole import is_whole


class Asked(Protocol):
    """What of a training's options decides about a second pass."""

    @property
    def second(self) -> str | None: ...

    @property
    def name(self) -> str: ...

    @property
    def stated(self) -> frozenset[str]: ...


@dataclasses.dataclass(frozen=True)
class Earlier:
    """The roll that a run goes on with."""

    path: Path
    card: RollCard
    recipe: Recipe  # by which it was made
    trained: Mapping[str, Any]

    @property
    def passes(self) -> int:
        return int(self.card.metrics.get("passes", 1))

    @property
    def learned(self) -> frozenset[str]:
        """The marks of all that it was trained on."""
        return frozenset(self.card.metrics.get("learned", ()))

    def check(self, model: Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises UserError where it is no roll of this model."""
        check_base(self.path, self.card, model.base)
        if not is_whole(self.path):
            task = Task(self.recipe.task, tuple(self.card.answers))
            check_trained(self.path, self.trained, model, shapes, self.recipe, task)


def second_pass(asked: Asked, recipe: Recipe, say: Callable[[str], None]) -> tuple[Earlier | None, Recipe]:
    """(the roll to go on with, the recipe to do it by): the roll's own at a tenth of its rate, changed by what was
    typed and by nothing else; what differs is said."""
    if asked.second is None:
        return None, recipe
    path = roll_to_continue(asked.second, asked.name)
    roll = load_roll(path)
    old = recipe_of(roll.card, shown(path))
    own = dataclasses.replace(old, rate=old.rate / 10, prompt=roll.card.prompt, answers=tuple(roll.card.answers))
    new = dataclasses.replace(own, **{name: getattr(recipe, name) for name in asked.stated})
    recipes.check(new)  # what was typed fits a recipe of its own, and may not fit the roll's
    for name in ("rank", "first_layer"):
        if getattr(new, name) != getattr(old, name):
            raise UserError(
                f"{name}: {getattr(new, name)}, and {shown(path)} has {getattr(old, name)}, which its arrays are made "
                f"for: leave it away, or train anew, without -2"
            )
    differs = [
        f"{field.name} {getattr(old, field.name)!r} -> {getattr(new, field.name)!r}"
        for field in dataclasses.fields(Recipe)
        if getattr(old, field.name) != getattr(new, field.name) and field.name not in ("rate", "prompt", "answers")
    ]
    rate = f"lr {new.rate:.4g}" if "rate" in asked.stated else f"a tenth of its rate: {new.rate:.4g}"
    say(f"going on with {shown(path)} by its own recipe, at {rate}" + (f"; {', '.join(differs)}" if differs else ""))
    return Earlier(path, roll.card, old, nested_lora(trees.flatten(roll.tree))), new


def roll_to_continue(named: str, write: str, folder: Path = Path("checkpoints")) -> Path:
    """A roll by its file or its name; without either the one of this name, or the latest best of any run."""
    if named:
        return named_roll(named, folder)
    same = folder / f"{write}.npz"
    best = [path for path in folder.glob("*.npz") if not path.stem.endswith(".whole") and not RANKED.search(path.stem)]
    if not same.is_file() and not best:
        raise UserError("-2: there is no roll in ./checkpoints to go on with; train one first, without -2")
    return same if same.is_file() else max(best, key=lambda path: path.stat().st_mtime)
