"""Out-of-fold predictions put together, and figures over several seeds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rolltune.errors import UserError
from rolltune.evaluation.metrics import NAMES, Metrics, Prediction, rounded


def out_of_fold(ids: Sequence[str], folds: Sequence[Prediction]) -> Prediction:
    """The folds' predictions of their held-out rows as one prediction in the order of `ids`.

    Every id must be predicted by exactly one fold: one that is missing or predicted twice would make
    the figures those of other data.
    """
    if not folds:
        raise ValueError("there are no folds")
    answers = folds[0].answers
    for number, fold in enumerate(folds):
        if fold.answers != answers:
            raise ValueError(f"fold {number} has the answers {fold.answers}, fold 0 {answers}")
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
    order = [places[id] for id in ids]
    label = np.concatenate([fold.label for fold in folds])[order]
    return Prediction(tuple(ids), answers, label, np.concatenate([fold.log_probs for fold in folds])[order])


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


def over_seeds(measured: Sequence[Metrics]) -> Mapping[str, Spread]:
    """Each named figure over the seeds of `--repeat`: one Metrics a seed."""
    return {name: spread([metrics.figure(name) for metrics in measured]) for name in NAMES}


def seeds_text(spreads: Mapping[str, Spread]) -> str:
    return "\n".join(f"  {name + ':':<10} {value}" for name, value in spreads.items())
