"""Score saved rolls on data sets: one block for each roll and set, and a table of all of them at the end."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from rolltune import base
from rolltune import recipe as recipes
from rolltune.data.examples import Example
from rolltune.data.files import sha256_of
from rolltune.data.images import apply_frame_policy
from rolltune.data.sets import shown
from rolltune.data.sources import read_examples
from rolltune.evaluation import cross_table
from rolltune.evaluation.cross_table import Cell
from rolltune.evaluation.figures import block, check_name, measured, no_better
from rolltune.evaluation.metrics import stage
from rolltune.evaluation.written import Written, first_rows
from rolltune.jobs.scorer import Bench, Scorer
from rolltune.weights.roll_file import RollCard, load_roll, read_card

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked beside the rolls. The flags of 04-validate.py."""

    data: Sequence[Path]
    metric: str = ""  # empty: F-measure, or log-loss where a roll writes
    generate: int | None = None  # write answers of up to so many tokens instead of scoring
    model: str | None = None  # the base, where it is not where the roll was trained
    json: Path | None = None


def validate(options: Options, rolls: Sequence[Path], say: Say) -> int:
    if options.metric:
        check_name(options.metric)
    cards = {path: read_card(path) for path in rolls}
    sets = {path: read_examples(path, say=say) for path in options.data}  # every complaint before a model is loaded
    cells: list[Cell] = []
    bench: Bench | None = None
    loaded = None
    for path in sorted(rolls, key=lambda path: (_base_of(cards[path], options), rolls.index(path))):
        recipe = recipes.from_card(cards[path].recipe)
        wanted = _base_of(cards[path], options)
        if bench is None or wanted != loaded:
            bench, loaded = Bench(*base.load(wanted, recipe.tokenizer, recipe.dtype)), wanted
        scorer = Scorer(bench, load_roll(path, bench.model.base), recipe)
        for file, examples in sets.items():
            cells.append(_scored(scorer, path, file, examples, options.generate, say))
    if cells:
        order = {shown(path): number for number, path in enumerate(rolls)}
        cells.sort(key=lambda cell: order[cell.checkpoint])
        defaults = {cell.metrics.names[0] for cell in cells if cell.metrics is not None}
        metric = options.metric or (defaults.pop() if len(defaults) == 1 else "log-loss")
        Console(highlight=False).print(cross_table.table(cells, metric))
        if options.json:
            cross_table.write(options.json, cells, metric)
    return 0


def _base_of(card: RollCard, options: Options) -> str:
    return options.model or recipes.from_card(card.recipe).model


def _scored(scorer: Scorer, path: Path, file: Path, examples: Sequence[Example], tokens: int | None, say: Say) -> Cell:
    facts = scorer.card.metrics
    chosen = apply_frame_policy(list(examples), scorer.recipe.frames)
    prediction = scorer.predict(chosen, tokens)
    figures = measured(prediction, facts.get("positive"))
    seen = file.is_file() and facts.get("files", {}).get("train", {}).get("sha256") == sha256_of(file)
    say(f"{shown(path)}:")
    say(block(f"{shown(file)} {stage(int(facts.get('passes', 1)))}", figures))
    say(f"  {figures.frequencies()}")
    if isinstance(prediction, Written):
        for line in first_rows(prediction, {one.id: one.source for one in chosen}):
            say(line)
    if poor := no_better(figures, "the roll"):
        say(f"  {poor}")
    return Cell(shown(path), shown(file), figures, trained_on=seen)
