"""Past runs beside each other, from the cards of their rolls: no model is loaded, and no data read."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rolltune import atomic
from rolltune.data.sets import shown
from rolltune.errors import UserError
from rolltune.evaluation import runs as comparing
from rolltune.evaluation.figures import TITLES, check_name
from rolltune.evaluation.runs import SPLITS, Judged, Run
from rolltune.evaluation.runs_page import TITLE, Comparison, page, tables
from rolltune.jobs.cards import recipe_of
from rolltune.jobs.outputs import RANKED, named_rolls
from rolltune.tracking import print_table
from rolltune.weights.card import RollCard, is_count, is_whole_number
from rolltune.weights.roll_file import read_card
from rolltune.weights.whole import ENDING, is_whole

Say = Callable[[str], None]
SOME_UNREAD = 1  # exit status
# Entries of a recipe that say where, or how fast: they make no other roll. The seed has a column of its own.
LEFT_OUT = ("model", "tokenizer", "prompt", "answers", "seed", "rates", "rate_range", "alphas", "weight_decays")
LEFT_OUT += ("table_gib", "evaluate_batch", "log_every")


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of 10-compare_runs.py."""

    page: Path
    metric: str = ""  # empty: what ranked the rolls of most runs
    csv: Path | None = None
    json: Path | None = None


def compare_runs(named: Sequence[str], options: Options, say: Say) -> int:
    """Prints the tables and writes the page; 0, or 1 where a file could not be read: the others are compared."""
    if options.metric:
        check_name(options.metric)
    _check_files(options)
    cards, problems = read_cards(found_rolls(named, say))
    for problem in problems:
        say(f"not read: {problem}")
    if not cards:
        return SOME_UNREAD
    runs = runs_of(cards)
    metric = options.metric or _usual_metric(cards)
    unjudged = [run for run in runs if run.judged is None]
    differing = comparing.differences(runs)
    made = Comparison(comparing.standings(runs, metric), unjudged, differing, problems)
    for table, notes in tables(made):
        print_table(table)
        for note in notes:
            say(f"  {note}")
    lines = comparing.rows_of(made.standings, unjudged, differing)
    if options.csv:
        atomic.write_bytes(options.csv, comparing.to_csv(lines).encode("utf-8", "backslashreplace"))
        say(f"written: {shown(options.csv)}")
    if options.json:
        atomic.write_json(options.json, {"metric": metric, "runs": lines, "not_read": problems})
        say(f"written: {shown(options.json)}")
    atomic.write_bytes(options.page, page(made).encode("utf-8", "backslashreplace"))
    say(f"page: {shown(options.page)}")
    return SOME_UNREAD if problems else 0


def _check_files(options: Options) -> None:
    """Raises UserError where what is to be written can't be, or another file is there, such as the report of a run that
    is called "runs"."""
    atomic.check_result(options.page, f"(?s).*<title>{re.escape(TITLE)}</title>", "--html")
    for path, begins in ((options.csv, "rank,run,date,"), (options.json, r'\{\s*"metric": .*\s*"runs": ')):
        if path:
            atomic.check_result(path, begins)


def found_rolls(named: Sequence[str], say: Say) -> list[Path]:
    """The rolls that are meant: of a folder the best of each run, else what the names and patterns mean."""
    paths: list[Path] = []
    for one in named:
        folder = Path(one)
        if not folder.is_dir():
            paths += named_rolls([one])
            continue
        there = sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
        if not there:
            raise UserError(f"{shown(folder)}: there is no roll (.npz); 03-do_learn.py saves them in ./checkpoints")
        # A whole model has the card of the roll that was worked into it, which mostly lies beside it.
        names = {path.name for path in there}
        worked_in = [path for path in there if is_whole(path) and f"{path.name.removesuffix(ENDING)}.npz" in names]
        further = [path for path in there if RANKED.search(path.stem)]
        paths += [path for path in there if path not in (*worked_in, *further)]
        if further:
            pattern = f"{folder.as_posix()}/*.npz"
            say(f"{len(further)} further rolls of these runs are left out; '{pattern}' compares them, too")
    return list(dict.fromkeys(paths))


def read_cards(paths: Sequence[Path]) -> tuple[dict[Path, tuple[RollCard, Run]], list[str]]:
    """(path -> its card and what it says, what is wrong with the other files)."""
    found, problems = {}, []
    for path in paths:
        try:
            card = read_card(path)
            found[path] = card, _run(path, card)
        except UserError as error:
            problems.append(str(error))
    return found, problems


