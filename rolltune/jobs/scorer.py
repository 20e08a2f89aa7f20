"""Saved rolls on their base model: what rolls of one base share is made once.

A row's scores depend on the row and the roll alone, bit for bit: its shape is its own (`shapes.fixed_shape`), and a
batch has the recipe's size whether it is full or not.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rolltune import base, sharding, trees
from rolltune.adapters import CLASSES
from rolltune.base import Model
from rolltune.data.batches import Encoded
from rolltune.data.examples import Example
from rolltune.data.sets import shown
from rolltune.device import is_gpu
from rolltune.errors import UserError
from rolltune.evaluation import compiled
from rolltune.evaluation.evaluator import Evaluator, candidates_of
from rolltune.evaluation.figures import Scored
from rolltune.evaluation.tasks import CLASSIFY, WRITE, Task, accepted
from rolltune.inputs import features, rows
from rolltune.inputs.pictures import keys_of, read_pictures
from rolltune.jobs import laying
from rolltune.jobs.cards import check_trained, decided_by, recipe_of
from rolltune.models.cut import Places, trained_specs
from rolltune.models.forward import Network
from rolltune.models.generate import Sampling
from rolltune.recipe import RANGES, Recipe
from rolltune.sharding import ROLLS
from rolltune.tracking import note
from rolltune.training import setup
from rolltune.training.plan import Plan, columns_of, in_columns, plan_of
from rolltune.weights.roll_file import RollCard, RollFile, nested_lora, read_card
from rolltune.weights.whole import is_whole

ALL_FROZEN = ((".*", "frozen"),)  # the rules of a whole model that is its own base, of which nothing is a roll's


@dataclasses.dataclass(frozen=True)
class Saved:
    """A roll on the disk: all about it but its arrays."""

    path: Path
    card: RollCard
    recipe: Recipe

    def base(self, model: str | None) -> tuple[str, str, str, tuple[tuple[str, str], ...], int]:
        """The arguments of `base.load`: rolls that share them are scored on one base. `model` stands for the roll's."""
        own = self.recipe
        return model or own.model, own.tokenizer, own.dtype, tuple(own.packing), own.num_crops

    @property
    def laid(self) -> tuple[Any, ...]:
        """How its base lies on the cards: what else rolls on one base share."""
        return tuple(getattr(self.recipe, name) for name in laying.ENTRIES)

    def lying_as(self, typed: Mapping[str, Any]) -> "Saved":
        """The same on a base that lies as was typed."""
        return dataclasses.replace(self, recipe=dataclasses.replace(self.recipe, **typed))


def writes_answers(saved: Saved, generate: int | None) -> bool:
    """Whether answers are written, by the roll's task or because it is asked for (--generate)."""
    return generate is not None or saved.recipe.task == WRITE


def read_saved(path: Path) -> Saved:
    """The card and the recipe of a roll, checked."""
    card = read_card(path)
    return Saved(path, card, recipe_of(card, shown(path)))


def check_length(tokens: int | None) -> None:
    """Raises UserError for a number of tokens (--generate) that no answer can have."""
    low, high = RANGES["answer_tokens"]
    if tokens is not None and not low <= tokens <= high:
        raise UserError(f"--generate {tokens}: expected a number of tokens from {low} to {high}")


def check_alike(saved: Sequence[Saved], model: str | None) -> None:
    """Raises UserError where rolls cannot vote together: of another base, or with other answers to choose from."""
    first, kind = saved[0], lambda one: one.recipe.task
    for one in saved[1:]:
        for what, own, other in (
            ("the base", first.base(model), one.base(model)),
            ("the weights of the base", first.card.base.hash, one.card.base.hash),
            ("the task", kind(first), kind(one)),
            ("the allowed answers", first.card.answers, one.card.answers),
            ("what is taken of animations", first.recipe.frames, one.recipe.frames),
        ):
            if own != other:
                raise UserError(
                    f"{shown(one.path)} cannot vote with {shown(first.path)}: {what} is {other!r}, not {own!r}"
                )


