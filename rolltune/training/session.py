"""A training from files to figures: reads, encodes, loads, trains, evaluates. What `learn` prints is decided there."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rolltune import adapters, base, optim
from rolltune.data.batches import Loader, Rows, Shapes
from rolltune.data.examples import Example
from rolltune.data.images import apply_frame_policy
from rolltune.data.sources import read_examples
from rolltune.errors import UserError
from rolltune.evaluation import metrics as measuring
from rolltune.evaluation.metrics import Metrics, Positive, Prediction
from rolltune.evaluation.scoring import allowed_answers, score_rows, subset
from rolltune.recipe import Recipe
from rolltune.training import inputs, step
from rolltune.training.loop import Judgement, Run
from rolltune.training.rolls import Draw, Start


@dataclasses.dataclass(frozen=True)
class Data:
    """The splits of a data set, in order, as one list; `spans` says which rows are which split's."""

    examples: list[Example]
    spans: dict[str, range]
    files: dict[str, Path]
    answers: tuple[str, ...]
    positive: Positive

    def of(self, split: str) -> list[Example]:
        return [self.examples[place] for place in self.spans[split]]

    def id_in_file(self, place: int) -> str:
        """A row's id as its file has it, without the split's name."""
        return self.examples[place].id.partition("/")[2]

    @property
    def seen(self) -> list[int]:
        """The rows that may choose a roll: all but the test split's."""
        return [place for split, span in self.spans.items() if split != "test" for place in span]


def read_data(files: dict[str, Path], recipe: Recipe, say: Callable[[str], None]) -> Data:
    """Reads and checks every file before anything is loaded. All problems of a file come in one UserError."""
    examples: list[Example] = []
    spans = {}
    for split, path in files.items():
        some = apply_frame_policy(read_examples(path, say=say), recipe.frames)
        # An id is unique in its file; two splits may each have a row 1.
        some = [dataclasses.replace(one, id=f"{split}/{one.id}") for one in some]
        spans[split] = range(len(examples), len(examples) + len(some))
        examples += some
    answers = allowed_answers(recipe.answers, [one.answer for one in examples])
    counts = {answer: sum(one.answer == answer for one in examples) for answer in answers}
    if recipe.positive and recipe.positive not in answers:
        raise UserError(f"positive: {recipe.positive!r} is not one of the answers {list(answers)}")
    positive = (
        Positive(recipe.positive, f"{recipe.positive!r} is the positive answer")
        if recipe.positive
        else measuring.choose_positive(answers, counts)
    )
    return Data(examples, spans, files, answers, positive)


@dataclasses.dataclass(frozen=True)
class Session:
    """Everything ready to train and to evaluate."""

    recipe: Recipe
    model: base.Model
    data: Data
    run: Run
    score: Callable[..., list[Prediction]]  # (trainables [R], scales [R]) -> a Prediction of all rows for each

    def measure(self, prediction: Prediction, places: Sequence[int]) -> Metrics:
        return measuring.measure(subset(prediction, places), self.data.positive.answer)

    def score_rolls(self, rolls: step.Roll) -> list[Prediction]:
        return self.score(rolls.trainable, rolls.scale)

    def judge(self, metric: str, folds: Sequence[int] | None) -> Callable[..., dict[int, Judgement]]:
        """Evaluates the rolls of some slots: on the validation rows, or a fold's own, or else on the training rows."""

        def judging(rolls: step.Roll, slots: Sequence[int], final: bool, draws: Sequence[Draw | None]) -> dict:
            predictions = self.score_rolls(rolls)
            verdicts = {}
            for slot in slots:
                places = judged_rows(self.data, folds, draws[slot])
                figures = self.measure(predictions[slot], places)
                figure = figures.figure(metric)
                figure = -float("inf") if figure is None else -figure if metric == "log-loss" else figure
                verdicts[slot] = Judgement(figure, measuring.collapsed(figures), predictions[slot])
            return verdicts

        return judging


def judged_rows(data: Data, folds: Sequence[int] | None, draw: Draw | None) -> list[int]:
    if folds is not None and draw is not None:
        return [place for place, fold in zip(data.seen, folds, strict=True) if fold == draw.fold]
    return list(data.spans.get("valid") or data.spans["train"])


