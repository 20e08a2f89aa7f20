"""How a roll came to be, as its card tells: enough to train it again, and to see whether the data is still the same."""

import dataclasses
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from rolltune import __version__, trees
from rolltune.data.files import sha256_of
from rolltune.data.learned import PICTURE
from rolltune.data.sets import shown
from rolltune.errors import UserError
from rolltune.evaluation.predicted import shown_path
from rolltune.jobs.cards import recipe_of
from rolltune.jobs.second_pass import Earlier
from rolltune.recipe import Recipe
from rolltune.training.dataset import Data
from rolltune.weights.roll_file import RollCard, load_roll, nested_lora, read_card
from rolltune.weights.whole import is_whole

MOST_NAMED = 10


def run_facts(rolls: int, folds: int | None, seed: int, reading: Mapping[str, Any], earlier: Earlier | None) -> dict:
    """What a card says of the run that made it, beside the recipe: JSON. `seed` is that of the run's roll 0."""
    before = None if earlier is None else {"path": shown(earlier.path), "sha256": sha256_of(earlier.path)}
    told = {name: value for name, value in reading.items() if value is not None}
    return {"rolls": rolls, "folds": folds, "seed": seed, "reading": told, "second": before, "made with": made_with()}


def made_with() -> dict[str, str]:
    """What decides the last bits of a training."""
    device = jax.devices()[0]
    cores = f", {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return {
        "rolltune": __version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"{device.device_kind} ({platform.machine()}{cores})",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


@dataclasses.dataclass(frozen=True)
class Origin:
    """A saved roll that is to be trained again: its card, its own recipe, and the roll that it went on from."""

    path: Path
    card: RollCard
    recipe: Recipe
    run: Mapping[str, Any]
    earlier: Earlier | None = None

    @property
    def files(self) -> dict[str, Path]:
        return {split: Path(file["path"]) for split, file in self.card.metrics["files"].items()}

    @property
    def rounded(self) -> str:
        """Why the same bits cannot be promised, in words; empty: they can."""
        now, then = made_with(), self.run["made with"]
        changed = [
            f"{name} {then.get(name)!r}, now {value!r}" for name, value in now.items() if then.get(name) != value
        ]
        reasons = [f"it was one of {self.run['rolls']} rolls"] if self.run["rolls"] > 1 else []
        return "; ".join(reasons + ([f"it was made with {', '.join(changed)}"] if changed else []))

    def check_files(self) -> None:
        """Raises UserError where a file of rows is gone, or is not the one of then: before anything is read."""
        problems = []
        for split, told in self.card.metrics["files"].items():
            path = Path(told["path"])
            if not path.exists():
                problems.append(f"  {shown(path)} ({split}): it is not there; start where the roll was trained from")
            elif "sha256" in told and not (path.is_file() and sha256_of(path) == told["sha256"]):
                problems.append(f"  {shown(path)} ({split}): another file than then (by its SHA-256)")
        self._refuse(problems)

    def check_data(self, data: Data) -> None:
        """Raises UserError where rows or pictures are not those of then, naming them where that can be known."""
        known = set(self.card.metrics["learned"])
        problems = []
        for split, told in self.card.metrics["files"].items():
            if data.digest(split) == told["rows"]:
                continue
            # The marks of what was learned from are in the card; of rows that only judged it, it has a digest of all.
            changed = [
                f"  {shown(Path(shown_path(path)))} ({split})"
                for place in data.spans[split]
                for path in data.examples[place].images
                if split == "train" and any(mark.startswith(PICTURE) for mark in data.marks[place] - known)
            ]
            changed = list(dict.fromkeys(changed))
            more = [f"  ... and {len(changed) - MOST_NAMED} more"] if len(changed) > MOST_NAMED else []
            named = [*changed[:MOST_NAMED], *more] if self.run["fold"] is None else []
            problems += named or [f"  rows or pictures of {told['path']} ({split})"]
        self._refuse(problems)

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            raise UserError(
                f"{shown(self.path)} cannot be trained again, its data has changed:\n" + "\n".join(problems)
            )


def read_origin(path: Path, model: str | None = None) -> Origin:
    """The origin of a roll; `model` is where its base is now. Raises UserError for a card that does not tell it."""
    if is_whole(path):
        raise UserError(f"{shown(path)}: a whole model: name the roll that was worked into it")
    card = read_card(path)
    run = card.metrics.get("run")
    if not isinstance(run, Mapping):
        raise UserError(f"{shown(path)}: its card does not tell how it was trained: an earlier rolltune saved it")
    recipe = recipe_of(card, shown(path))
    # One roll is drawn. What stopped others at rungs stays: the best of its states may be one that was looked at there.
    recipe = dataclasses.replace(recipe, draws=0, model=model or recipe.model)
    second = run["second"]
    earlier = None
    if second is not None:
        before = Path(second["path"])
        if not before.is_file() or sha256_of(before) != second["sha256"]:
            raise UserError(
                f"{shown(path)} went on from {second['path']}, which is gone or another one now (by its SHA-256)"
            )
        roll = load_roll(before)
        earlier = Earlier(before, roll.card, recipe_of(roll.card, shown(before)), nested_lora(trees.flatten(roll.tree)))
    return Origin(path, card, recipe, run, earlier)
