"""Score saved rolls on data sets: one block for each roll and set, and a table of all of them at the end."""

import argparse
import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rolltune import recipe as recipes
from rolltune.commands.common import EPILOG, set_up_jax, shown
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./04-validate.py -m checkpoints/trained-set1.npz dataset/set1/valid.jsonl
  ./04-validate.py -m './checkpoints/*.npz' dataset/set2/train.jsonl dataset/set2/valid.jsonl
  ./04-validate.py -m checkpoints/docs.npz --generate 32 dataset/docs/valid.jsonl   written answers: exact match, ANLS

The prompt, the answers and the base model are those saved in each roll.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="04-validate.py", description=__doc__, epilog=EXAMPLES, formatter_class=EPILOG
    )
    parser.add_argument("-m", "--models", nargs="+", required=True, metavar="ROLL", help="roll files, or patterns")
    parser.add_argument("data", nargs="*", type=Path, help="JSONL files, or other sources that 03 takes")
    parser.add_argument("--metric", default="f-measure", help="what the table shows (default f-measure)")
    parser.add_argument("--generate", type=int, metavar="N", help="write answers of up to N tokens instead of scoring")
    parser.add_argument("--model", help="the base model, where it is not where the roll was trained")
    parser.add_argument("--json", type=Path, help="also write the table here")
    args = parser.parse_args(argv)
    # `-m a.npz b.npz data.jsonl`: a shell that expands a pattern leaves nothing else to tell them apart by.
    args.data = [Path(text) for text in args.models if not text.endswith(".npz")] + args.data
    if not args.data:
        parser.error("name at least one data set after the rolls")
    rolls = _found([text for text in args.models if text.endswith(".npz")])
    set_up_jax()
    return validate(args, rolls, lambda text: print(text, flush=True))


def _found(patterns: Sequence[str]) -> list[Path]:
    """Every roll that the names and patterns mean, once, in order."""
    paths = []
    for pattern in patterns:
        some = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not some:
            raise UserError(f"-m {pattern!r}: no file has such a name")
        paths += [Path(one) for one in some if not one.endswith(".whole.npz")]
    return list(dict.fromkeys(paths))


def validate(args: argparse.Namespace, rolls: Sequence[Path], say: Callable[[str], None]) -> int:
    from rich.console import Console

    from rolltune import base
    from rolltune.data.sources import read_examples
    from rolltune.evaluation import cross_table
    from rolltune.evaluation.metrics import check_name
    from rolltune.weights.roll_file import load_roll, read_card

    check_name(args.metric)
    cards = {path: read_card(path) for path in rolls}
    sets = {path: read_examples(path, say=say) for path in args.data}  # every complaint before a model is loaded
    cells: list[Any] = []
    bench, loaded = None, None
    for path in sorted(rolls, key=lambda path: (_base_of(cards[path], args), rolls.index(path))):
        recipe = recipes.from_card(cards[path].recipe)
        wanted = _base_of(cards[path], args)
        if wanted != loaded:
            bench, loaded = Bench(base.load(wanted, recipe.tokenizer, recipe.dtype)), wanted
        scorer = Scorer(bench, load_roll(path, bench.model.base), recipe)
        for file, examples in sets.items():
            if args.generate:
                _print_generated(scorer, file, examples, args.generate, say)
            else:
                cells.append(_scored(scorer, path, file, examples, say))
    if cells:
        order = {shown(path): number for number, path in enumerate(rolls)}
        cells.sort(key=lambda cell: order[cell.checkpoint])
        Console(highlight=False).print(cross_table.table(cells, args.metric))
        if args.json:
            cross_table.write(args.json, cells, args.metric)
    return 0


def _base_of(card: Any, args: argparse.Namespace) -> str:
    return args.model or recipes.from_card(card.recipe).model


class Bench:
    """A base model and what its rolls share: images that are worked out, and compiled programs."""

    def __init__(self, model: Any):
        self.model = model
        self._images: dict[Any, Any] = {}
        self._scores: dict[int, Any] = {}

    def images(self, examples: Sequence[Any], tower: bool, limit_gib: float) -> Any:
        """The pictures of these examples. Those of other examples are kept too while all fit in `limit_gib`."""
        import jax

        from rolltune.training import inputs

        key = (tower, *(key for example in examples for key in inputs.keys_of(example)))
        if key not in self._images:
            made = inputs.prepare_images(self.model, examples, tower, limit_gib)
            tables = [one.table for one in (made, *self._images.values())]
            if sum(leaf.nbytes for leaf in jax.tree.leaves(tables)) > limit_gib * 2**30:
                self._images.clear()
            self._images[key] = made
        return self._images[key]

    def score(self, answers: int) -> Any:
        from functools import partial

        from rolltune.training import step

        if answers not in self._scores:
            forward = step.Forward(partial(self.model.family.log_probs, self.model.config))
            self._scores[answers] = step.compile_score(forward, answers)
        return self._scores[answers]


