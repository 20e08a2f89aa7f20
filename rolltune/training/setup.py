"""From files to something that runs, in five steps that can each be called alone: load, plan, encode, cache, compile.

`plan.py` has the second. Setting up costs time linear in the rows. What must be said is said in the first steps:
before hours of work, not after.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rolltune import base, optim, sharding, trees
from rolltune.adapters import CLASSES
from rolltune.base import Model
from rolltune.batch import Row
from rolltune.data.batches import Encoded, Loader
from rolltune.data.boxes import has_boxes
from rolltune.data.examples import Example
from rolltune.data.views import MOVING, UNTOUCHED, views
from rolltune.device import is_gpu
from rolltune.errors import UserError
from rolltune.evaluation import compiled
from rolltune.evaluation.evaluator import Evaluator, Writer, candidates_of
from rolltune.evaluation.tasks import CHOOSE, CLASSIFY, WRITE, Task
from rolltune.inputs import features, rows, states
from rolltune.inputs.feeds import DiskFeed, TableFeed, TileFeed
from rolltune.inputs.pictures import Pictures, read_pictures, with_views
from rolltune.inputs.rows import Asking
from rolltune.models import generate
from rolltune.models.cut import Places, is_cut, uncut
from rolltune.models.forward import Network
from rolltune.models.generate import Sampling
from rolltune.quantize import Quantized
from rolltune.recipe import Recipe
from rolltune.text import encode as encoding
from rolltune.text.tokenizer import Remembering
from rolltune.training import step
from rolltune.training.dataset import Data
from rolltune.training.guess import guessing_loss
from rolltune.training.loop import Looks, Run
from rolltune.training.plan import Plan, in_columns
from rolltune.training.rolls import Draw, InitialWeights, Lottery
from rolltune.training.step import StepConfig
from rolltune.trees import Stacks

LEAST_STALL = 100  # steps: every roll begins above a guess's loss


def open_model(recipe: Recipe) -> base.Opened:
    """The model without its weights: enough to encode rows, and to say what the run will need."""
    return base.open_model(recipe.model, recipe.tokenizer, recipe.dtype, recipe.packing, recipe.num_crops)


def load(recipe: Recipe) -> tuple[Model, dict]:
    """The model, and its parameters on the device: on a GPU with the decoder's layers in lists, as they run there."""
    return base.load_opened(open_model(recipe), is_gpu())


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Encoded rows: `training` of those that may be trained on, `scoring` of all, `prompts` for written answers."""

    pictures: Pictures
    training: list[Row]  # in all views, one after the other
    scoring: list[Row]
    prompts: list[Row]
    cut: int  # training rows whose text was cut
    views: int = 1


def asking(recipe: Recipe, task: Task) -> Asking:
    return Asking(task, recipe.prompt, recipe.max_tokens, recipe.truncate == "right")


def encode(model: Model, recipe: Recipe, data: Data, folds: Sequence[int] | None = None) -> Inputs:
    """Tokens of all rows; pictures are looked at, none is decoded. All rows that are too long come in one UserError."""
    pictures = read_pictures(model.family, model.config, data.examples)
    model = dataclasses.replace(model, tokenizer=Remembering(model.tokenizer))
    asked, seen = asking(recipe, data.task), [data.examples[place] for place in data.seen]
    training, cut = rows.encode_rows(model, pictures, seen, asked, rows.TRAIN)
    scoring, _ = rows.encode_rows(model, pictures, data.examples, asked, rows.SCORE)
    prompts: list[Row] = []
    if data.task.kind == WRITE:
        prompts, _ = rows.encode_rows(model, pictures, data.examples, asked, rows.WRITE)
    if not recipe.augment:
        return Inputs(pictures, training, scoring, prompts, cut)
    _check_places(recipe.augment, seen)
    changed, places = views(recipe.augment, recipe.views), trained_places(data, folds)
    keys = dict.fromkeys(key for place in places for key in training[place].pictures)
    if not keys:
        raise UserError(
            f"augment: {', '.join(recipe.augment)}; but the rows to train on show no pictures: leave it out"
        )
    pictures = with_views(pictures, keys, changed[1:])
    return Inputs(pictures, rows.in_views(training, places, changed), scoring, prompts, cut, len(changed))


def _check_places(augment: Sequence[str], examples: Sequence[Example]) -> None:
    """Raises UserError where a view would move what a row's boxes lie on: a row has one text, for all its views."""
    moving = [word for word in augment if word in MOVING]
    placed = next((one for one in examples if any(has_boxes(turn.text) for turn in one.turns)), None)
    if moving and placed is not None:
        raise UserError(
            f"augment: {', '.join(moving)} moves what is in a picture, and {placed.source} says where that is "
            "(<loc0123>): its boxes would be wrong. Leave it out; colour may stay"
        )


