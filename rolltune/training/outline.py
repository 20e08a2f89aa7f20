"""What setting up would make, as shapes alone: nothing is loaded, no picture is decoded, no device is needed.

The same five steps as in `setup`, with `jax.ShapeDtypeStruct` in the place of arrays: programs can be traced and
compiled with it, and what they need of a device is known before anything lies there.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from rolltune import trees
from rolltune.base import Model, Opened
from rolltune.batch import NOTHING, Batch, Row, Source
from rolltune.data.batches import Encoded, Feed
from rolltune.data.examples import Example, Turn
from rolltune.data.shapes import Shape
from rolltune.device import is_gpu
from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.metrics import Positive
from rolltune.evaluation.tasks import AUTO, CHOOSE, CLASSIFY, WRITE, Task
from rolltune.inputs import features, rows, states
from rolltune.inputs.disk import Files
from rolltune.inputs.feeds import DiskFeed, TableFeed, TileFeed
from rolltune.inputs.pictures import Key, Pictures, places_of
from rolltune.models.cut import Places, specs_of, trained_specs
from rolltune.models.family import Size
from rolltune.recipe import Recipe
from rolltune.sharding import ROLLS
from rolltune.training import rolls as tickets
from rolltune.training import setup
from rolltune.training.dataset import Data
from rolltune.training.loop import Run
from rolltune.training.plan import Plan, plan_for
from rolltune.training.rolls import InitialWeights
from rolltune.training.setup import Cached, Inputs
from rolltune.training.step import Roll, roll_specs
from rolltune.trees import Stacks

Shaped = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class Stated:
    """What is said of the data where there are none yet."""

    tokens: int  # of text a row, answer included, pictures apart
    answer: int  # of these, tokens of the answer
    pictures: tuple[Size, ...] = ()  # height and width of each picture of a row
    rows: int = 100


class NoTokenizer:
    """Stands for the tokenizer of a model that nothing is encoded for."""

    bos, eos, pad, path = 1, 2, 0, Path("none")

    def __init__(self, size: int):
        self.size = size

    def encode(self, text: str) -> list[int]:
        raise ValueError(f"no tokenizer to encode {text!r} with")

    def decode(self, ids: Sequence[int]) -> str:
        raise ValueError("no tokenizer to decode with")

    def special(self, name: str) -> int:
        return 3


@dataclasses.dataclass(frozen=True)
class Outline:
    """All that is needed to trace the programs of a run. Arrays are shapes."""

    opened: Opened
    recipe: Recipe
    data: Data
    plan: Plan
    inputs: Inputs
    params: dict  # as loaded
    cached: Cached

    @property
    def model(self) -> Model:
        return self.opened.model

    @property
    def depth(self) -> int:
        """How many layers the step runs."""
        return sum(map(len, self.plan.stacks.values()))

    @functools.cached_property
    def programs(self) -> tuple[Run, Evaluator]:
        """The step and the evaluation, to be lowered, never to be called."""
        return setup.compile(self.model, self.plan, self.recipe, self.data, self.cached, _no_loader, 1)


def outline(opened: Opened, recipe: Recipe, data: Data, inputs: Inputs, places: Places | None = None) -> Outline:
    """With `places` of a base that several cards share, which may be only described: shapes that say where they lie.

    Raises UserError for a recipe that the model can't be trained by, as `plan_for` does.
    """
    lay = (lambda path, leaf: leaf) if places is None else places.describe
    params = trees.unflatten({path: lay(path, leaf) for path, leaf in opened.shapes().items()})
    plan = plan_for(opened.model, trees.shapes(params), recipe, data.task)
    made = cached(opened.model, params, plan, recipe, data, inputs, places)
    return Outline(opened, recipe, data, plan, inputs, params, made)


def lying(tree: Any, specs: Any, mesh: Mesh | None) -> Any:
    """The shapes with where they lie on the cards of a mesh; as they are without one. A spec is for all below it."""
    if mesh is None:
        return tree
    at = lambda leaf, spec: Shaped(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
    below = lambda spec, part: jax.tree.map(lambda leaf: at(leaf, spec), part)
    return jax.tree.map(below, specs, tree, is_leaf=lambda one: isinstance(one, PartitionSpec))


def cached(
    model: Model, params: dict, plan: Plan, recipe: Recipe, data: Data, inputs: Inputs, places: Places | None = None
) -> Cached:
    """As `setup.cache`, which works out what this only gives the shapes of."""
    mesh = None if places is None else places.mesh
    cut = None if places is None else places.paths.intersection(plan.paths("full"))
    seen = [data.examples[place] for place in data.seen]
    feed = feed_of(model, plan, inputs.pictures, recipe.table_gib)
    training = rows.encoded(inputs.training, feed, seen, inputs.views)
    scoring = rows.encoded(inputs.scoring, feed, data.examples)
    prompts = rows.encoded(inputs.prompts, feed, data.examples) if inputs.prompts else None
    kept = dict(params)
    if not plan.in_step and not isinstance(feed, TileFeed):
        for tower in model.family.towers:
            kept.pop(tower)
    start = initial_weights(model, kept, plan, recipe.trained_dtype)
    start = dataclasses.replace(start, full=lying(start.full, trained_specs(start.full, cut or frozenset(), ()), mesh))
    listed, full = is_gpu(), plan.paths("full")
    frozen = jax.eval_shape(lambda tree: trees.arrange(tree, model.stacks, plan.first, listed, full), kept)
    frozen = lying(frozen, specs_of(frozen), mesh)
    network = whole = dataclasses.replace(setup.network_of(model, plan, recipe, data.task), cut=cut)
    if plan.first:
        pair = [states_of(model, encoded, plan.first, recipe.table_gib) for encoded in (training, scoring)]
        if pair[0] and pair[1]:
            training, scoring = pair[0], pair[1]
            network = dataclasses.replace(network, first=plan.first, projected=True)
            if prompts is None:
                frozen["text"].pop("lower")
    return Cached(frozen, network, whole, training, scoring, prompts, start, mesh)


def feed_of(model: Model, plan: Plan, pictures: Pictures, limit_gib: float) -> TableFeed | DiskFeed | TileFeed:
    """As `features.feed`; the disk is taken to have room."""
    learned, dtype = model.family.learned_count, jnp.dtype(model.config.dtype)
    if not pictures.places:
        return TableFeed(learned, NOTHING, {})
    if plan.in_step:
        return TileFeed(learned, pictures)
    width = features.width_of(model, plan.projected)
    if features.in_table(model, pictures, plan.projected, limit_gib):
        return TableFeed(learned, Source(Shaped((features.rows_of_table(pictures), width), dtype)), {})
    return DiskFeed(learned, Files({}, {}, width, dtype))


def states_of(model: Model, encoded: Encoded, first: int, limit_gib: float) -> Encoded | None:
    """As `states.keep`."""
    crossing, in_memory = states.placing(model, encoded, first, limit_gib)
    if crossing and not isinstance(encoded.feed, TableFeed if in_memory else DiskFeed):
        return None
    learned, width, dtype = model.family.learned_count, model.config.text.width, jnp.dtype(model.config.dtype)
    feed: TableFeed | DiskFeed = DiskFeed(learned, Files({}, {}, width, dtype))
    if in_memory:
        beside = encoded.feed.source.rows.shape[0] if crossing else 0  # type: ignore[attr-defined]  # a table, as asked
        total = sum(len(row.tokens) for row in encoded.rows) + beside
        feed = TableFeed(learned, Source(Shaped((total, width), dtype)), {})
    return states.pointing(encoded, feed, list(map(str, range(len(encoded)))), learned, crossing)


def initial_weights(model: Model, params: dict, plan: Plan, dtype: str) -> InitialWeights:
    made: list[InitialWeights] = []

    def full(tree: dict) -> dict[str, Any]:
        made.append(setup.initial_weights(model, tree, plan, dtype))
        return made[0].full

    shapes = jax.eval_shape(full, params)
    return dataclasses.replace(made[0], full=shapes)


def with_programs(made: Outline, run: Run, evaluator: Evaluator) -> tuple[Run, Evaluator]:
    """The same with the outline's own programs, where they are the same ones: what was traced and compiled of them
    before the weights came is there when they are called."""
    outlined, judging = made.programs
    same = lambda own, other: type(own.encoded.feed) is type(other.encoded.feed)
    if (run.config, run.mesh) != (outlined.config, outlined.mesh) or not same(evaluator, judging):
        return run, evaluator
    run, evaluator = dataclasses.replace(run, step=outlined.step), dataclasses.replace(evaluator, score=judging.score)
    if evaluator.writer and judging.writer:
        writer = dataclasses.replace(evaluator.writer, write=judging.writer.write)
        evaluator = dataclasses.replace(evaluator, writer=writer)
    return run, evaluator


def _no_loader(draw: Any) -> Any:
    raise ValueError("an outline has no rows to load")


def rolls_of(run: Run, slots: int) -> Roll:
    """The state of so many rolls, laid over the run's cards."""
    draws = [run.lottery.draw(number) for number in range(slots)]
    start, optimizer = run.start, run.config.optimizer
    # The shapes are those of all cards' parts together, which is what one card that has all of them makes.
    alone = dataclasses.replace(run.config, optimizer=dataclasses.replace(optimizer, cut=frozenset()))

    def begin(full: dict, adapters: dict) -> Roll:
        return tickets.begin(run.lottery, alone, dataclasses.replace(start, full=full, adapters=adapters), draws)

    rolls = jax.eval_shape(begin, start.full, start.adapters)
    return lying(rolls, roll_specs(optimizer, rolls.trainable, (ROLLS,)), run.mesh)