def bench_of(saved: Saved, model: str | None, writes: bool) -> "Bench":
    """The base of a roll, loaded to where its recipe lays it. Where answers are written on a GPU, its layers are lists:
    out of a stack each token would copy every one of them. To score, a stack takes less long to compile."""
    return Bench(*load_base(saved.base(model), saved.recipe, listed=writes and is_gpu()))


def load_base(
    given: tuple[str, str, str, tuple[tuple[str, str], ...], int],
    recipe: Recipe,
    say: Callable[[str], None] = note,
    listed: bool = False,
) -> tuple[Model, dict, Places | None]:
    """(the model, its parameters, where they lie if on several cards) of what `Saved.base` gives. Each card is sent its
    own part alone."""
    opened = base.open_model(*given)
    places = laying.scoring_groups(recipe, opened, say)
    loaded = base.load_opened(opened, listed, *([] if places is None else [places.put]))
    return *loaded, places


class Bench:
    """A base model and what its rolls share: features of pictures, and compiled programs.

    `places`: where the base lies, if on several cards.
    """

    def __init__(self, model: Model, params: dict, places: Places | None = None):
        self.model, self.params, self.places = model, params, places
        self.mesh = None if places is None else places.mesh
        self._feeds: dict[Any, Any] = {}
        self._programs: dict[Any, Any] = {}

    def feed(self, examples: Sequence[Example], plan: Plan, limit_gib: float) -> Any:
        """(the pictures of these examples, how they reach the step). Those of other examples are kept, too, while all
        fit in `limit_gib`."""
        key = (plan.in_step, plan.projected, *(key for example in examples for key in keys_of(example)))
        if key not in self._feeds:
            pictures = read_pictures(self.model.family, self.model.config, examples)
            feed = features.feed(self.model, self.params, pictures, plan.projected, plan.in_step, limit_gib)
            if self.mesh is not None and isinstance(feed, features.TableFeed):
                feed = dataclasses.replace(feed, source=sharding.whole(feed.source, self.mesh))
            kept = [one for _, one in self._feeds.values()]
            tables = [one.source.rows for one in (feed, *kept) if isinstance(one, features.TableFeed)]
            if sum(leaf.nbytes for leaf in tables) > limit_gib * 2**30:
                self._feeds.clear()
            self._feeds[key] = pictures, feed
        return self._feeds[key]

    def forget(self) -> None:
        """Lets go of all pictures; a file of the same name may show another one the next time."""
        self._feeds.clear()

    def program(self, key: Any, make: Any) -> Any:
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]


