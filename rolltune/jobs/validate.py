"""Score saved rolls on data sets: one block for each roll and set, and a table of all of them at the end."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rolltune import atomic
from rolltune.data.examples import Example
from rolltune.data.images import apply_frame_policy
from rolltune.data.learned import Marks, learned, learned_text, marks_of
from rolltune.data.sets import shown
from rolltune.data.sources import read_examples
from rolltune.errors import UserError
from rolltune.evaluation import cross_table, predicted
from rolltune.evaluation.cross_table import Cell
from rolltune.evaluation.decision import plain_figures
from rolltune.evaluation.figures import Scored, block, check_name, measured, no_better
from rolltune.evaluation.metrics import Prediction, stage
from rolltune.evaluation.predicted import Predicted
from rolltune.evaluation.tasks import WRITE
from rolltune.evaluation.votes import mean_of
from rolltune.evaluation.written import Written, first_rows
from rolltune.jobs import laying
from rolltune.jobs.adopted import FOREIGN, Asking, is_foreign, read_rolls
from rolltune.jobs.idle import idle_question
from rolltune.jobs.learn import asked_text
from rolltune.jobs.scorer import Bench, Saved, Scorer, bench_of, check_alike, check_length, read_saved, writes_answers
from rolltune.tracking import print_table
from rolltune.weights.roll_file import RollCard, load_roll
from rolltune.weights.whole import is_whole

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked beside the rolls. The flags of 04-validate.py."""

    data: Sequence[Path]
    metric: str = ""  # empty: F-measure, or log-loss where a roll writes
    generate: int | None = None  # write answers of up to so many tokens instead of scoring
    model: str | None = None  # the base, where it is not where the roll was trained
    json: Path | None = None
    reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # columns, question, names of the data
    predictions: Path | None = None  # a line a row, as 07-predict writes them
    laying: Sequence[str] = ()  # how the base lies on the cards, as typed (--config.sharding=fsdp); else as trained
    vote: bool = False  # the rolls together, too: the mean of their probabilities


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Rows to score, read once for all rolls; with their frames chosen and marked, once for each frame policy."""

    path: Path
    examples: list[Example]
    framed: Mapping[str, tuple[list[Example], list[Marks]]]


def validate(options: Options, rolls: Sequence[Path], say: Say) -> int:
    """A block for each roll and set, and the table of all, printed and written."""
    cells = score(options, rolls, say)
    if cells:
        defaults = {cell.metrics.names[0] for cell in cells}
        metric = options.metric or (defaults.pop() if len(defaults) == 1 else "log-loss")
        print_table(cross_table.table(cells, metric))
        if options.json:
            cross_table.write(options.json, cells, metric)
    return 0


def score(options: Options, rolls: Sequence[Path], say: Say) -> list[Cell]:
    """The figures of each roll on each set, in the order of the rolls.

    All cards and sets are read and checked before a model is loaded: nothing is lost to the last of them.
    """
    check_length(options.generate)
    typed = laying.typed(options.laying)
    if options.metric:
        check_name(options.metric)
    if options.predictions:
        predicted.check_file(options.predictions)
    if options.json:
        atomic.check_result(options.json, cross_table.BEGINS)
    if options.model and (named := [path for path in rolls if is_whole(path)]):
        raise UserError(
            f"--model {options.model}: {shown(named[0])} is a whole model and its own base; leave --model away"
        )
    for path in rolls:
        if not is_foreign(path):
            read_saved(path)  # before the data is read, which takes longer
    read = {path: read_examples(path, say=say, **options.reading) for path in options.data}
    every = [example for examples in read.values() for example in examples]
    saved, foreign = read_rolls(rolls, Asking(options.model), every)
    saved = [one.lying_as(typed) for one in saved]
    for path in foreign:
        say(f"{shown(path)}: {FOREIGN}")
    for text in idle_question(options.reading, [one.card for one in saved]):
        say(text)
    if options.vote:
        _check_vote(saved, options)
    sets = []
    for path, examples in read.items():
        by_policy = {policy: apply_frame_policy(examples, policy) for policy in {one.recipe.frames for one in saved}}
        framed = {policy: (chosen, marks_of(chosen)) for policy, chosen in by_policy.items()}
        sets.append(DataSet(path, examples, framed))
    for one in saved:
        for data_set in sets:
            if strange := unknown_answers(one.card, data_set.examples):
                say(f"{shown(data_set.path)}: {shown(one.path)} does not know {strange}; such rows count as wrong")
    cells: list[Cell] = []
    lines: dict[Path, list[Predicted]] = {}
    scored: list[list[Prediction]] = [[] for _ in sets]  # of the rolls that vote
    bench: Bench | None = None
    loaded = None
    needed = lambda one: (one.base(options.model), one.laid, writes_answers(one, options.generate))
    for one in sorted(saved, key=lambda one: (*needed(one), rolls.index(one.path))):
        wanted = needed(one)
        if bench is None or wanted != loaded:
            bench = None  # let go of before the next one comes
            bench, loaded = bench_of(one, options.model, wanted[-1]), wanted
        roll = foreign.get(one.path) or load_roll(one.path, bench.model.base)
        scorer = Scorer(bench, one.path, roll, one.recipe)
        if scorer.decision.changes:
            say(f"{shown(one.path)}: {scorer.decision.text}")
        for data_set, voting in zip(sets, scored, strict=True):
            cell, prediction = _scored(scorer, one.path, data_set, options.generate, say)
            cells.append(cell)
            chosen, _ = data_set.framed[one.recipe.frames]
            rows = predicted.predicted(chosen, [prediction], one.card.answers, roll=cell.checkpoint)
            lines.setdefault(one.path, []).extend(rows)
            if isinstance(prediction, Prediction):
                voting.append(prediction)
    order = {shown(path): number for number, path in enumerate(rolls)}
    cells.sort(key=lambda cell: order[cell.checkpoint])
    every = [row for path in rolls for row in lines[path]]
    if options.vote:
        for data_set, voting in zip(sets, scored, strict=True):
            cell, rows = _voted(saved, data_set, voting, say)
            cells.append(cell)
            every += rows
    if options.predictions:
        predicted.write(options.predictions, every)
        say(f"written: {shown(options.predictions)} ({len(every)} rows)")
    return cells


def _check_vote(saved: Sequence[Saved], options: Options) -> None:
    """Raises UserError where there is nothing to vote, or no probabilities to take the mean of."""
    if len(saved) < 2:
        raise UserError("--vote takes the mean of several rolls; name two or more with -m")
    check_alike(saved, options.model)
    if options.generate is not None or saved[0].recipe.task == WRITE:
        raise UserError(
            "--vote: written answers have no probabilities of which a mean could be taken; ./07-predict.py gives the "
            "text that most of the rolls write"
        )


def unknown_answers(card: RollCard, examples: Sequence[Example]) -> str:
    """The answers of these rows that the roll cannot give, as text; empty where there are none."""
    if not card.answers:
        return ""
    strange = sorted({one.answer for one in examples} - set(card.answers))
    rows = sum(one.answer in strange for one in examples)
    more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
    return f"the answer {', '.join(map(repr, strange[:3]))}{more} of {rows} rows" if strange else ""


def _scored(scorer: Scorer, path: Path, data: DataSet, tokens: int | None, say: Say) -> tuple[Cell, Scored]:
    facts = scorer.card.metrics
    chosen, marks = data.framed[scorer.recipe.frames]
    say(f"{shown(path)}: {asked_text(chosen, scorer.recipe.prompt, 'roll')}")
    prediction = scorer.predict(chosen, tokens)
    if scorer.cut:
        say(f"{scorer.cut} of {len(chosen)} rows were cut to {scorer.recipe.max_tokens} tokens, on their right")
    figures = measured(prediction, facts.get("positive"))
    known = sum(learned(marks, facts.get("learned", ())))
    say(block(f"{shown(data.path)} {stage(int(facts.get('passes', 1)))}", figures))
    say(f"  {figures.frequencies()}")
    if known:
        say(f"  {learned_text(known, len(chosen))}")
    if plain := plain_figures(scorer.decision, prediction, facts.get("positive")):
        say(f"  {plain}")
    if isinstance(prediction, Written):
        for line in first_rows(prediction, {one.id: one.source for one in chosen}):
            say(line)
    if poor := no_better(figures, "the roll"):
        say(f"  {poor}")
    return Cell(shown(path), shown(data.path), figures, trained_on=known > 0), prediction


def _voted(
    saved: Sequence[Saved], data: DataSet, scored: Sequence[Prediction], say: Say
) -> tuple[Cell, list[Predicted]]:
    """The rolls together on one set. Rows that any of them learned from are counted: the vote has learned from them."""
    name = f"vote of {len(saved)}"
    chosen, marks = data.framed[saved[0].recipe.frames]
    figures = measured(mean_of(scored), saved[0].card.metrics.get("positive"))
    known = sum(learned(marks, {mark for one in saved for mark in one.card.metrics.get("learned", ())}))
    say(block(f"{shown(data.path)} ({name}: {', '.join(shown(one.path) for one in saved)})", figures))
    say(f"  {figures.frequencies()}")
    if known:
        say(f"  {learned_text(known, len(chosen))}")
    rows = predicted.predicted(chosen, scored, saved[0].card.answers, roll=name)
    return Cell(name, shown(data.path), figures, trained_on=known > 0), rows
