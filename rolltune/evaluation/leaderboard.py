"""The rolls ranked by the metric the person named, with intervals and plain warnings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from rolltune import atomic
from rolltune.errors import UserError
from rolltune.evaluation.figures import TITLES, Figures, Scored, check_name, measured, no_better, order, reason
from rolltune.evaluation.metrics import Metrics, Prediction, measure, rounded
from rolltune.evaluation.statistics import Interval, compare, interval, mcnemar, winners_curse, written_curse
from rolltune.evaluation.votes import Vote, best_few, mean_of
from rolltune.evaluation.written import Written, WrittenMetrics

STATES = ("alive", "died", "redrawn", "stopped")
VOTE = "vote"  # what `--keep` calls the best few


@dataclass(frozen=True)
class Status:
    """How a roll ended. `step` and `reason` are given for all but "alive".

    "alive" ran to the end; "died" diverged or collapsed and was masked; "redrawn" died and its slot
    was drawn again, as another entry with another seed; "stopped" lost to others on the way.
    """

    state: str = "alive"
    step: int | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"a roll's state is one of {', '.join(STATES)}, not {self.state!r}")

    def __str__(self) -> str:
        if self.state == "alive":
            return "alive"
        at = f" at step {self.step}" if self.step is not None else ""
        verb, ending = ("died", "; drawn again") if self.state == "redrawn" else (self.state, "")
        return verb + at + (f": {self.reason}" if self.reason else "") + ending


@dataclass(frozen=True)
class Entry:
    """One roll. `train` and `valid` are None where it was not evaluated; `test` is of the chosen one only.

    `attempt` counts how often its slot died before: from 1 on it was trained at a lower rate than was first drawn.
    """

    roll: int
    seed: int
    learning_rate: float
    status: Status = Status()
    train: Figures | None = None
    valid: Figures | None = None
    prediction: Scored | None = None  # of the rows it is ranked on, for the test of best against second
    test: Figures | None = None
    settings: Mapping[str, object] = field(default_factory=dict)  # what else differs: alpha, weight decay, fold
    attempt: int = 0

    @property
    def ranked_on(self) -> Figures | None:
        return self.valid if self.valid is not None else self.train


@dataclass(frozen=True)
class Leaderboard:
    """`entries`, best first: those that ran to the end, then the others by number, which have no rank."""

    metric: str
    split: str  # what they are ranked on: "valid", or "train" without validation rows
    entries: tuple[Entry, ...]
    ranked: int  # the first `ranked` entries have ranks 1..ranked
    notes: tuple[str, ...]
    votes: tuple[Vote, ...] = ()  # of several rolls together; they have no rank

    @property
    def chosen(self) -> Entry | None:
        return self.entries[0] if self.ranked else None

    @property
    def ends(self) -> tuple[str, ...]:
        """How the rolls ended that did not run to the end."""
        return tuple(f"roll {entry.roll} {entry.status}" for entry in self.entries if entry.status.state != "alive")

    def keep(self, how_many: str) -> Mapping[int, Entry]:
        """rank -> the entry, of those that `--keep best|all|vote|N` saves. Where there is no vote it is the best."""
        ranks = dict(enumerate(self.entries[: self.ranked], 1))
        if how_many == VOTE:
            members = next((vote.rolls for vote in self.votes if vote.selected), ())
            return {rank: entry for rank, entry in ranks.items() if rank == 1 or entry.roll in members}
        count = keep_count(how_many)
        return {rank: entry for rank, entry in ranks.items() if count is None or rank <= count}


def keep_count(how_many: str) -> int | None:
    """How many rolls `--keep best|all|vote|N` may save, None for all. Raises UserError for anything else."""
    if how_many in ("all", VOTE):
        return None
    count = 1 if how_many == "best" else int(how_many) if how_many.isdecimal() else 0
    if count < 1:
        raise UserError(f"--keep takes best, all, vote or a number from 1, not {how_many!r}")
    return count


def rank(entries: Sequence[Entry], metric: str = "f-measure") -> Leaderboard:
    """Ranks on the validation rows (on the training rows where no entry has others, which is said).

    Higher is better but for log-loss. An undefined figure ranks below every defined one. Ties go to
    the lower log-loss on the same rows, then to the lower roll number, and the notes say so.
    """
    check_name(metric)
    if len({entry.roll for entry in entries}) != len(entries):
        raise ValueError("two entries have the same roll number")
    split = "valid" if any(entry.valid is not None for entry in entries) else "train"
    able = [entry for entry in entries if entry.status.state == "alive" and getattr(entry, split) is not None]
    able.sort(key=lambda entry: _order(entry, split, metric))
    chosen = {entry.roll for entry in able}
    others = sorted((entry for entry in entries if entry.roll not in chosen), key=lambda entry: entry.roll)
    notes = _notes(able, others, split, metric)
    return Leaderboard(metric, split, (*able, *others), len(able), tuple(notes))


def with_test(board: Leaderboard, prediction: Scored) -> Leaderboard:
    """The board with the chosen roll's figures on the untouched split, and how they compare with the ranking's."""
    if board.chosen is None:
        raise ValueError("no roll was chosen, so none can be tested")
    best = board.chosen
    figures: Figures = getattr(best, board.split)
    test = measured(prediction, figures.positive if isinstance(figures, Metrics) else None)
    seen, new = figures.figure(board.metric), test.figure(board.metric)
    note = (
        f"on the untouched split ({test.n} pictures) roll {best.roll} has {board.metric} {rounded(new)}"
        f"{_around(interval(test, board.metric))}, against {rounded(seen)} on the pictures that chose it"
    )
    others = board.entries[board.ranked :]
    notes = _notes(board.entries[: board.ranked], others, board.split, board.metric, tested=True)
    return replace(board, entries=(replace(best, test=test), *board.entries[1:]), notes=(note, *notes))


def with_votes(board: Leaderboard, tests: Mapping[int, Scored]) -> Leaderboard:
    """The board with the votes of all rolls that ran to the end, and of the best few (`votes.best_few`).

    `tests` has what each roll (by number) makes of the untouched split; empty where there is none. Nothing is added
    for fewer than two rolls, for written answers, and where the rolls are scored on different rows (folds).
    """
    able = board.entries[: board.ranked]
    ranked = [entry.prediction for entry in able if isinstance(entry.prediction, Prediction)]
    if len(able) < 2 or len(ranked) < len(able) or len({one.ids for one in ranked}) > 1:
        return board
    figures = getattr(able[0], board.split)
    few = best_few(ranked)
    votes, notes = [], []
    for places, selected in ((list(range(len(able))), False), (few, True)):
        if selected and len(places) == 1:
            notes.append(
                f"no second roll lowers the log-loss of roll {able[0].roll} on the pictures that rank, by voting"
            )
            continue
        rolls = tuple(able[place].roll for place in places)
        on_ranking = measure(mean_of([ranked[place] for place in places]), figures.positive)
        test = mean_of([tests[roll] for roll in rolls]) if tests else None  # type: ignore[misc]
        votes.append(Vote(rolls, selected, on_ranking, test and measure(test, figures.positive)))
        notes.append(_vote_note(votes[-1], board, test, tests.get(able[0].roll)))
    return replace(board, votes=tuple(votes), notes=(*board.notes, *notes))


def _vote_note(vote: Vote, board: Leaderboard, test: Prediction | None, best: Scored | None) -> str:
    """What a vote is worth, beside the best roll alone: on the untouched split where there is one."""
    metric, first = board.metric, board.entries[0]
    who = f"{_rolls(vote.rolls)} together, chosen on the pictures that rank," if vote.selected else "all rolls together"
    told = lambda figures: f"{metric} {rounded(figures.figure(metric))}{_around(interval(figures, metric))}"
    if test is None or vote.test is None or not isinstance(best, Prediction):
        flattered = "; that flatters them: they were chosen by it" if vote.selected else ""
        return f"{who} have {told(vote.ranked_on)} there, the best alone {told(getattr(first, board.split))}{flattered}"
    alone = measure(best, vote.test.positive if isinstance(vote.test, Metrics) else None)
    paired = mcnemar(test, best)
    return (
        f"on the untouched split {who} have {told(vote.test)}, the best alone {told(alone)}: right where it is wrong "
        f"{paired.only_first} times, the reverse {paired.only_second} times (p = {paired.p:.2g})"
    )


def _order(entry: Entry, split: str, metric: str) -> tuple[float, float, int]:
    return *order(getattr(entry, split), metric), entry.roll


def _around(bounds: Interval | None) -> str:
    return f" (95 %: {bounds})" if bounds else ""


def _notes(able: Sequence[Entry], others: Sequence[Entry], split: str, metric: str, tested: bool = False) -> list[str]:
    notes = []
    if split == "train":
        notes.append(
            "ranked on the training pictures, for there are no others: this says nothing about new pictures "
            "(keep some aside: 02-shuffle_data.sh -v N)"
        )
    if not able:
        return [*notes, "no roll ran to the end: nothing is chosen (lower the learning rate)"]
    best: Figures = getattr(able[0], split)
    if best.figure(metric) is None:
        why = reason(best, metric)
        notes.append(f"{metric} is undefined for every roll ({why}): they are ranked by log-loss alone")
    collapses = [entry.roll for entry in able if getattr(entry, split).collapsed is not None]
    if collapses:
        gives = "gives" if len(collapses) == 1 else "give"
        notes.append(f"{_rolls(collapses)} {gives} every picture the same answer")
    if poor := no_better(best, "the best"):
        notes.append(poor)
    if len(able) > 1:
        notes += _comparison(able, others, split, metric, tested)
    return notes


def _comparison(able: Sequence[Entry], others: Sequence[Entry], split: str, metric: str, tested: bool) -> list[str]:
    notes, first, second = [], able[0], able[1]
    if _order(first, split, metric)[0] == _order(second, split, metric)[0]:
        level = [e.roll for e in able if _order(e, split, metric)[0] == _order(first, split, metric)[0]]
        by = "the lower log-loss" if metric != "log-loss" else "the lower number"
        if _order(first, split, metric)[:2] == _order(second, split, metric)[:2]:
            by = "the lower number, their log-loss being equal too"
        notes.append(f"{_rolls(level)} are level in {metric}; ranked by {by}")
    # A roll stopped for losing was compared as well: it counts among those that the best was chosen from.
    compared = list(able) + [e for e in others if e.status.state == "stopped" and getattr(e, split) is not None]
    k = len(compared)
    if first.prediction is not None and second.prediction is not None:
        if sorted(first.prediction.ids) == sorted(second.prediction.ids):
            outcome = compare(first.prediction, second.prediction, k, metric)
            notes += [outcome] if outcome else []
        else:  # folds
            return [*notes, "the rolls are scored on different pictures: their order tells of the pictures too"]
    curse = _curse(compared, getattr(first, split), split, metric, tested)
    return [*notes, curse] if curse else notes


def _curse(compared: Sequence[Entry], best: Figures, split: str, metric: str, tested: bool) -> str | None:
    """The warning about luck: exactly for a share of rows, drawn again for a mean of log-losses or likenesses."""
    if isinstance(best, WrittenMetrics) and metric != best.share:
        written = [entry.prediction for entry in compared if isinstance(entry.prediction, Written)]
        same = len({tuple(sorted(one.ids)) for one in written}) == 1
        return written_curse(written, metric, tested=tested) if same else None
    shares = [getattr(entry, split).figure(best.share) for entry in compared]
    if None in shares:
        return None
    return winners_curse(len(compared), best.n, float(np.mean(shares)), tested=tested, name=TITLES[best.share])


def _rolls(numbers: Sequence[int]) -> str:
    """In words: roll 3; rolls 1, 2 and 5."""
    if len(numbers) == 1:
        return f"roll {numbers[0]}"
    return f"rolls {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def table(board: Leaderboard) -> Table:
    """For the terminal; fits 80 columns. Why rolls died stands in `ends`."""
    title = f"rolls by {board.metric}, {'validation' if board.split == 'valid' else 'training'} pictures"
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    extra = names_beside(board)
    own = settings_of(board)
    for heading in ("", "roll", "seed", "rate", *own.values(), "train", board.metric):
        out.add_column(heading, justify="right", no_wrap=True)
    out.add_column("95 %", justify="center", no_wrap=True)
    for heading in extra:
        out.add_column(heading, justify="right", no_wrap=True)
    out.add_column("state", no_wrap=True)
    for place, entry in enumerate(board.entries):
        metrics, is_ranked = getattr(entry, board.split), place < board.ranked
        cells = [str(place + 1) if is_ranked else "", str(entry.roll), str(entry.seed), f"{entry.learning_rate:.3g}"]
        cells += [setting_text(entry, name) for name in own]
        cells += [_short(entry.train, board.metric), _short(metrics, board.metric), _bounds(metrics, board.metric)]
        cells += [_short(metrics, name) for name in extra]
        state = entry.status.state + (f" {entry.status.step}" if entry.status.step is not None else "")
        style = "dim" if not is_ranked else "bold" if place == 0 else None
        out.add_row(*cells, state, style=style)
    for vote in board.votes:
        figures = vote.ranked_on
        cells = ["", vote.title, "", "", *("" for _ in own), "", _short(figures, board.metric)]
        cells += [_bounds(figures, board.metric), *(_short(figures, name) for name in extra)]
        out.add_row(*cells, vote_state(vote))
    return out


def vote_state(vote: Vote) -> str:
    """What stands in the place of a roll's state."""
    return "vote, chosen here" if vote.selected else "vote"


