"""Out-of-fold predictions put together, and figures over several seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from rolltune.errors import UserError
from rolltune.evaluation.figures import Figures, shown_names
from rolltune.evaluation.leaderboard import Entry
from rolltune.evaluation.metrics import Prediction, rounded
from rolltune.evaluation.written import Written

Rows = TypeVar("Rows", Prediction, Written)


def out_of_fold(ids: Sequence[str], folds: Sequence[Rows]) -> Rows:
    """The folds' predictions of their held-out rows as one prediction in the order of `ids`.

    Every id must be predicted by exactly one fold: one that is missing or predicted twice would make
    the figures those of other data.
    """
    if not folds:
        raise ValueError("there are no folds")
    found = [id for fold in folds for id in fold.ids]
    places = {id: place for place, id in enumerate(found)}
    twice = len(found) - len(places)
    missing = [id for id in ids if id not in places]
    extra = places.keys() - set(ids)
    if twice or missing or extra or len(set(ids)) != len(ids):
        named = f" (first missing: {missing[0]})" if missing else f" (first unknown: {min(extra)})" if extra else ""
        raise UserError(
            f"{len(ids)} rows must be held out in one fold each, but {len(missing)} are in none, {twice} in more than "
            f"one and {len(extra)} are not among the rows{named}. Make the folds again from this data."
        )
    return type(folds[0]).join(folds).at([places[id] for id in ids])


class Spread(NamedTuple):
    """A figure over several seeds. `undefined` seeds had none and are left out."""

    n: int
    mean: float | None
    sd: float | None  # of the sample (n - 1); None for fewer than two
    low: float | None
    high: float | None
    undefined: int = 0

    def __str__(self) -> str:
        if not self.n:
            return f"undefined for all {self.undefined} seeds"
        text = f"{rounded(self.mean)} ({rounded(self.low)} to {rounded(self.high)}, {self.n} seeds"
        text += f", sd {rounded(self.sd)}" if self.sd is not None else ""
        return text + (f"; undefined for {self.undefined} more)" if self.undefined else ")")


def spread(values: Sequence[float | None]) -> Spread:
    kept = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(kept):
        return Spread(0, None, None, None, None, len(values))
    sd = float(kept.std(ddof=1)) if len(kept) > 1 else None
    return Spread(len(kept), float(kept.mean()), sd, float(kept.min()), float(kept.max()), len(values) - len(kept))


class Counted(NamedTuple):
    """The rolls whose figures tell what another seed does, and a sentence that says which they are."""

    entries: tuple[Entry, ...]
    sentence: str


def counted_seeds(entries: Sequence[Entry]) -> Counted:
    """Which rolls of `--repeat` count for the spread over seeds: those that ran to the end as they were first drawn.

    A roll that was drawn again has a lower rate than the others: its figures are those of another recipe. One that
    died, collapsed or was stopped has no final figures. Without them the recipe looks better than it is, so the
    sentence names them; it also says where the rolls differ in more than their seed.
    """
    alive = [entry for entry in entries if entry.status.state == "alive" and entry.ranked_on is not None]
    counted = tuple(entry for entry in alive if not entry.attempt)
    left = [f"roll {entry.roll} ({entry.status})" for entry in entries if entry.status.state != "alive"]
    left += [f"roll {entry.roll} (drawn again at a lower rate)" for entry in alive if entry.attempt]
    tickets = sum(not entry.attempt for entry in entries)
    sentence = f"over the seeds of {len(counted)} of the {tickets} rolls that were first drawn"
    if left:
        sentence += f"; left out: {', '.join(left)}: the recipe does worse than these figures say"
    own = [{"rate": entry.learning_rate, **entry.settings} for entry in counted]
    differ = [name for name in (own[0] if own else {}) if len({str(one.get(name)) for one in own}) > 1]
    if differ:
        sentence += f". The rolls differ in {' and '.join(differ)} too, so the spread is not of seeds alone"
    return Counted(counted, sentence)


def seeds_block(entries: Sequence[Entry]) -> str:
    """The spread over the seeds of `--repeat` as it is printed: which rolls count, and their figures."""
    counted, sentence = counted_seeds(entries)
    measured = [entry.ranked_on for entry in counted if entry.ranked_on is not None]
    return f"{sentence}:\n{seeds_text(over_seeds(measured))}" if measured else sentence


def over_seeds(measured: Sequence[Figures]) -> Mapping[str, Spread]:
    """Each named figure over the seeds of `--repeat`: one Figures a seed, all of one kind, of one at least."""
    return {name: spread([figures.figure(name) for figures in measured]) for name in shown_names(measured)}


def seeds_text(spreads: Mapping[str, Spread]) -> str:
    width = max(len(name) for name in spreads) + 1
    return "\n".join(f"  {name + ':':<{width}} {value}" for name, value in spreads.items())
