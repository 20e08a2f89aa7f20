"""Past runs beside each other, from what their rolls' cards say: who stands where on which rows, and what differs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rolltune import plain_csv, plain_json
from rolltune.evaluation.figures import TITLES
from rolltune.evaluation.metrics import rounded
from rolltune.evaluation.statistics import Interval, winners_curse

SPLITS = ("test", "valid", "train")  # the one that says most first
SHARES = ("accuracy", "exact-match")  # figures that are shares of rows


@dataclass(frozen=True)
class Judged:
    """The saved figures of a roll on the rows of one split.

    `rows` tells them from others: equal texts mean the same rows. `learned` is how many of them the roll had learned
    from, in any of its passes; None where that was not written down.
    """

    split: str
    path: str
    rows: str
    figures: Mapping[str, Any]  # as `leaderboard.metrics_json` makes them
    learned: int | None = None

    @property
    def n(self) -> int:
        return self.figures["n"]

    def figure(self, name: str) -> float | None:
        return self.figures.get(name)

    def interval(self, name: str) -> Interval | None:
        bounds = self.figures.get("interval_95", {}).get(name)
        return None if bounds is None else Interval(bounds["low"], bounds["high"], bounds["method"])

    @property
    def mark(self) -> str:
        """Stands behind figures that are no forecast: "*" learned from, "?" not known."""
        return "?" if self.learned is None else "*" if self.learned else ""


@dataclass(frozen=True)
class Run:
    """One saved roll. `entries` are what it was made with, by name; `judged` None where it has no figures."""

    name: str
    seed: int
    size: int  # bytes
    date: str
    entries: Mapping[str, Any]
    judged: Judged | None


@dataclass(frozen=True)
class Standing:
    """Runs that the same rows judge, best first: those that had not learned from them, which alone have ranks, then
    the others."""

    split: str
    path: str
    metric: str
    runs: tuple[Run, ...]
    ranked: int  # the first `ranked` have ranks 1..ranked

    @property
    def names(self) -> list[str]:
        """The figures that are shown: the one that ranks, the share of right rows, the log-loss."""
        there = {name for one in self.judged for name in TITLES if one.figure(name) is not None}
        beside = [name for name in (*SHARES, "log-loss") if name in there and name != self.metric]
        return [self.metric, *beside]

    @property
    def judged(self) -> list[Judged]:
        return [run.judged for run in self.runs if run.judged is not None]

    @property
    def title(self) -> str:
        what = {
            "test": "pictures, kept aside from training and choosing",
            "valid": "validation pictures",
            "train": "the pictures that were learned from",
        }[self.split]
        return f"{TITLES[self.metric]} on {self.path}: {self.judged[0].n} {what}"

    @property
    def notes(self) -> list[str]:
        marks = [one.mark for one in self.judged]
        notes = ["* had learned from these pictures, or some of them: no forecast, and no rank"] if "*" in marks else []
        notes += ["? whether it had learned from these was not written down: no rank"] if "?" in marks else []
        if self.split == "valid" and self.ranked:
            notes.append(
                "among the rolls of a run these pictures chose, which flatters: keep others aside "
                "(02-shuffle_data.sh -t N)"
            )
        clean = self.judged[: self.ranked]
        first = clean[0].interval(self.metric) if clean else None
        if first and (level := [one for one in clean[1:] if _overlap(first, one.interval(self.metric))]):
            notes.append(f"{len(level)} of the others may be as good as the first: their 95 % intervals overlap")
        share = next((name for name in SHARES if clean and all(one.figure(name) is not None for one in clean)), None)
        if share:
            mean = sum(one.figures[share] for one in clean) / len(clean)
            curse = winners_curse(len(clean), clean[0].n, mean, tested=True, name=TITLES[share])
            notes += [curse] if curse else []
        return notes


def _overlap(first: Interval, other: Interval | None) -> bool:
    return other is not None and other.high >= first.low and first.high >= other.low


def standings(runs: Sequence[Run], metric: str) -> list[Standing]:
    """The runs, those together that the same rows judge; the untouched splits first, and what judges most runs."""
    together: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.judged is not None:
            together.setdefault((run.judged.split, run.judged.rows), []).append(run)
    found = []
    for (split, _), some in together.items():
        some.sort(key=lambda run: _order(run, metric))
        first = some[0].judged
        assert first is not None
        ranked = sum(run.judged is not None and not run.judged.mark and _known(run, metric) for run in some)
        found.append(Standing(split, first.path, metric, tuple(some), ranked))
    return sorted(found, key=lambda one: (SPLITS.index(one.split), -len(one.runs), one.path))


def _known(run: Run, metric: str) -> bool:
    return run.judged is not None and run.judged.figure(metric) is not None


def _order(run: Run, metric: str) -> tuple[bool, bool, float, float, str]:
    """Marked ones and undefined figures come last; of equals the lower log-loss, then the name."""
    assert run.judged is not None
    value, loss = run.judged.figure(metric), run.judged.figure("log-loss")
    worth = 0.0 if value is None else value if metric == "log-loss" else -value
    return bool(run.judged.mark), value is None, worth, float("inf") if loss is None else loss, run.name


@dataclass(frozen=True)
class Difference:
    """An entry that is not the same in all runs; `commonest` is None where no value is that of two."""

    name: str
    commonest: str | None
    texts: Mapping[str, str]  # run -> its value, as it is written


def differences(runs: Sequence[Run]) -> list[Difference]:
    """The entries that differ between the runs, in the order of the recipe."""
    found = []
    for name in dict.fromkeys(name for run in runs for name in run.entries):
        texts = {run.name: value_text(run.entries.get(name)) for run in runs}
        ((text, count),) = Counter(texts.values()).most_common(1)
        if count < len(runs):
            found.append(Difference(name, text if count > 1 else None, texts))
    return found


def value_text(value: Any) -> str:
    """A value of a recipe in one line: text as it is, nothing as "none"."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value)) or "none"
    if isinstance(value, Mapping):
        return plain_json.dumps(dict(value))
    return str(value) if value not in ("", None) else "none"


def rows_of(found: Sequence[Standing], unjudged: Sequence[Run], differing: Sequence[Difference]) -> list[dict]:
    """A line a run, in the order of the tables: plain values, for programs and spreadsheets."""
    lines = []
    for standing in found:
        for place, run in enumerate(standing.runs):
            assert run.judged is not None
            rank = place + 1 if place < standing.ranked else None
            lines.append(_line(run, differing) | {"rank": rank} | _figures(run.judged))
    return lines + [_line(run, differing) for run in unjudged]


def _line(run: Run, differing: Sequence[Difference]) -> dict[str, Any]:
    told = {"rank": None, "run": run.name, "date": run.date, "bytes": run.size, "seed": run.seed}
    return told | {f"recipe.{one.name}": run.entries.get(one.name) for one in differing}


def _figures(judged: Judged) -> dict[str, Any]:
    told: dict[str, Any] = {"split": judged.split, "data": judged.path, "rows": judged.n, "learned": judged.learned}
    for name in TITLES:
        if name in judged.figures:
            bounds = judged.interval(name)
            told[name] = judged.figure(name)
            told |= {f"{name} low": bounds.low, f"{name} high": bounds.high} if bounds else {}
    return told


def to_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """A column each for what any line has."""
    columns = list(dict.fromkeys(name for line in lines for name in line if not name.startswith("recipe.")))
    columns += list(dict.fromkeys(name for line in lines for name in line if name.startswith("recipe.")))
    return plain_csv.dumps(columns, lines)


def figure_text(judged: Judged, name: str) -> str:
    return rounded(judged.figure(name)) + judged.mark