def price_of_views(model: Model, plan: Plan, recipe: Recipe, inputs: Inputs) -> str:
    """What several views of each picture cost, in words; empty without."""
    if inputs.views == 1:
        return ""
    drawn = f"each step draws one of {inputs.views} views of a picture ({', '.join(recipe.augment)})"
    if plan.in_step:
        return f"{drawn}; the tower runs in the step, so none is kept"
    plain = [key for key in inputs.pictures.places if key.view == UNTOUCHED]
    untouched = dataclasses.replace(inputs.pictures, places={key: inputs.pictures.places[key] for key in plain})
    now, before = (features.bytes_of(model, pictures, plan.projected) for pictures in (inputs.pictures, untouched))
    kept = [f"image features take {now / 2**30:.2f} GiB in the place of {before / 2**30:.2f}"]
    if plan.first:
        kept.append(f"states of lower layers {inputs.views} times as much")
    return f"{drawn}; {', '.join(kept)}"


@dataclasses.dataclass(frozen=True)
class Cached:
    """What is computed before the first step: the frozen tree as it runs, and rows that point at what is kept."""

    base: dict
    network: Network  # of training, and but for `causal` of scoring
    whole: Network  # of generation, which runs all layers
    training: Encoded
    scoring: Encoded
    prompts: Encoded | None
    start: InitialWeights
    mesh: Mesh | None = None  # the cards that all of it lies on; None: one


def on_cards(cached: Cached, mesh: Mesh | None) -> Cached:
    """The frozen tree and the tables on every card, copied from the one that they were made on, leaf by leaf.

    What rolls begin from stays where it is: each beginning asks for it.
    """
    if mesh is None:
        return cached
    sharding.whole_on_each(cached.base, mesh)
    moved: dict[int, Any] = {}  # a table that several share is still one

    def placed(encoded: Encoded | None) -> Any:
        if encoded is None or not isinstance(encoded.feed, TableFeed):
            return encoded
        feed = encoded.feed
        if id(feed) not in moved:
            moved[id(feed)] = dataclasses.replace(feed, source=sharding.whole(feed.source, mesh))
        return dataclasses.replace(encoded, feed=moved[id(feed)])

    training, scoring, prompts = map(placed, (cached.training, cached.scoring, cached.prompts))
    return dataclasses.replace(cached, training=training, scoring=scoring, prompts=prompts, mesh=mesh)


def cache(
    model: Model, params: dict, plan: Plan, recipe: Recipe, data: Data, inputs: Inputs, places: Places | None = None
) -> Cached:
    """Runs all that is frozen once, and takes what is done with from the device. `params` are emptied; `places` says
    where they lie, if on cards in groups.

    Raises UserError where a weight that is to be trained itself is quantized.
    """
    flat = trees.flatten(params)
    if packed := [path for path in plan.paths("full") if is_quantized(flat.get(path))]:
        raise UserError(
            f"{packed[0]} is quantized, so only adapters can be trained on it: --config.method=lora, or keep it as it "
            "is by a rule of --config.quantize_rules"
        )
    if CLASSES in flat:
        params["text"]["classes"]["kernel"] = in_columns(flat[CLASSES], plan.columns)
    del flat
    feed = features.feed(model, params, inputs.pictures, plan.projected, plan.in_step, recipe.table_gib)
    seen = [data.examples[place] for place in data.seen]
    training = rows.encoded(inputs.training, feed, seen, inputs.views)
    scoring = rows.encoded(inputs.scoring, feed, data.examples)
    prompts = rows.encoded(inputs.prompts, feed, data.examples) if inputs.prompts else None
    if not plan.in_step and not isinstance(feed, TileFeed):
        for tower in model.family.towers:
            params.pop(tower)  # its work is done; the memory is the rolls'
    start = initial_weights(model, params, plan, recipe.trained_dtype)
    cut = None if places is None else places.paths.intersection(plan.paths("full"))
    frozen = trees.arrange(params, model.stacks, plan.first, is_gpu(), plan.paths("full"))
    network = whole = dataclasses.replace(network_of(model, plan, recipe, data.task), cut=cut)
    if plan.first:
        keep = lambda encoded: states.keep(
            model, network, frozen, encoded, plan.first, recipe.evaluate_batch, recipe.table_gib
        )
        kept, judged = keep(training), keep(scoring)
        if kept and judged:  # otherwise the layers stay, and each step runs them
            training, scoring = kept, judged
            network = dataclasses.replace(network, first=plan.first, projected=True)
            if prompts is None:
                frozen["text"].pop("lower")
    return Cached(frozen, network, whole, training, scoring, prompts, start)