def names_beside(board: Leaderboard) -> list[str]:
    """The figures that are shown beside the one that ranks."""
    measured = next((figures for entry in board.entries if (figures := getattr(entry, board.split))), None)
    return [] if measured is None else [name for name in measured.beside if name != board.metric]


def settings_of(board: Leaderboard) -> dict[str, str]:
    """What differs by roll beside seed and rate, with its heading."""
    names = dict.fromkeys(name for entry in board.entries for name in entry.settings)
    return {name: name.removeprefix("weight_") for name in names}


def setting_text(entry: Entry, name: str) -> str:
    value = entry.settings.get(name, "")
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _short(figures: Figures | None, name: str) -> str:
    return "" if figures is None else rounded(figures.figure(name)).replace("undefined", "undef.")


def _bounds(figures: Figures | None, name: str) -> str:
    bounds = None if figures is None else interval(figures, name)
    return "" if bounds is None else f"{bounds.low:.2f}-{bounds.high:.2f}"


def to_json(board: Leaderboard) -> dict[str, object]:
    """Plain figures with their intervals; no scores of single rows."""
    return {
        "metric": board.metric,
        "ranked_on": board.split,
        "chosen": None if board.chosen is None else board.chosen.roll,
        "notes": list(board.notes),
        "ends": list(board.ends),
        "rolls": [_entry_json(entry, place, board) for place, entry in enumerate(board.entries)],
        "votes": [_vote_json(vote, board.split) for vote in board.votes],
    }


