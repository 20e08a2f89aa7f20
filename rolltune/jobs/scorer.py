"""Saved rolls on their base model: what rolls of one base share is made once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rolltune import trees
from rolltune.base import Model
from rolltune.data.batches import Encoded
from rolltune.data.examples import Example
from rolltune.errors import UserError
from rolltune.evaluation import compiled
from rolltune.evaluation.evaluator import Evaluator, candidates_of
from rolltune.evaluation.tasks import CLASSIFY, WRITE, Task
from rolltune.inputs import features, rows
from rolltune.inputs.pictures import keys_of, read_pictures
from rolltune.jobs.cards import check_trained
from rolltune.models.forward import Network
from rolltune.recipe import Recipe
from rolltune.training import setup
from rolltune.weights.roll_file import RollFile, nested_lora
from rolltune.weights.whole import is_whole


class Bench:
    """A base model and what its rolls share: features of pictures, and compiled programs."""

    def __init__(self, model: Model, params: dict):
        self.model, self.params = model, params
        self._feeds: dict[Any, Any] = {}
        self._programs: dict[Any, Any] = {}

    def feed(self, examples: Sequence[Example], plan: setup.Plan, limit_gib: float) -> Any:
        """(the pictures of these examples, how they reach the step). Those of other examples are kept, too, while all
        fit in `limit_gib`."""
        key = (plan.in_step, plan.projected, *(key for example in examples for key in keys_of(example)))
        if key not in self._feeds:
            pictures = read_pictures(self.model.family, self.model.config, examples)
            feed = features.feed(self.model, self.params, pictures, plan.projected, plan.in_step, limit_gib)
            kept = [one for _, one in self._feeds.values()]
            tables = [one.source.rows for one in (feed, *kept) if isinstance(one, features.TableFeed)]
            if sum(leaf.nbytes for leaf in tables) > limit_gib * 2**30:
                self._feeds.clear()
            self._feeds[key] = pictures, feed
        return self._feeds[key]

    def program(self, key: Any, make: Any) -> Any:
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]


class Scorer:
    """One roll on its base. The prompt and the answers are the roll's own."""

    def __init__(self, bench: Bench, path: Path, roll: RollFile, recipe: Recipe):
        self.bench, self.card, self.recipe = bench, roll.card, dataclasses.replace(recipe, prompt=roll.card.prompt)
        trained = nested_lora(trees.flatten(roll.tree))
        if not is_whole(path):
            check_trained(path, trained, bench.model, trees.shapes(bench.params), self.recipe, self.task)
        full = [path for path, leaf in trained.items() if not isinstance(leaf, dict)]
        words = {path: "full" if path in full else "lora" for path in trained}
        self.plan = setup.plan_of(bench.model, words, recipe.first_layer)
        copy = trees.unflatten(trees.flatten(bench.params))  # the arrangement takes it apart
        self.base = trees.arrange(copy, bench.model.stacks, recipe.first_layer, without=full)
        self.trainables = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], trained)
        self.scales = jnp.full((1,), recipe.scale, jnp.float32)
        self.cut = 0  # rows of the last prediction whose text was too long and was cut, as it was in training

    @property
    def task(self) -> Task:
        return Task(self.recipe.task, tuple(self.card.answers))

    def predict(self, examples: Sequence[Example], tokens: int | None = None) -> Any:
        """A Prediction, or what is written with up to `tokens` tokens. Raises UserError where a head can't write."""
        model, recipe = self.bench.model, self.recipe
        if tokens is not None and self.task.kind == CLASSIFY:
            raise UserError("a classifier tells its classes apart and writes no words: leave --generate away")
        task = self.task if tokens is None else Task(WRITE, ())
        pictures, feed = self.bench.feed(examples, self.plan, recipe.table_gib)
        asked = dataclasses.replace(
            setup.asking(recipe, task), max_tokens=recipe.max_tokens if recipe.truncate else None
        )

        def made(purpose: str) -> Encoded:
            found, self.cut = rows.encode_rows(model, pictures, examples, asked, purpose)
            return rows.encoded(found, feed, examples)

        template = model.family.classifier if task.kind == CLASSIFY else model.family.template
        network = Network(model.family, model.config, self.plan.projected, causal=not template.prefix_lm)
        candidates, stacks = candidates_of(task, examples), self.plan.stacks
        score = self.bench.program(
            (network, task.kind, self.plan.first, candidates),
            lambda: compiled.compile_score(setup.scoring_network(network, task, candidates), stacks, candidates),
        )
        writer = None
        if task.kind == WRITE:
            writer = setup.make_writer(model, network, stacks, made(rows.WRITE), tokens or recipe.answer_tokens)
        evaluator = Evaluator(task, examples, made(rows.SCORE), self.base, score, recipe.evaluate_batch, writer)
        return evaluator.predict(self.trainables, self.scales)[0]