def _run(path: Path, card: RollCard) -> Run:
    """Raises UserError for a card that holds what no card can."""
    recipe = recipe_of(card, shown(path))
    entries: dict[str, Any] = {"base": card.base.name, "prompt": card.prompt, "answers": list(card.answers)}
    files, facts = card.metrics.get("files", {}), card.metrics.get("run")
    entries["trained on"] = files.get("train", {}).get("path", "")
    entries |= {name: value for name, value in dataclasses.asdict(recipe).items() if name not in LEFT_OUT}
    entries["pass"] = card.metrics.get("passes", 1)
    if isinstance(facts, Mapping):
        entries |= {name: facts.get(name) for name in ("rolls", "folds", "fold")}
    stat = path.stat()
    date = datetime.fromtimestamp(stat.st_mtime).strftime("%Y-%m-%d %H:%M")
    return Run(shown(path), card.seed, stat.st_size, date, entries, judged_of(card, shown(path)))


def judged_of(card: RollCard, source: str) -> Judged | None:
    """The figures that say most: of the untouched split, else of the validation rows, else of the training rows."""
    files, known = card.metrics.get("files", {}), card.metrics.get("known")
    for split in SPLITS:
        figures = card.metrics.get(split)
        if figures is None:
            continue
        _check_figures(figures, f"{source}: its figures of {split}")
        path, rows = str(files.get(split, {}).get("path", split)), files.get(split, {}).get("rows")
        run = card.metrics.get("run")
        if split == "valid" and isinstance(run, Mapping) and run.get("fold") is not None:
            # A fold's own rows, out of all that are no test rows.
            path = f"{files.get('train', {}).get('path', 'all rows')}, fold {run['fold']} of {run.get('folds')}"
            rows = f"{path} by {run.get('seed')}: {files.get('train', {}).get('rows')} {rows}"
        learned = figures["n"] if split == "train" else known.get(split) if isinstance(known, Mapping) else None
        if learned is not None and not (is_whole_number(learned) and learned >= 0):
            raise UserError(f"{source}: metrics.known of {split} is {learned!r}, no number of rows: it was damaged")
        # The log-loss of one of few answers and that of a text are no figures of one kind.
        kind = "written" if "exact-match" in figures else "chosen"
        return Judged(split, path, f"{rows or path} {figures['n']} {kind}", figures, learned)
    return None


def _check_figures(figures: Any, what: str) -> None:
    is_number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    right = isinstance(figures, Mapping) and is_count(figures.get("n"))
    if right:
        right = all(figures.get(name) is None or is_number(figures[name]) for name in TITLES)
        bounds = figures.get("interval_95", {})
        right &= isinstance(bounds, Mapping) and all(
            isinstance(one, Mapping)
            and all(is_number(one.get(end)) for end in ("low", "high"))
            and isinstance(one.get("method"), str)
            for one in bounds.values()
        )
    if not right:
        raise UserError(f"{what} are no figures: the file was damaged, or written by another program")


def runs_of(cards: Mapping[Path, tuple[RollCard, Run]]) -> list[Run]:
    """The runs; where one name means several bases or data sets, they are told apart by a part of their digests."""
    bases = _told_apart([(card.base.name, card.base.hash[:8]) for card, _ in cards.values()])
    digest = lambda card: str(card.metrics.get("files", {}).get("train", {}).get("rows", ""))
    trained = _told_apart([(str(run.entries["trained on"]), digest(card)) for card, run in cards.values()])
    return [
        dataclasses.replace(run, entries={**run.entries, "base": base, "trained on": data})
        for (_, run), base, data in zip(cards.values(), bases, trained, strict=True)
    ]


def _told_apart(named: Sequence[tuple[str, str]]) -> list[str]:
    """Each name; with its digest where there are several of that name."""
    several = Counter(name for name, _ in set(named))
    return [f"{name} ({digest})" if several[name] > 1 else name for name, digest in named]


def _usual_metric(cards: Mapping[Path, tuple[RollCard, Run]]) -> str:
    """What ranked the rolls of most runs, where all with figures have it; else the log-loss, which all have."""
    asked = Counter(run.entries.get("metric") for _, run in cards.values() if run.judged is not None)
    most = asked.most_common(1)[0][0] if asked else ""
    has = lambda name: all(name in run.judged.figures for _, run in cards.values() if run.judged is not None)
    return next((name for name in (most, "f-measure", "log-loss") if name and has(name)), "log-loss")
