"""Train a roll again from its card alone, and say whether the same came out."""

import dataclasses
from pathlib import Path

import numpy as np

from rolltune.data.sets import shown
from rolltune.evaluation.metrics import rounded
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.learn import Options, learn
from rolltune.jobs.origin import Origin, read_origin
from rolltune.jobs.outputs import Outputs
from rolltune.training.dataset import read_splits
from rolltune.weights.names import flatten
from rolltune.weights.roll_file import load_roll

DIFFERENT = 4  # exit status: it ran, and another roll came out
ROUNDING = 0.05  # of the largest number: so far rounding may grow in a training of some hundred steps


@dataclasses.dataclass(frozen=True)
class Difference:
    """Between the arrays of two rolls. `largest` is infinite where they have other arrays, or other shapes."""

    same_bits: bool
    numbers: int
    largest: float  # absolute difference of two numbers
    scale: float  # the largest absolute number


def again(
    path: Path, options: Options, interrupts: Interrupts, began: float | None = None, model: str | None = None
) -> int:
    """Trains the roll of `path` as `options.name`; 0 the same came out, 4 another one did, else as `learn`.

    `options` has the name, and whether to resume or overwrite; all else is the card's. Raises UserError where data,
    base or the roll that it went on from are not those of then, naming them.
    """
    say = interrupts.say
    origin = read_origin(path, model)
    origin.check_files()
    said = f": {origin.rounded}, so that it can be the same to rounding only" if origin.rounded else ""
    say(f"training {shown(path)} again by its card{said}")
    splits = read_splits(origin.files, say, origin.run["reading"])
    wanted = dataclasses.replace(
        options, dataset=splits, reading=splits.reading, folds=origin.run["folds"], origin=origin
    )
    status = learn(wanted, origin.recipe, interrupts, began)
    return status or told(origin, Outputs(options.name).roll, say)


def told(origin: Origin, made: Path, say) -> int:
    """Says how the new roll differs from the old one; the exit status."""
    difference = compare(origin.path, made)
    if difference.same_bits:
        say(f"the same came out, bit for bit: {difference.numbers} numbers of {shown(origin.path)}")
        return 0
    largest = f"largest difference {difference.largest:.3g}, of numbers up to {difference.scale:.3g}"
    if origin.rounded and difference.largest <= ROUNDING * difference.scale:
        say(f"the same to rounding ({largest}): {origin.rounded}")
        return 0
    say(f"another roll came out: {shown(made)} is not {shown(origin.path)} ({largest})")
    old, new = origin.card.metrics, load_roll(made).card.metrics
    for split in ("train", "valid", "test"):
        if old.get(split) and new.get(split):
            say(f"  {split}: log-loss {rounded(old[split]['log-loss'])} then, {rounded(new[split]['log-loss'])} now")
    return DIFFERENT


def compare(old: Path, new: Path) -> Difference:
    """Array by array. Bits count: a NaN equals itself, and 0.0 is not -0.0."""
    then, now = (
        {name: np.asarray(leaf) for name, leaf in flatten(load_roll(path).tree).items()} for path in (old, new)
    )
    numbers = sum(array.size for array in then.values())
    scale = max((float(np.abs(array.astype(np.float64)).max()) for array in then.values() if array.size), default=0.0)
    form = lambda arrays: {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if form(then) != form(now):
        return Difference(False, numbers, float("inf"), scale)
    same = all(then[name].tobytes() == now[name].tobytes() for name in then)
    apart = lambda name: np.abs(then[name].astype(np.float64) - now[name].astype(np.float64))
    largest = max((float(apart(name).max()) for name in then if then[name].size), default=0.0)
    return Difference(same, numbers, largest, scale)