def network_of(model: Model, plan: Plan, recipe: Recipe, task: Task) -> Network:
    """All layers of the model, with rows of features."""
    template = model.family.classifier if task.kind == CLASSIFY else model.family.template
    return Network(model.family, model.config, plan.projected, remat=recipe.remat, causal=not template.prefix_lm)


def initial_weights(model: Model, params: dict, plan: Plan, dtype: str = "float32") -> InitialWeights:
    """Shapes of adapters and of a new head; copies, of this dtype, of the weights that are trained themselves."""
    flat, shapes = trees.flatten(params), trees.shapes(params)
    stack = lambda path: trees.stack_of(path, plan.stacks)
    upper = lambda path, shape: (len(plan.stacks[name]), *shape[1:]) if (name := stack(path)) else tuple(shape)
    lora = {path: upper(path, shapes[path]) for path in plan.paths("lora")}
    cut = lambda path: trees.cut_of(path, model.stacks, plan.first)
    full = {path: copied(flat[path][cut(path) :] if cut(path) else flat[path], dtype)
            for path in plan.paths("full") if path in flat}  # fmt: skip
    heads: dict[str, tuple[int, ...]] = {}
    if plan.new_classes:
        heads[CLASSES] = (model.config.text.width, plan.new_classes)
    return InitialWeights(lora, full, heads)


def is_quantized(leaf: Any) -> bool:
    return isinstance(uncut(leaf[0] if isinstance(leaf, list) else leaf), Quantized)


def copied(leaf: Any, dtype: str) -> jax.Array:
    """A leaf's own copy, stacked where its layers are a list; of one that is cut each card copies its own part."""
    if isinstance(leaf, list):
        if is_cut(leaf[0]):
            part = leaf[0].values.sharding
            stacked = NamedSharding(part.mesh, PartitionSpec(None, *part.spec))
            return _stacked(stacked)([layer.values for layer in leaf], dtype)
        return jnp.stack([layer.astype(dtype) for layer in leaf])
    return jnp.array(uncut(leaf), dtype)


@functools.cache
def _stacked(places: NamedSharding) -> Callable[..., jax.Array]:
    stack = lambda layers, dtype: jnp.stack([layer.astype(dtype) for layer in layers])
    return jax.jit(stack, static_argnums=1, out_shardings=places)


def going_on(start: InitialWeights, continued: Mapping[str, Any]) -> InitialWeights:
    """The weights of a roll to go on from in the place of fresh ones. Raises UserError for what is not trained now."""
    for path in continued:
        if path not in start.lora and path not in start.full and path not in start.heads:
            raise UserError(f"the roll to go on from trained {path!r}, which this recipe does not")
    as_float = lambda leaf: jnp.asarray(leaf, jnp.float32)

    def in_its_place(path: str, leaf: Any) -> Any:
        if path not in start.full:  # a head
            return as_float(leaf)
        like = start.full[path]
        return sharding.placed(np.asarray(leaf, like.dtype), like.sharding)

    own = {path: in_its_place(path, leaf) for path, leaf in continued.items() if not isinstance(leaf, dict)}
    return InitialWeights(
        lora={path: shape for path, shape in start.lora.items() if path not in continued},
        full=start.full | own,
        heads={path: shape for path, shape in start.heads.items() if path not in continued},
        adapters={path: {side: as_float(x) for side, x in leaf.items()}
                  for path, leaf in continued.items() if isinstance(leaf, dict)},
    )  # fmt: skip