def batch_of(feed: Feed, shape: Shape, lead: tuple[int, ...]) -> tuple[Batch, Source]:
    """A batch of that shape with these leading axes (rolls, micro-batches, rows), and the source it points into."""
    whole = lambda *inner: Shaped((*lead, *inner), np.dtype(np.int32))
    tiles, aspect = Shaped((*lead, 0, 1, 1, 3), np.dtype(np.uint8)), whole(0)
    source = NOTHING
    if isinstance(feed, TileFeed):
        if shape.tiles:
            one = tile_of(feed.pictures)
            tiles, aspect = Shaped((*lead, shape.tiles, *one.shape[1:]), one.dtype), whole(shape.pictures)
    elif isinstance(feed, DiskFeed):
        count = int(np.prod(lead)) * shape.rows
        source = Source(Shaped((count, feed.files.width), feed.files.dtype))
    else:
        assert isinstance(feed, TableFeed)
        source = feed.source
    T, M = shape.tokens, shape.targets
    batch = Batch(
        tokens=whole(T),
        positions=whole(T),
        blocks=whole(T),
        segments=whole(T),
        slots=whole(T),
        predict=whole(M),
        targets=whole(M),
        candidates=whole(M),
        weights=Shaped((*lead, M), np.dtype(np.float32)),
        label=whole(),
        valid=Shaped(lead, np.dtype(bool)),
        keys=whole(shape.keys),
        seen=whole(T if shape.keys else 0, 2),
        tiles=tiles,
        aspect=aspect,
    )
    return batch, source