def _entry_json(entry: Entry, place: int, board: Leaderboard) -> dict[str, object]:
    figures = {name: metrics_json(getattr(entry, name)) for name in ("train", "valid", "test")}
    return {
        "rank": place + 1 if place < board.ranked else None,
        "roll": entry.roll,
        "seed": entry.seed,
        "learning_rate": entry.learning_rate,
        "settings": dict(entry.settings),
        "state": entry.status.state,
        "step": entry.status.step,
        "reason": entry.status.reason,
        **figures,
    }


def _vote_json(vote: Vote, split: str) -> dict[str, object]:
    figures = {split: metrics_json(vote.ranked_on), "test": metrics_json(vote.test)}
    return {"rolls": list(vote.rolls), f"chosen_on_{split}": vote.selected, **figures}


def metrics_json(figures: Figures | None) -> dict[str, object] | None:
    """Figures, counts and intervals; what is undefined is null, and `undefined` says why."""
    if figures is None:
        return None
    bounds = {name: interval(figures, name) for name in figures.names}
    return {
        "n": figures.n,
        **{name: figures.figure(name) for name in figures.names},
        **figures.facts(),
        "interval_95": {name: bound._asdict() for name, bound in bounds.items() if bound is not None},
        "undefined": dict(figures.undefined),
    }


def write(path: str | Path, board: Leaderboard) -> None:
    atomic.write_json(path, to_json(board))
