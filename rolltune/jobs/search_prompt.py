"""Try prompts before any training: score each on the data, and write the best into a recipe."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from rich.table import Table
from rich.text import Text

from rolltune import atomic, trees
from rolltune.data.batches import Encoded
from rolltune.data.learned import learned_text
from rolltune.data.sets import find_dataset, shown
from rolltune.data.shapes import shapes_for
from rolltune.errors import UserError, visible
from rolltune.evaluation import compiled
from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.figures import check_name, no_better, order
from rolltune.evaluation.metrics import NAMES, Metrics, measure, rounded
from rolltune.evaluation.tasks import CHOOSE
from rolltune.inputs import features, rows
from rolltune.inputs.pictures import read_pictures
from rolltune.models.forward import Network
from rolltune.recipe import Recipe
from rolltune.tracking import print_table, progress
from rolltune.training import setup
from rolltune.training.dataset import Data, Wanted, read_data
from rolltune.training.plan import plan_of
from rolltune.weights.whole import learned_in

SHOWN = NAMES[:5]  # as many figures as leave a terminal's line room for the prompt


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of 05-search_prompt.py."""

    dataset: str
    metric: str = "log-loss"
    write: Path | None = None  # the recipe to write
    reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # columns, question, names of the data


def search(options: Options, recipe: Recipe, prompts: Sequence[str], say: Callable[[str], None]) -> int:
    check_name(options.metric, CHOOSE)
    wanted = Wanted(recipe.task, recipe.answers, recipe.positive, recipe.frames)
    data = read_data(find_dataset(options.dataset), wanted, say, options.reading)
    if data.task.kind != CHOOSE:
        raise UserError(f"task: {data.task.kind}; prompts are compared by the scores of allowed answers (task: choose)")
    predictions = score_prompts(recipe, data, prompts)
    measured = [measure(one, data.positive.answer) for one in predictions]
    ranked = sorted(range(len(prompts)), key=lambda number: order(measured[number], options.metric))
    _print_table([(prompts[n], measured[n]) for n in ranked])
    if known := data.known(data.seen, learned_in(recipe.model)):
        say(learned_text(known, len(data.seen)))
    if poor := no_better(measured[ranked[0]], "the best prompt"):
        say(poor)
    best = prompts[ranked[0]]
    if not best:
        say("the rows' own prompts are the best of these")
        return 0
    say(f"best: {best!r}")
    if options.write is not None:
        atomic.write_text(options.write, recipe_text(dataclasses.replace(recipe, prompt=best)))
        data, file = (shlex.quote(str(one)) for one in (options.dataset, options.write))
        following = f"./03-do_learn.py -d {data} -w NAME --config {file}"
        say(f"written: {shown(options.write)}; next: {following}")
    return 0


def score_prompts(recipe: Recipe, data: Data, prompts: Sequence[str]) -> list[Any]:
    """One Prediction a prompt, over the same image features: the tower runs once for all of them."""
    model, params = setup.load(recipe)
    examples = [data.examples[place] for place in data.seen]
    pictures = read_pictures(model.family, model.config, examples)
    plan = plan_of(model, {}, 0)
    asked = setup.asking(recipe, data.task)
    each = [dataclasses.replace(asked, prompt=prompt) for prompt in prompts]
    made = [rows.encode_rows(model, pictures, examples, one, rows.SCORE)[0] for one in each]
    feed = features.feed(model, params, pictures, plan.projected, plan.in_step, recipe.table_gib)
    # One shape for all prompts, so that the program is compiled once.
    shapes = shapes_for([feed.shape(row) for some in made for row in some], most=1)
    base = trees.arrange(params, model.stacks)
    network = Network(model.family, model.config, plan.projected)
    score = compiled.compile_score(network, plan.stacks, len(data.task.answers))
    ones = jnp.ones((1,), jnp.float32)
    labels = [one.answer for one in examples]
    evaluators = [
        Evaluator(data.task, examples, Encoded(some, feed, shapes, labels), base, score, recipe.evaluate_batch)
        for some in made
    ]
    return [one.predict({}, ones)[0] for one in progress(evaluators, "prompts", len(evaluators))]


def _print_table(measured: Sequence[tuple[str, Metrics]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in (*SHOWN, "prompt"):
        table.add_column(name, justify="left" if name == "prompt" else "right", overflow="fold")
    for prompt, metrics in measured:
        table.add_row(*(rounded(metrics.figure(name)) for name in SHOWN), Text(visible(prompt) or "(each row's own)"))
    always = rounded(measured[0][1].majority_rate)
    table.add_row(*(always if name == "accuracy" else "" for name in SHOWN), "(always the commonest answer)")
    print_table(table)


def recipe_text(recipe: Recipe) -> str:
    """A recipe file that holds what differs from the defaults."""
    defaults = Recipe()
    changed = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if getattr(recipe, field.name) != getattr(defaults, field.name)
    }
    lines = "".join(f"    config.{name} = {value!r}\n" for name, value in changed.items())
    return (
        '"""Written by 05-search_prompt.py: the prompt that served best before training."""\n\n'
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    config = ConfigDict()\n{lines}    return config\n"
    )
