"""Score saved rolls on data sets: one block for each roll and set, and a table of all of them at the end."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rolltune import base
from rolltune.data.examples import Example
from rolltune.data.images import apply_frame_policy
from rolltune.data.learned import Marks, learned, learned_text, marks_of
from rolltune.data.sets import shown
from rolltune.data.sources import read_examples
from rolltune.errors import UserError
from rolltune.evaluation import cross_table
from rolltune.evaluation.cross_table import Cell
from rolltune.evaluation.figures import block, check_name, measured, no_better
from rolltune.evaluation.metrics import stage
from rolltune.evaluation.written import Written, first_rows
from rolltune.jobs.cards import recipe_of
from rolltune.jobs.learn import asked_text
from rolltune.jobs.scorer import Bench, Scorer
from rolltune.recipe import Recipe
from rolltune.tracking import print_table
from rolltune.weights.roll_file import RollCard, load_roll, read_card
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


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Rows to score, read and marked once for all rolls."""

    path: Path
    examples: list[Example]
    marks: list[Marks]


def validate(options: Options, rolls: Sequence[Path], say: Say) -> int:
    """All cards and sets are read and checked before a model is loaded: nothing is lost to the last of them."""
    if options.metric:
        check_name(options.metric)
    if options.model and (named := [path for path in rolls if is_whole(path)]):
        raise UserError(
            f"--model {options.model}: {shown(named[0])} is a whole model and its own base; leave --model away"
        )
    saved = [Saved(path, card := read_card(path), recipe_of(card, shown(path))) for path in rolls]
    sets = []
    for path in options.data:
        examples = read_examples(path, say=say, **options.reading)
        sets.append(DataSet(path, examples, marks_of(examples)))
    for one in saved:
        for data in sets:
            if strange := unknown_answers(one.card, data.examples):
                say(f"{shown(data.path)}: {shown(one.path)} does not know {strange}; such rows count as wrong")
    cells: list[Cell] = []
    bench: Bench | None = None
    loaded = None
    for one in sorted(saved, key=lambda one: (_base_of(one, options), rolls.index(one.path))):
        wanted = _base_of(one, options)
        if bench is None or wanted != loaded:
            bench, loaded = Bench(*base.load(*wanted)), wanted
        scorer = Scorer(bench, one.path, load_roll(one.path, bench.model.base), one.recipe)
        cells += [_scored(scorer, one.path, data, options.generate, say) for data in sets]
    if cells:
        order = {shown(path): number for number, path in enumerate(rolls)}
        cells.sort(key=lambda cell: order[cell.checkpoint])
        defaults = {cell.metrics.names[0] for cell in cells if cell.metrics is not None}
        metric = options.metric or (defaults.pop() if len(defaults) == 1 else "log-loss")
        print_table(cross_table.table(cells, metric))
        if options.json:
            cross_table.write(options.json, cells, metric)
    return 0


@dataclasses.dataclass(frozen=True)
class Saved:
    path: Path
    card: RollCard
    recipe: Recipe


def unknown_answers(card: RollCard, examples: Sequence[Example]) -> str:
    """The answers of these rows that the roll cannot give, as text; empty where there are none."""
    if not card.answers:
        return ""
    strange = sorted({one.answer for one in examples} - set(card.answers))
    rows = sum(one.answer in strange for one in examples)
    more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
    return f"the answer {', '.join(map(repr, strange[:3]))}{more} of {rows} rows" if strange else ""


def _base_of(one: Saved, options: Options) -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
    """The arguments of `base.load`: rolls that share them are scored on one base."""
    recipe = one.recipe
    return options.model or recipe.model, recipe.tokenizer, recipe.dtype, tuple(recipe.packing)


def _scored(scorer: Scorer, path: Path, data: DataSet, tokens: int | None, say: Say) -> Cell:
    facts = scorer.card.metrics
    chosen = apply_frame_policy(list(data.examples), scorer.recipe.frames)
    asked = asked_text(chosen, scorer.recipe.prompt, "roll")
    say(f"{shown(path)}: {asked}")
    prediction = scorer.predict(chosen, tokens)
    if scorer.cut:
        say(f"{scorer.cut} of {len(chosen)} rows were cut to {scorer.recipe.max_tokens} tokens, on their right")
    figures = measured(prediction, facts.get("positive"))
    known = sum(learned(data.marks, facts.get("learned", ())))
    say(block(f"{shown(data.path)} {stage(int(facts.get('passes', 1)))}", figures))
    say(f"  {figures.frequencies()}")
    if known:
        say(f"  {learned_text(known, len(chosen))}")
    if isinstance(prediction, Written):
        for line in first_rows(prediction, {one.id: one.source for one in chosen}):
            say(line)
    if poor := no_better(figures, "the roll"):
        say(f"  {poor}")
    return Cell(shown(path), shown(data.path), figures, trained_on=known > 0)