class Scorer:
    """One roll on its base. The prompt and the answers are the roll's own."""

    def __init__(self, bench: Bench, path: Path, roll: RollFile, recipe: Recipe):
        self.bench, self.card, self.recipe = bench, roll.card, dataclasses.replace(recipe, prompt=roll.card.prompt)
        trained = nested_lora(trees.flatten(roll.tree))
        if not (is_whole(path) or (self.recipe.rules == ALL_FROZEN and not trained)):
            check_trained(path, trained, bench.model, trees.shapes(bench.params), self.recipe, self.task)
        full = [path for path, leaf in trained.items() if not isinstance(leaf, dict)]
        words = {path: "full" if path in full else "lora" for path in trained}
        self.plan = plan_of(bench.model, words, recipe.first_layer)
        flat = trees.flatten(bench.params)
        if CLASSES in flat:
            flat[CLASSES] = in_columns(flat[CLASSES], columns_of(bench.model, self.task))
        copy = trees.unflatten(flat)  # the arrangement takes it apart
        self.base = trees.arrange(copy, bench.model.stacks, recipe.first_layer, without=full)
        # What is trained itself, in the place of weights that are cut, is cut as they are.
        self.parts = None if bench.places is None else bench.places.paths.intersection(full)
        self.trainables = _as_one_roll(trained, self.parts or frozenset(), bench.mesh)
        self.scales = jnp.full((1,), recipe.scale, jnp.float32)
        self.decision = decided_by(roll.card, shown(path))
        self.cut = 0  # rows of the last prediction whose text was too long and was cut, as it was in training

    @property
    def task(self) -> Task:
        return Task(self.recipe.task, tuple(self.card.answers))

    def predict(
        self, examples: Sequence[Example], tokens: int | None = None, sampling: Sampling | None = None
    ) -> Scored:
        """A Prediction, decided as the roll's card says, or what is written with up to `tokens` tokens, the likeliest
        or drawn. Raises UserError where a head can't write."""
        if tokens is not None and self.task.kind == CLASSIFY:
            raise UserError("a classifier tells its classes apart and writes no words: leave --generate away")
        task = self.task if tokens is None else Task(WRITE, ())
        if task.kind != WRITE:
            return self.decision.apply(self._predict(task, examples, tokens, sampling))
        # Rows that accept more answers are scored by another program, which no neighbour may choose.
        widths = np.array([(len(accepted(one)) - 1).bit_length() for one in examples])
        places = [np.flatnonzero(widths == width).tolist() for width in np.unique(widths)]
        parts = [self._predict(task, [examples[place] for place in some], tokens, sampling) for some in places]
        return type(parts[0]).join(parts).at(np.argsort(np.concatenate(places)))  # type: ignore[arg-type]

    def _predict(
        self, task: Task, examples: Sequence[Example], tokens: int | None, sampling: Sampling | None
    ) -> Scored:
        model, recipe = self.bench.model, self.recipe
        pictures, feed = self.bench.feed(examples, self.plan, recipe.table_gib)
        asked = dataclasses.replace(
            setup.asking(recipe, task), max_tokens=recipe.max_tokens if recipe.truncate else None
        )

        def made(purpose: str) -> Encoded:
            found, self.cut = rows.encode_rows(model, pictures, examples, asked, purpose)
            return rows.encoded(found, feed, examples, fixed=True)

        template = model.family.classifier if task.kind == CLASSIFY else model.family.template
        network = Network(model.family, model.config, self.plan.projected, causal=not template.prefix_lm)
        network, mesh = dataclasses.replace(network, cut=self.parts), self.bench.mesh
        candidates, stacks = candidates_of(task, examples), self.plan.stacks
        if task.kind == WRITE:
            candidates = 1 << (candidates - 1).bit_length()
        mean = setup.per_token(recipe, task)
        score = self.bench.program(
            (network, task.kind, self.plan.first, candidates, mean),
            lambda: compiled.compile_score(
                setup.scoring_network(network, task, candidates), stacks, candidates, mesh, per_token=mean
            ),
        )
        writer = None
        if task.kind == WRITE:
            prompts, length = made(rows.WRITE), tokens or recipe.answer_tokens
            writer = self.bench.program(
                (network, self.plan.first, "write", length, sampling),
                lambda: setup.make_writer(model, network, stacks, prompts, length, mesh, sampling),
            )
            writer = dataclasses.replace(writer, prompts=prompts)
        evaluator = Evaluator(
            task, examples, made(rows.SCORE), self.base, score, recipe.evaluate_batch, writer, candidates, mesh
        )
        return evaluator.predict(self.trainables, self.scales)[0]


def _as_one_roll(trained: Mapping[str, Any], cut: frozenset[str], mesh: Mesh | None) -> dict[str, Any]:
    """The arrays of a roll with an axis of rolls, [1, ...]: on the first card, or on a mesh's, whole or in parts."""
    if mesh is None:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], dict(trained))
    rolls = jax.tree.map(lambda leaf: np.asarray(leaf)[None], dict(trained))
    specs = trained_specs(rolls, cut, (ROLLS,))
    return {path: jax.device_put(leaf, NamedSharding(mesh, specs[path])) for path, leaf in rolls.items()}