def prepare(
    recipe: Recipe,
    data: Data,
    draws: int,
    *,
    folds: Sequence[int] | None = None,
    fold_count: int | None = None,
    continued: dict[str, Any] | None = None,
) -> Session:
    """Loads the model and works out all that is frozen. `continued` are a roll's adapters or weights to go on from."""
    model = base.load(recipe.model, recipe.tokenizer, recipe.dtype)
    words = adapters.plan(recipe.trainability, list(adapters.flatten(model.params)))
    trained = [path for path, word in words.items() if word != "frozen"]
    depth = model.config.text.layers
    if recipe.first_layer >= depth:
        raise UserError(f"first_layer: {recipe.first_layer}, but the decoder has the layers 0 to {depth - 1}")
    outside = [path for path in trained if not path.startswith(adapters.LAYERS)]
    if recipe.first_layer and outside:
        raise UserError(f"first_layer: {recipe.first_layer}, but {outside[0]!r} lies outside the decoder's layers")
    tower = any(path.startswith(("vision/", "projector/")) for path in trained)
    images = inputs.prepare_images(model, data.examples, tower, recipe.table_gib)

    training_rows = inputs.make_rows(model, images, [data.examples[p] for p in data.seen], recipe.prompt)
    scoring_rows = inputs.make_rows(model, images, data.examples, recipe.prompt, data.answers)
    training_shapes = training_rows.shapes(recipe.max_tokens)
    scoring_shapes = scoring_rows.shapes()

    params = adapters.split_layers(model.params, recipe.first_layer)
    if images.opened and not tower:
        params.pop("vision")  # its work is done; the memory is the rolls'
    lora = {path: leaf.shape for path, leaf in adapters.flatten(params).items() if words.get(path) == "lora"}
    frozen, full = adapters.partition(params, words)
    model.params, params = {}, {}
    full = {path: jnp.asarray(leaf, jnp.float32) for path, leaf in full.items()}
    table = scoring_table = images.table
    if recipe.first_layer:
        kept = [
            inputs.keep_states(
                model, frozen, images, rows, shapes,
                first_layer=recipe.first_layer, batch=recipe.evaluate_batch, limit_gib=recipe.table_gib,
            )
            for rows, shapes in ((training_rows, training_shapes), (scoring_rows, scoring_shapes))
        ]  # fmt: skip
        if kept[0] and kept[1]:  # otherwise the layers stay, and each step runs them
            (table, training_rows), (scoring_table, scoring_rows) = kept[0], kept[1]
            frozen["text"].pop("lower")
    if jax.default_backend() == "gpu":
        frozen = adapters.unstack_layers(frozen)

    forward = step.Forward(partial(model.family.log_probs, model.config, remat=recipe.remat))
    warmup = round(recipe.warmup * recipe.steps)
    plan = step.Plan(
        optim.Schedule(recipe.schedule, recipe.steps, warmup),
        optim.transform(recipe.optimizer, recipe.clip or None),
        dropout=recipe.dropout,
        average=recipe.average,
        explosion_factor=recipe.explosion_factor,
        explosion_margin=recipe.explosion_margin,
    )
    continued = continued or {}
    for path in continued:
        if path not in lora and path not in full:
            raise UserError(f"the roll to go on from trained {path!r}, which this recipe does not")
    start = Start(
        lora={path: shape for path, shape in lora.items() if path not in continued},
        full={path: jnp.asarray(continued.get(path, leaf), jnp.float32) for path, leaf in full.items()},
        adapters={path: jax.tree.map(jnp.asarray, leaf) for path, leaf in continued.items() if path in lora},
    )
    run = Run(
        recipe,
        plan,
        start,
        step.compile_step(plan, forward),
        frozen,
        table,
        _loaders(recipe, training_rows, training_shapes, data, folds),
        draws,
        fold_count,
    )
    score = step.compile_score(forward, len(data.answers))
    scored = lambda trainables, scales: score_rows(
        score,
        frozen,
        scoring_table,
        trainables,
        scales,
        scoring_rows,
        scoring_shapes,
        data.answers,
        recipe.evaluate_batch,
    )
    return Session(recipe, model, data, run, scored)


def _loaders(
    recipe: Recipe, rows: Rows, shapes: Shapes, data: Data, folds: Sequence[int] | None
) -> Callable[[Draw], Loader]:
    """A draw's batches: of the training split, or of all rows but its fold's. One Rows serves them all."""
    made: dict[tuple, Loader] = {}

    def loader(draw: Draw) -> Loader:
        key = (draw.seed, draw.fold)
        if key not in made:
            if folds is None:
                places = [data.seen.index(place) for place in data.spans["train"]]
            else:
                places = [number for number, fold in enumerate(folds) if fold != draw.fold]
            made[key] = Loader(
                rows if len(places) == len(rows) else rows.some(places),
                recipe.batch * recipe.accumulate,
                draw.seed,
                shapes,
                balance=recipe.balance == "sample",
                weighted=recipe.balance == "weight",
            )
        return made[key]

    return loader
