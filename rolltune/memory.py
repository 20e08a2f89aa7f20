"""What a run needs of a device's memory, part by part, and so how many rolls fit.

Weights, adapters and states are counted from shapes; what lies beside them while a program runs is what the compiler
says it sets aside (`programs`). All of it works on shapes alone (`training.outline`): it can be asked before anything
is loaded.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rolltune import quantize, sharding, trees
from rolltune.base import Opened
from rolltune.data.batches import Encoded
from rolltune.data.shapes import Shape, likely
from rolltune.device import is_gpu
from rolltune.evaluation.compiled import ROWS
from rolltune.free_memory import HEADROOM, free_bytes, gib
from rolltune.inputs import features, rows, states
from rolltune.inputs.feeds import DiskFeed, TableFeed, TileFeed
from rolltune.models.cut import mesh_in, specs_of
from rolltune.programs import Program, at_once, deepened, measure
from rolltune.sharding import WHOLE
from rolltune.training import outline
from rolltune.training import rolls as tickets
from rolltune.training.loop import Run
from rolltune.training.outline import Outline, Shaped
from rolltune.training.step import lying_as
from rolltune.weights.bitsandbytes import is_packed

LEAST_DEPTH = 4  # layers: from there on a program's memory grows evenly with their number
EXACT_DEPTH = 16  # up to which all layers are compiled


def depths_for(made: Outline) -> tuple[int, int]:
    """Two numbers of layers that say all about a deeper model; the second is the model's own where that is small."""
    each = outline.period(made.plan.stacks)
    short = each * math.ceil(LEAST_DEPTH / each)
    if made.depth <= max(EXACT_DEPTH, 2 * short):
        return max(1, made.depth // 2), made.depth
    return short, 2 * short


@dataclasses.dataclass(frozen=True)
class Need:
    """What a card holds in one part of a run, by what it is. Bytes."""

    part: str
    weights: int = 0  # frozen ones, as they lie there: of a base that is cut its part
    kept: int = 0  # rows of pictures and states that were worked out before
    trained: int = 0  # adapters, heads, weights that are trained, with the copies that new rolls begin from
    optimizer: int = 0
    activations: int = 0
    temporary: int = 0
    workspace: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, entry.name) for entry in dataclasses.fields(self)[1:])

    def beside(self, program: Program, more: int = 0) -> "Need":
        """With what a program sets aside, and the inputs that it is handed anew each time."""
        return dataclasses.replace(
            self,
            activations=self.activations + program.activations,
            temporary=self.temporary + program.temporary + program.output + more,
            workspace=self.workspace + program.workspace,
        )


def peak(needs: Iterable[Need]) -> Need:
    return max(needs, key=lambda need: need.total)