def compile(
    model: Model,
    plan: Plan,
    recipe: Recipe,
    data: Data,
    cached: Cached,
    loaders: Callable[[Draw], Loader],
    draws: int,
    folds: int | None = None,
) -> tuple[Run, Evaluator]:
    """The step and the evaluation; XLA compiles each when it is called first."""
    matrices = (*plan.stacks, *model.family.tower_stacks)  # their leaves hold a matrix for each layer
    config = StepConfig(
        cached.network,
        plan.stacks,
        optim.Schedule(recipe.schedule, recipe.steps, recipe.warmup),
        optim.Optimizer(
            recipe.optimizer, recipe.clip or None, recipe.momentum, matrices, cached.network.cut or frozenset()
        ),
        dropout=recipe.dropout,
        average=recipe.average,
        explosion_factor=recipe.explosion_factor,
        explosion_margin=recipe.explosion_margin,
        guess=guessing_loss(data.task, cached.training, recipe.average),
    )
    run = Run(
        lottery(recipe),
        Looks(
            recipe.steps,
            recipe.log_every,
            recipe.rungs,
            recipe.keep_share,
            recipe.redraws,
            max(LEAST_STALL, round(recipe.stall * recipe.steps)) if recipe.stall else 0,
            recipe.save_every,
            recipe.evaluate_every,
            recipe.keep_best,
        ),
        config,
        cached.start,
        step.compile_step(config, cached.mesh, isinstance(cached.training.feed, DiskFeed)),
        cached.base,
        loaders,
        recipe.accumulate,
        draws,
        folds,
        mesh=cached.mesh,
    )
    candidates = candidates_of(data.task, data.examples)
    network, mesh = scoring_network(cached.network, data.task, candidates), cached.mesh
    score = compiled.compile_score(network, plan.stacks, candidates, mesh, per_token(recipe, data.task))
    writer = None
    if cached.prompts is not None:
        writer = make_writer(model, cached.whole, plan.stacks, cached.prompts, recipe.answer_tokens, mesh)
    batch = recipe.evaluate_batch
    evaluator = Evaluator(data.task, data.examples, cached.scoring, cached.base, score, batch, writer, mesh=cached.mesh)
    return run, evaluator


def scoring_network(network: Network, task: Task, candidates: int) -> Network:
    """Candidate answers stand side by side in a row, those of a head in no place of their own."""
    return dataclasses.replace(network, causal=network.causal and (task.kind == CLASSIFY or candidates == 1))


def per_token(recipe: Recipe, task: Task) -> bool:
    """Whether candidate answers are scored by the mean of their tokens; what is written is judged as a whole."""
    return recipe.length_normalized and task.kind == CHOOSE


def make_writer(
    model: Model,
    network: Network,
    stacks: Stacks,
    prompts: Encoded,
    tokens: int,
    mesh: Mesh | None = None,
    sampling: Sampling | None = None,
) -> Writer:
    template, tokenizer = model.family.template, model.tokenizer
    write = compiled.compile_write(network, stacks, tokens, encoding.stop_ids(template, tokenizer), mesh, sampling)
    text = lambda ids: encoding.answer_text(template, tokenizer, ids)
    return Writer(prompts, write, text, tokens, generate.kept_bytes(network))


def lottery(recipe: Recipe) -> Lottery:
    return Lottery(
        recipe.seed,
        recipe.rates or (recipe.rate,),
        recipe.alphas or (recipe.alpha,),
        recipe.weight_decays or (recipe.weight_decay,),
        recipe.rank,
        recipe.rslora,
        recipe.rate_range if not recipe.rates else (),
        recipe.redraw_factor,
    )


def trained_places(data: Data, folds: Sequence[int] | None) -> np.ndarray:
    """int [n]: which of `data.seen` are trained on, by some roll: with folds, all of them."""
    if folds is not None:
        return np.arange(len(folds))
    number = {place: n for n, place in enumerate(data.seen)}
    return np.array([number[place] for place in data.spans["train"]])


def loaders(recipe: Recipe, training: Encoded, data: Data, folds: Sequence[int] | None) -> Callable[[Draw], Loader]:
    """A draw's batches: of the training split, or of all rows but its fold's. The encoded rows serve them all."""
    made: dict[tuple, Loader] = {}
    split = trained_places(data, folds)

    def loader(draw: Draw) -> Loader:
        key = (draw.seed, draw.fold)
        if key not in made:
            places = split if folds is None else np.flatnonzero(np.asarray(folds) != draw.fold)
            balance, weighted = recipe.balance == "sample", recipe.balance == "weight"
            made[key] = Loader(training, places, recipe.batch * recipe.accumulate, draw.seed, balance, weighted)
        return made[key]

    return loader