def tile_of(pictures: Pictures) -> np.ndarray:
    """The tiles [n, h, w, 3] that a picture of the data's first size gives: an empty one, so no file is opened."""
    height, width = next(iter(pictures.sizes.values()))
    assert pictures.family.picture
    return pictures.family.picture(pictures.config, Image.new("RGB", (width, height))).pixels


def cut_depth(made: Outline, count: int) -> Outline:
    """The same with the first `count` of the layers that the step runs: what it needs grows evenly with them."""
    numbers = sorted(number for some in made.plan.stacks.values() for number in some)[:count]
    stacks: Stacks = {name: tuple(n for n in some if n in numbers) for name, some in made.plan.stacks.items()}
    plan = dataclasses.replace(made.plan, stacks=stacks)
    start, old = made.cached.start, made.cached.base

    def stacked(path: str, shape: Sequence[int]) -> tuple[int, ...]:
        name = trees.stack_of(path, stacks)
        return tuple(shape) if name is None else (len(stacks[name]), *shape[1:])

    shorter = lambda path: lambda leaf: Shaped(stacked(path, leaf.shape), leaf.dtype, sharding=leaf.sharding)
    start = dataclasses.replace(
        start,
        lora={path: stacked(path, shape) for path, shape in start.lora.items()},
        full={path: shorter(path)(leaf) for path, leaf in start.full.items()},
        adapters={path: jax.tree.map(shorter(path), leaf) for path, leaf in start.adapters.items()},
    )
    layers = old["text"]["layers"]
    if isinstance(layers, list):
        layers = layers[:count]
    else:
        layers = jax.tree.map(lambda leaf: Shaped((count, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding), layers)
    base = old | {"text": old["text"] | {"layers": layers}}
    return dataclasses.replace(made, plan=plan, cached=dataclasses.replace(made.cached, base=base, start=start))


def period(stacks: Stacks) -> int:
    """How many layers in a row have as many of each kind as any such many (nearly): 1 where all are alike."""
    total = sum(map(len, stacks.values()))
    fewest = min((len(some) for some in stacks.values() if some), default=1)
    return max(1, round(total / fewest)) if len([1 for some in stacks.values() if some]) > 1 else 1


def stated_data(model: Model, recipe: Recipe, said: Stated) -> tuple[Data, Inputs]:
    """Rows that are all alike, as long as is said."""
    kind = recipe.task if recipe.task != AUTO else (CHOOSE if recipe.answers else WRITE)
    task = Task(kind, () if kind == WRITE else recipe.answers or ("yes", "no"))
    turns = (Turn("user", ""), Turn("assistant", task.answers[0] if task.answers else ""))
    examples = [Example(f"row{n}", (), turns, "stated") for n in range(said.rows)]
    sizes: dict[Key, Size] = {
        Key(Path(f"{n}.{i}")): size for n in range(said.rows) for i, size in enumerate(said.pictures)
    }
    by_size = {size: places_of(model.family, model.config, size) for size in set(said.pictures)}
    pictures = Pictures(model.family, model.config, sizes, {key: by_size[size] for key, size in sizes.items()})
    answers = len(task.answers) if kind == CHOOSE else 1
    text = said.tokens - said.answer
    targets = 1 if kind == CLASSIFY else said.answer

    def made(shown: tuple, tokens: int, predicted: int) -> Row:
        used = [pictures.places[key] for key in shown]
        starts = np.cumsum([0, *[len(one.used) for one in used]])
        learned = model.family.learned_count
        place = lambda numbers, by: np.where(numbers >= learned, numbers + by, numbers).astype(np.int32)
        pairs = list(zip(used, starts[:-1], strict=True))
        slots = np.concatenate([*[place(one.slots, by) for one, by in pairs], np.full(tokens, -1, np.int32)])
        keys = np.concatenate([np.zeros(0, np.int32), *[place(one.keys, by) for one, by in pairs]])
        zeros = lambda *shape: np.zeros(shape, np.int32)
        T = len(slots)
        counts = tuple(len(one.used) for one in used)
        return Row(
            zeros(T), np.arange(T, dtype=np.int32), zeros(T), zeros(T), slots, zeros(predicted), zeros(predicted),
            zeros(predicted), 0, keys, zeros(T, 2), shown, counts,
        )  # fmt: skip

    keys_of_row = lambda n: tuple(Key(Path(f"{n}.{i}")) for i in range(len(said.pictures)))
    of_row = [keys_of_row(n) for n in range(said.rows)]
    if kind == CLASSIFY:
        text, said = said.tokens, dataclasses.replace(said, answer=0)
    training = [made(shown, text + said.answer, targets) for shown in of_row]
    scoring = [made(shown, text + answers * said.answer, answers * targets) for shown in of_row]
    prompts = [made(shown, text, 0) for shown in of_row] if kind == WRITE else []
    spans = {"train": range(said.rows)}
    data = Data(examples, spans, {}, task, Positive(None, ""), [frozenset()] * said.rows)
    return data, Inputs(pictures, training, scoring, prompts, 0)