class Scorer:
    """One roll on its base. The prompt and the answers are the roll's own."""

    def __init__(self, bench: Bench, roll: Any, recipe: recipes.Recipe):
        import jax
        import jax.numpy as jnp

        from rolltune import adapters
        from rolltune.commands.learn import nested_lora
        from rolltune.weights.names import flatten

        self.bench, self.model, self.card, self.recipe = bench, bench.model, roll.card, recipe
        params = adapters.split_layers(self.model.params, recipe.first_layer)
        trainable = nested_lora(flatten(roll.tree))
        full = {path for path, leaf in trainable.items() if not isinstance(leaf, dict)}
        kept = {path: leaf for path, leaf in adapters.flatten(params).items() if path not in full}
        self.base = adapters.unflatten(kept)
        self.trainable = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], trainable)
        self.scales = jnp.full((1,), recipe.scale, jnp.float32)

    def rows(self, examples: Sequence[Any], answers: Sequence[str] | None) -> tuple[Any, Any]:
        """(rows, table of images) of examples, asked with the prompt that the roll was trained with."""
        from rolltune.training import inputs

        tower = any(path.startswith(("vision/", "projector/")) for path in self.trainable)
        images = self.bench.images(examples, tower, self.recipe.table_gib)
        return inputs.make_rows(self.model, images, examples, self.card.prompt, answers), images.table

    def predict(self, examples: Sequence[Any]) -> Any:
        from rolltune.evaluation.scoring import allowed_answers, score_rows

        answers = allowed_answers(self.card.answers, [one.answer for one in examples])
        rows, table = self.rows(examples, answers)
        score, shapes, batch = self.bench.score(len(answers)), rows.shapes(), self.recipe.evaluate_batch
        return score_rows(score, self.base, table, self.trainable, self.scales, rows, shapes, answers, batch)[0]

    def write(self, examples: Sequence[Any], tokens: int) -> list[str]:
        """Greedy answers of up to `tokens` tokens."""
        import jax
        import numpy as np

        from rolltune import adapters
        from rolltune.data.batches import evaluation_batches

        rows, table = self.rows(examples, ())
        one = jax.tree.map(lambda leaf: leaf[0], self.trainable)
        whole = adapters.all_layers(one, self.model.params, self.recipe.first_layer)
        full = {path for path, leaf in whole.items() if not isinstance(leaf, dict)}
        kept = {path: leaf for path, leaf in adapters.flatten(self.model.params).items() if path not in full}
        params = adapters.combine(adapters.unflatten(kept), whole, self.recipe.scale)
        family, config, eos = self.model.family, self.model.config, self.model.tokenizer.eos
        run = jax.jit(lambda params, some, table: family.generate(config, params, some, tokens, eos, table))
        written = [""] * len(rows)
        for places, some in evaluation_batches(rows, self.recipe.evaluate_batch, rows.shapes()):
            for place, ids in zip(places, np.asarray(run(params, some, table)), strict=False):
                written[place] = self.model.tokenizer.decode(ids)
        return written


def _scored(scorer: Scorer, path: Path, file: Path, examples: Sequence[Any], say: Callable[[str], None]) -> Any:
    from rolltune.data.files import sha256_of
    from rolltune.data.images import apply_frame_policy
    from rolltune.evaluation.cross_table import Cell
    from rolltune.evaluation.metrics import block, frequencies, measure, stage

    facts = scorer.card.metrics
    prediction = scorer.predict(apply_frame_policy(list(examples), scorer.recipe.frames))
    figures = measure(prediction, facts.get("positive"))
    seen = file.is_file() and facts.get("files", {}).get("train", {}).get("sha256") == sha256_of(file)
    say(f"{shown(path)}:")
    say(block(f"{shown(file)} {stage(int(facts.get('passes', 1)))}", figures))
    say(f"  {frequencies(figures)}")
    return Cell(shown(path), shown(file), figures, trained_on=seen)


def _print_generated(
    scorer: Scorer, file: Path, examples: Sequence[Any], tokens: int, say: Callable[[str], None]
) -> None:
    from rolltune.data.images import apply_frame_policy
    from rolltune.evaluation.generated import measure_generated

    chosen = apply_frame_policy(list(examples), scorer.recipe.frames)
    written = scorer.write(chosen, tokens)
    figures = measure_generated(written, [one.accepted or (one.answer,) for one in chosen])
    say(f"Result: {shown(file)} (written answers)")
    say(f"  exact match: {figures.exact:.4f}\n  ANLS:        {figures.anls:.4f}")
    for one, answer in list(zip(chosen, written, strict=True))[:5]:
        say(f"  {one.source}: {answer!r} (right: {one.answer!r})")
