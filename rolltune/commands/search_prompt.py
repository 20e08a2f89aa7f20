"""Try prompts before any training: score each on the data, and write the best into a recipe."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rolltune import atomic
from rolltune import recipe as recipes
from rolltune.commands.common import EPILOG, add_recipe_flags, find_dataset, set_up_jax, shown, split_overrides
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./05-search_prompt.py -d set1 "Is this legal?" "Does this advertisement comply with the law?"
  ./05-search_prompt.py -d set1 --file prompts.txt --write recipes/mine.py
  ./03-do_learn.py -d set1 -w best-set1 --config recipes/mine.py --rolls 8

All rows but those of test are scored; log-loss decides, since it moves before the answers do.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="05-search_prompt.py", description=__doc__, epilog=EXAMPLES, formatter_class=EPILOG
    )
    parser.add_argument("prompts", nargs="*", help="the prompts; each row's own is always tried too")
    parser.add_argument("-d", "--dataset", required=True, help="a set in ./dataset, a folder, or a JSONL")
    parser.add_argument("--file", type=Path, help="more prompts, one a line")
    parser.add_argument("--metric", default="log-loss", help="what ranks them (default log-loss)")
    parser.add_argument("--write", type=Path, metavar="RECIPE", help="write a recipe with the best prompt")
    add_recipe_flags(parser)
    args, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    recipe = recipes.load(args.config, split_overrides(rest, parser), model=args.model)
    if args.write is not None and args.write.exists():
        raise UserError(f"{args.write} is there already: name a new file, or move it away")
    set_up_jax()
    return search(args, recipe, read_prompts(args.prompts, args.file), lambda text: print(text, flush=True))


def read_prompts(given: Sequence[str], file: Path | None) -> list[str]:
    """Each prompt once, in order; the empty one, first, means each row's own."""
    lines = []
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read as text ({error})") from error
    prompts = [text.strip() for text in (*given, *lines)]
    return ["", *dict.fromkeys(text for text in prompts if text)]


def search(args: argparse.Namespace, recipe: recipes.Recipe, prompts: Sequence[str], say: Callable[[str], None]) -> int:
    from rolltune.evaluation.metrics import check_name, measure
    from rolltune.training import session

    check_name(args.metric)
    data = session.read_data(find_dataset(args.dataset), recipe, say)
    predictions = score_prompts(recipe, data, prompts)
    measured = [measure(one, data.positive.answer) for one in predictions]
    sign = 1 if args.metric == "log-loss" else -1

    def key(number: int) -> tuple[float, float]:
        figure, loss = measured[number].figure(args.metric), measured[number].log_loss
        return (float("inf") if figure is None else sign * figure, float("inf") if loss is None else loss)

    order = sorted(range(len(prompts)), key=key)
    _print_table([(prompts[n], measured[n]) for n in order])
    best = prompts[order[0]]
    if not best:
        say("the rows' own prompts are the best of these")
        return 0
    say(f"best: {best!r}")
    if args.write is not None:
        atomic.write_text(args.write, recipe_text(dataclasses.replace(recipe, prompt=best)))
        say(f"written: {shown(args.write)}; next: ./03-do_learn.py -d {args.dataset} -w NAME --config {args.write}")
    return 0


def score_prompts(recipe: recipes.Recipe, data: Any, prompts: Sequence[str]) -> list[Any]:
    """One Prediction a prompt, over the same image features: the tower runs once for all of them."""
    from functools import partial

    import jax.numpy as jnp

    from rolltune import base
    from rolltune.evaluation.scoring import score_rows
    from rolltune.tracking import progress
    from rolltune.training import inputs, step

    model = base.load(recipe.model, recipe.tokenizer, recipe.dtype)
    examples = [data.examples[place] for place in data.seen]
    images = inputs.prepare_images(model, examples, False, recipe.table_gib)
    score = step.compile_score(step.Forward(partial(model.family.log_probs, model.config)), len(data.answers))
    rows = [inputs.make_rows(model, images, examples, prompt, data.answers) for prompt in prompts]
    shapes = _joint_shapes([some.shapes(recipe.max_tokens) for some in rows])
    ones = jnp.ones((1,), jnp.float32)
    scored = lambda some: score_rows(
        score, model.params, images.table, {}, ones, some, shapes, data.answers, recipe.evaluate_batch
    )[0]
    return [scored(some) for some in progress(rows, "prompts", len(rows))]


def _joint_shapes(shapes: Sequence[Any]) -> Any:
    """One set of shapes for all prompts, so that the program is compiled for few."""
    largest = max(shapes, key=lambda one: (max(one.tokens), max(one.targets)))
    return type(largest)((max(max(one.tokens) for one in shapes),), (max(max(one.targets) for one in shapes),))


def _print_table(rows: Sequence[tuple[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from rolltune.evaluation.metrics import NAMES, rounded

    table = Table(box=None, pad_edge=False)
    for name in (*NAMES, "prompt"):
        table.add_column(name, justify="left" if name == "prompt" else "right", overflow="fold")
    for prompt, metrics in rows:
        table.add_row(*(rounded(metrics.figure(name)) for name in NAMES), prompt or "(each row's own)")
    Console(highlight=False).print(table)


def recipe_text(recipe: recipes.Recipe) -> str:
    """A recipe file that holds what differs from the defaults."""
    defaults = recipes.Recipe()
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