def size_of(tree: Any) -> int:
    """Bytes on a card: of what lies on several, its part."""

    def own(leaf: Any) -> tuple[int, ...]:
        place = getattr(leaf, "sharding", None)
        return leaf.shape if place is None else place.shard_shape(tuple(leaf.shape))

    return sum(math.prod(own(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def step_args(run: Run, data: Encoded, slots: int, each: int, shape: Shape | None = None) -> tuple:
    """What the step of so many rolls on each card, or group of cards, is called with, `each` rows in a micro-batch, in
    this shape, or in the largest of the data."""
    mesh, rolls = run.mesh, slots * sharding.size_of(run.mesh)
    batch, source = outline.batch_of(data.feed, shape or data.shapes[-1], (rolls, run.accumulate, filled(each, mesh)))
    made, split = lying_as(mesh)
    batch = outline.lying(batch, split, mesh)
    source = outline.lying(source, made if isinstance(data.feed, DiskFeed) else WHOLE, mesh)
    return run.base, source, outline.rolls_of(run, rolls), batch


def filled(rows: int, mesh: Mesh | None) -> int:
    """How many rows a batch has that the cards of a group have between them: as many on each."""
    cards = sharding.cards_in_group(mesh)
    return -(-rows // cards) * cards


def scored_batch(made: Outline, data: Encoded, shape: Shape | None = None) -> tuple[Any, Any]:
    """(batch, source) of an evaluation, in this shape, or in the largest of the data."""
    mesh, size = made.cached.mesh, filled(made.recipe.evaluate_batch, made.cached.mesh)
    batch, source = outline.batch_of(data.feed, shape or data.shapes[-1], (size,))
    rows = ROWS if sharding.cards_in_group(mesh) > 1 else WHOLE
    return outline.lying(batch, rows, mesh), outline.lying(source, WHOLE, mesh)


class Wanted(NamedTuple):
    """A program to measure: what part of a run, its arguments, and what of them is handed over anew."""

    jitted: Any
    args: tuple
    fresh: int


def step_of(made: Outline, slots: int, shape: Shape | None = None) -> Wanted:
    run, _ = made.programs
    args = step_args(run, made.cached.training, slots, made.recipe.batch, shape)
    return Wanted(run.step, args, _fresh(args[3], args[1], made.cached.training))


def score_of(made: Outline, slots: int, shape: Shape | None = None) -> Wanted:
    run, evaluator = made.programs
    rolls, data = outline.rolls_of(run, slots * sharding.size_of(run.mesh)), made.cached.scoring
    batch, source = scored_batch(made, data, shape)
    return Wanted(evaluator.score, (run.base, source, rolls.trainable, rolls.scale, batch), _fresh(batch, source, data))


def write_of(made: Outline, slots: int, shape: Shape | None = None) -> Wanted:
    """Rolls write side by side, as many as may; where these are not all, a copy of their adapters is made for it."""
    run, evaluator = made.programs
    data = made.cached.prompts
    assert evaluator.writer and data
    count = evaluator.writer.side_by_side(slots, made.recipe.evaluate_batch)
    rolls = outline.rolls_of(run, count * sharding.size_of(run.mesh))
    some = (rolls.trainable, rolls.scale)
    copied = size_of(some) if count < slots else 0
    batch, source = scored_batch(made, data, shape)
    numbers = Shaped(batch.valid.shape, np.dtype("uint32"), sharding=batch.valid.sharding)
    args = (run.base, source, *some, (batch, numbers))
    return Wanted(evaluator.writer.write, args, _fresh(batch, source, data) + copied)


OF_PART: dict[str, Callable[..., Wanted]] = {  # programs that come in several shapes, in the order of their first call
    "evaluation": score_of,
    "writing answers": write_of,
    "training step": step_of,
}


def unchecked(made: Outline, mesh: Mesh | None, rolls: int, draws: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """(part of the run, what compiles a program of it) of what `needs_of` leaves out, for so many rolls at once on the
    cards of a mesh, `draws` in all: what makes fresh ones, and the smaller shapes. Of the step, whose joint batches are
    seldom small, those that are expected to come at all."""
    recipe, cached, cards = made.recipe, made.cached, sharding.size_of(mesh)
    laid = made if cached.mesh == mesh else dataclasses.replace(made, cached=dataclasses.replace(cached, mesh=mesh))
    places = sharding.places_for(rolls, cards)
    rows = places * recipe.batch * recipe.accumulate
    needed = list(map(cached.training.feed.shape, cached.training.rows))
    step = likely(cached.training.shapes, needed, rows, recipe.steps * -(-draws // rolls))

    def compile_one(part: str, shape: Shape) -> None:
        jitted, args, _ = OF_PART[part](laid, -(-rolls // cards), shape)
        jitted.lower(*args).compile()

    def compile_fresh() -> None:
        run, _ = laid.programs
        program, given = tickets.beginning(run.lottery, run.config, run.start, [run.lottery.draw(0)] * places, mesh)
        program.lower(*given).compile()

    yield "evaluation", compile_fresh
    for part, data in zip(OF_PART, (cached.scoring, cached.prompts, cached.training), strict=True):
        if data:
            below = step if part == "training step" else data.shapes[:-1]
            # Where each card has a whole base, what was checked is the program of one card alone, which is not run.
            largest = data.shapes[-1:] if cached.mesh != mesh else ()
            yield from ((part, functools.partial(compile_one, part, shape)) for shape in (*below, *largest))


def _fresh(batch: Any, source: Any, data: Encoded) -> int:
    """Bytes that a call brings to the device: a table is there already."""
    return size_of(batch) + (0 if isinstance(data.feed, TableFeed) else size_of(source))


def needs_of(
    made: Outline,
    slots: int,
    place: Any = None,
    exact: bool = False,
    known: dict[bytes, Program] | None = None,
) -> list[Need]:
    """What each part of a run needs of a card, in the order in which they come: with so many rolls on each card, or on
    each group of cards that share a base. `place` is a card that is only described, or None.

    With `exact` the programs are compiled as they will run (and are found in the compiler's cache later); otherwise
    those of two smaller numbers of layers, which say the same in less time, and what the layers keep.
    """
    depth, mesh = made.depth, made.cached.mesh
    everywhere = place if place is None or mesh is None else NamedSharding(mesh, WHOLE)
    depths = (depth,) if exact else depths_for(made)
    cuts = {count: made if count == depth else outline.cut_depth(made, count) for count in depths}
    asked: dict[tuple[str, int], Callable[[], Program]] = {}

    def ask(part: str, wanted: Callable[[Outline, int], Wanted]) -> None:
        for count, cut in cuts.items():
            asked[part, count] = lambda cut=cut: measure(*wanted(cut, slots)[:2], everywhere, known)  # type: ignore[misc]

    ask("training step", step_of)
    ask("evaluation", score_of)
    if made.cached.prompts is not None:
        ask("writing answers", write_of)
    if tower := features_of(made):
        asked["image features", 0] = lambda: measure(*tower[:2], everywhere, known)
    if lower := states_of(made):
        asked["lower states", 0] = lambda: measure(*lower[:2], everywhere, known)
    if largest := encoding_of(made):
        asked["loading", 0] = lambda: measure(*largest[:2], place, known)
    found = dict(zip(asked, at_once(list(asked.values())), strict=True))
    pair = both = depths[0], depths[-1]
    # A layer keeps its input at least. Where two depths differ by less, what they need most is not the layers' (logits,
    # say), and hides what more of them will need.
    while pair[1] < depth and _growth(found, pair) < input_bytes(made, slots):
        pair = pair[1], min(2 * pair[1], depth)
        deeper = made if pair[1] == depth else outline.cut_depth(made, pair[1])
        found["training step", pair[1]] = measure(*step_of(deeper, slots)[:2], everywhere, known)

    def program(part: str) -> Program:
        if len(depths) == 1:
            return found[part, depth]
        own = pair if part == "training step" else both
        return deepened(found[part, own[0]], found[part, own[1]], own, depth)

    run, _ = made.programs
    rolls = outline.rolls_of(run, slots * sharding.size_of(mesh))
    start = size_of((made.cached.start.full, made.cached.start.adapters))
    whole, tables = size_of(made.params), tables_of(made)
    gone = () if isinstance(made.cached.scoring.feed, TileFeed) else made.model.family.towers
    towers = sum(size_of(made.params[name]) for name in gone)
    needs = [Need("loading", weights=loading_peak(made, found.get(("loading", 0))))]
    feed = outline.feed_of(made.model, made.plan, made.inputs.pictures, made.recipe.table_gib)
    kept = size_of(feed.source) if isinstance(feed, TableFeed) else 0
    if tower:
        needs.append(Need("image features", weights=whole).beside(found["image features", 0], tower.fresh))
    if made.cached.start.full:  # copied before the frozen ones are let go of
        needs.append(Need("weights to train", weights=whole - towers, kept=kept, trained=start))
    if lower:
        base = size_of(lower.args[0])
        own = Need("lower states", weights=base, kept=max(kept, tables), trained=start)
        needs.append(own.beside(found["lower states", 0], lower.fresh))
    standing = Need(
        "",
        weights=size_of(made.cached.base),
        kept=tables,
        trained=start + size_of(rolls.trainable),
        optimizer=size_of(rolls) - size_of(rolls.trainable),
    )
    for part in dict.fromkeys(part for part, _ in asked if part in OF_PART):
        fresh = OF_PART[part](made, slots).fresh
        needs.append(dataclasses.replace(standing, part=part).beside(program(part), fresh))
    return needs


def _growth(found: Mapping[tuple[str, int], Program], pair: Sequence[int]) -> float:
    """Bytes that one more layer adds to the step's temporaries, between two depths."""
    short, long = (found["training step", count].temporary for count in pair)
    return (long - short) / (pair[1] - pair[0])


def input_bytes(made: Outline, slots: int) -> float:
    """What a layer of the step is given on a card, of all rolls there, but for what padding of an array may hide."""
    tokens, config = step_of(made, slots).args[3].tokens, made.model.config
    count = size_of(tokens) / tokens.dtype.itemsize / made.recipe.accumulate
    return 0.9 * count * config.text.width * np.dtype(config.dtype).itemsize


def tables_of(made: Outline) -> int:
    """Bytes of all tables that stay on the device, each once."""
    feeds = [data.feed for data in (made.cached.training, made.cached.scoring, made.cached.prompts) if data]
    tables = {id(feed): size_of(feed.source) for feed in feeds if isinstance(feed, TableFeed)}
    return sum(tables.values())


def features_of(made: Outline) -> Wanted | None:
    """The frozen tower's program, on as many tiles at once as any picture's need."""
    pictures, model = made.inputs.pictures, made.model
    if not pictures.places or made.plan.in_step:
        return None
    counts = {pictures.tiles(key) for key in pictures.sizes}
    count = max(counts, key=lambda tiles: tiles * features.at_once(tiles))
    mesh = mesh_in(made.params)
    tile, size = outline.tile_of(pictures), filled(features.at_once(count), mesh)
    tiles = Shaped((size, count, *tile.shape[1:]), tile.dtype)
    needed = {name: part for name, part in made.params.items() if name != "text"}
    shown = outline.lying((tiles, Shaped((size, 1), np.dtype(np.int32))), ROWS, mesh)
    args = (needed, *shown)
    return Wanted(features.program(model, made.plan.projected, mesh), args, size_of(shown[0]))


def states_of(made: Outline) -> Wanted | None:
    """The program that works out states below the first trained layer."""
    if not made.plan.first or made.cached.network.first == 0:
        return None
    model, recipe = made.model, made.recipe
    feed = outline.feed_of(model, made.plan, made.inputs.pictures, recipe.table_gib)
    data = rows.encoded(made.inputs.scoring, feed, made.data.examples)
    batch, source = scored_batch(made, data)
    kept = {name: part for name, part in made.params.items() if name not in model.family.towers}
    listed, full = is_gpu(), made.plan.paths("full")
    base = jax.eval_shape(lambda tree: trees.arrange(tree, model.stacks, made.plan.first, listed, full), kept)
    base = outline.lying(base, specs_of(base), made.cached.mesh)
    return Wanted(states.program(made.cached.whole, mesh_in(base)), (base, batch, source), _fresh(batch, source, data))


def encoding_of(made: Outline) -> Wanted | None:
    """What quantizes the largest of the matrices that are quantized while they are loaded."""
    opened, words = made.opened, packed_here(made.opened)
    sizes = {row.path: row.shape for row in opened.table if row.path in words}
    if not sizes:
        return None
    path = max(sizes, key=lambda path: math.prod(sizes[path]))
    matrix, word = Shaped(sizes[path], opened.kind), words[path]
    return Wanted(jax.jit(lambda kernel: quantize.encoded(kernel, word)), (matrix,), size_of(matrix))


def packed_here(opened: Opened) -> dict[str, str]:
    """path -> the word, of what is quantized while it is loaded: nothing that the file has in four bits."""
    there = opened.checkpoint.tensors
    words = {row.path: opened.words.get(row.path, quantize.KEEP) for row in opened.table if not is_packed(there, row)}
    return {path: word for path, word in words.items() if word != quantize.KEEP}


def loading_peak(made: Outline, encoding: Program | None) -> int:
    """The most that lies on the device while the weights come: of what is quantized, its last matrix as it was, too."""
    opened, leaves, whole = made.opened, trees.flatten(made.params), made.opened.shapes()
    words, held, most = packed_here(opened), 0, 0
    for row in opened.table:
        size = size_of(leaves[row.path])
        now = size
        if encoding and row.path in words:  # all of it on the first card
            matrix = math.prod(row.shape) * opened.kind.itemsize
            now = size_of(whole[row.path]) + matrix + encoding.temporary
        most = max(most, held + now)
        held += size
    return most


def most_rolls(one: Sequence[Need], two: Sequence[Need], room: float, most: int = 64) -> int:
    """How many rolls fit, by what one and two need: every further roll costs the same. 0 where not even one does."""
    count = most
    for first, second in zip(one, two, strict=True):
        each = max(second.total - first.total, 0)
        left = room - first.total
        if left < 0:
            return 0
        count = min(count, 1 + int(left // each) if each else most)
    return count


def step_bytes(run: Run, slots: int) -> int:
    """Peak bytes on a card of one step of `slots` rolls on each card, or on each group of cards, beside the base and
    the tables: states and temporaries."""
    loader = run.loader(run.lottery.draw(0, fold=None if run.folds is None else 0))
    args = step_args(run, loader.data, slots, loader.batch // run.accumulate)
    return measure(run.step, args).total + size_of(args[2]) + _fresh(args[3], args[1], loader.data)


def fit_rolls(run: Run, most: int = 64) -> tuple[int, str]:
    """(how many rolls fit, in words why). Two compiled programs, of one roll and of two, give the cost of a roll.

    Over several cards as many fit on each as on the fullest; where groups of them share a base, on each group.
    """
    free, cards = free_bytes(), sharding.size_of(run.mesh) if run else 1
    if free is None:
        return 4 * cards, f"rolls: {4 * cards}, since this device does not say how much memory it has"
    one, two = step_bytes(run, 1), step_bytes(run, 2)
    each = max(two - one, 1)
    count = max(1, most_rolls([Need("step", temporary=one)], [Need("step", temporary=two)], free * HEADROOM, most))
    group = sharding.cards_in_group(run.mesh)
    whole = f"{count} on each of {cards} cards: " if cards > 1 else ""
    if group > 1:
        whole = f"{count} on each group of {group} cards: "
    why = f"{gib(free)} are free, the first takes {gib(one)}, each further one {gib(each)}"
    return count * cards, f"rolls: {count * cards}: {whole}{why}"
