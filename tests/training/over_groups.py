"""A base that is cut over the cards of a group, on virtual devices: run by test_over_cards.py in a process of four."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_families import FAMILIES, PALIGEMMA
from small_model import make_example

from rolltune import adapters, optim, quantize, sharding, trees
from rolltune.data.batches import Encoded, Loader, joint_batch
from rolltune.data.shapes import shapes_for
from rolltune.evaluation import compiled
from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.tasks import WRITE, Task
from rolltune.inputs import features
from rolltune.inputs.feeds import DiskFeed
from rolltune.models import cut, layers
from rolltune.training import checkpoints, loop, setup
from rolltune.training import rolls as tickets
from rolltune.training.loop import Evaluation, Looks, Run
from rolltune.training.plan import plan_of
from rolltune.training.rolls import Lottery
from rolltune.training.step import StepConfig, compile_step

ANSWERS = ("yes", "no", "Zeb", "a", "bcd", "yes", "no")
LOTTERY = Lottery(0, (0.01, 0.02), (8.0,), (0.1,), rank=2)
LORA = [(r"text/(layers|cross)/(attn|cross|mlp)/.*/kernel", "lora"), (".*", "frozen")]
FULL = [(r"(vision|projector)/.*", "frozen"), (".*", "full")]
TOWER = [(r"vision/.*/kernel", "full"), (r".*attn/.*/kernel", "lora"), (".*", "frozen")]
INT8 = [(r"text/(layers|cross)/.*/kernel", "int8"), (".*", "keep")]


def made_on(small, mesh, rules, first=0, listed=False, dtype="float32", packed=(), on_disk=False):
    """(network, stacks, base, start, feed) of a family, as `training.setup` makes them on these cards."""
    params = trees.unflatten(trees.flatten(small.params))
    if packed:
        params = quantize.quantize_tree(params, packed)
    flat = trees.flatten(params)
    plan = plan_of(small.model, dict(zip(flat, words(rules, flat), strict=True)), first)
    places = None
    if mesh is not None:
        places = cut.places_for(mesh, dict.fromkeys(flat, "fsdp"), flat)
        split = lambda path, leaf: list(leaf) if listed and trees.stack_of(path, small.model.stacks) else leaf
        put = lambda path, leaf: (
            [places.put(path, one) for one in leaf] if isinstance(leaf, list) else places.put(path, leaf)
        )
        params = trees.unflatten({path: put(path, split(path, leaf)) for path, leaf in flat.items()})
    feed = small.tiles if plan.in_step else features.table(small.model, params, small.pictures, plan.projected)
    if on_disk:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                features, "content", lambda keys: {key: f"picture{number}" for number, key in enumerate(keys)}
            )
            files = features.files(small.model, params, small.pictures, plan.projected)
        feed = DiskFeed(small.family.learned_count, files)
    start = setup.initial_weights(small.model, params, plan, dtype)
    in_parts = None if places is None else places.paths.intersection(plan.paths("full"))
    base = trees.arrange(params, small.model.stacks, first, listed, plan.paths("full"))
    if mesh is not None:
        sharding.whole_on_each(base, mesh)
    network = dataclasses.replace(small.net, projected=plan.projected, cut=in_parts)
    return network, plan.stacks, base, start, feed


def words(rules, paths):
    return adapters.trainability(rules, list(paths)).values()


def encoded(small, feed):
    rows = [small.row("is it?", answer, shown=[n % 8]) for n, answer in enumerate(ANSWERS)]
    return Encoded(rows, feed, shapes_for([feed.shape(row) for row in rows]), list(ANSWERS))


def a_run(small, mesh, rules, rolls=1, optimizer="adamw", batch=3, dropout=0.0, remat=False, steps=3, **more):
    network, stacks, base, start, feed = made_on(small, mesh, rules, **more)
    network = dataclasses.replace(network, remat=remat)
    matrices = (*stacks, *small.family.tower_stacks)
    config = StepConfig(
        network,
        stacks,
        optim.Schedule("cosine", 6, 1),
        optim.Optimizer(optimizer, 0.5, 0.9 if optimizer == "sgd" else 0.0, matrices, network.cut or frozenset()),
        dropout=dropout,
    )
    data = encoded(small, feed)
    step = compile_step(config, mesh, isinstance(feed, DiskFeed))
    loader = lambda draw: Loader(data, np.arange(7), 2 * batch, draw.seed)
    looks = Looks(steps=steps, log_every=2)
    return Run(LOTTERY, looks, config, start, step, base, loader, 2, rolls, mesh=mesh), data


def go(run, rolls, state=None, losses=None, **more):
    state = state or loop.new_state(run, rolls)
    judge = lambda rolls, some, final: {n: Evaluation(-state.slots[n].draw.roll, False) for n in some}
    log = lambda state, report: losses is not None and losses.append(sharding.fetched(report.loss))
    loop.train(run, state, judge, log, lambda text: None, **more)
    return state


def near(found, expected, rtol=1e-3, atol=4e-4):
    assert len(found.ended) == len(expected.ended)
    of = lambda state: {one.draw.roll: one for one in state.ended}
    for number, one in of(expected).items():
        other = of(found)[number]
        for (path, a), b in zip(
            jax.tree.leaves_with_path(other.trainable), jax.tree.leaves(one.trainable), strict=True
        ):
            np.testing.assert_allclose(
                a.astype(np.float32), b.astype(np.float32), rtol=rtol, atol=atol, err_msg=str(path)
            )


LISTED = dict(listed=True, remat=True)
KINDS = {
    "lora": (PALIGEMMA, 4, 1, dict(rules=LORA, dropout=0.3)),
    "features on the disk": (PALIGEMMA, 2, 2, dict(rules=LORA, on_disk=True)),
    "full": (PALIGEMMA, 2, 2, dict(rules=FULL)),
    "adafactor": (PALIGEMMA, 2, 1, dict(rules=FULL, optimizer="adafactor", **LISTED)),
    "a tower": (PALIGEMMA, 2, 1, dict(rules=TOWER, dropout=0.3)),
    "states of lower layers": (PALIGEMMA, 2, 1, dict(rules=LORA, first=1)),
    "llava, full": (FAMILIES[2], 2, 1, dict(rules=FULL, **LISTED)),
    "phi, int8": (FAMILIES[3], 2, 1, dict(rules=LORA, listed=True, packed=INT8)),
    "mllama, int8": (FAMILIES[4], 2, 1, dict(rules=LORA, packed=INT8)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_trains_as_one_card(kind):
    """Three rows a micro-batch on two and four cards: rows are filled up, answers differ in length."""
    small, cards, rolls, more = KINDS[kind]
    found, expected = [], []
    run, _ = a_run(small, sharding.groups_of(rolls, cards), rolls=rolls, **more)
    alone, _ = a_run(small, None, rolls=rolls, **more)
    near(go(run, rolls, losses=found), go(alone, rolls, losses=expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    parts = [leaf for leaf in jax.tree.leaves(run.base, is_leaf=cut.is_cut) if cut.is_cut(leaf)]
    assert parts and all(
        shard.data.size * cards == leaf.size
        for part in parts
        for leaf in jax.tree.leaves(part)
        if leaf.ndim > 1
        for shard in leaf.addressable_shards
    )


def collectives(program):
    """(kind, shape, forward or back) of each that the compiled program has, and how many there are."""
    found = collections.Counter()
    for line in program.compile().as_text().splitlines():
        names = "all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute"
        if match := re.search(rf"= (\(.*?\)|\S+) ({names})(-start)?\(", line):
            found[match[2], re.sub(r"\{.*?\}", "", match[1]), "back" if "transpose(" in line else "forward"] += 1
    return found


def lowered(run, rolls):
    state = loop.new_state(run, rolls)
    of_mesh = sharding.size_of(run.mesh), sharding.cards_in_group(run.mesh)
    batch, source = joint_batch([run.loader(slot.draw) for slot in state.slots], [0] * rolls, 2, *of_mesh)
    return run.step.lower(run.base, source, state.rolls, batch)


def test_what_travels_is_one_matrix_at_a_time_and_gradients_of_what_is_trained():
    """Of a frozen base each matrix travels whole, once each way and layer; the first layer's inputs need no gradient.
    Of a trained one its gradient goes back in parts."""
    mesh = sharding.groups_of(1, 2)
    frozen = collectives(lowered(a_run(PALIGEMMA, mesh, LORA, listed=True, packed=INT8)[0], 1))
    ways = lambda found, kind, shape: [found[kind, shape, way] for way in ("forward", "back")]
    assert ways(frozen, "all-gather", "s8[32,48]") == [3, 3]  # down
    assert ways(frozen, "all-gather", "s8[48,32]") == [6, 6]  # gate, up
    assert ways(frozen, "all-gather", "s8[16,32]") == [6, 4]  # k, v
    assert ways(frozen, "all-gather", "s8[32,32]") == [6, 5]  # q, o
    assert ways(frozen, "all-gather", "f32[64,32]") == [1, 0]  # the table of the logits
    assert [key for key in frozen if key[0] == "reduce-scatter"] == [("reduce-scatter", "f32[1,2,16,32]", "forward")]
    assert sum(count for key, count in frozen.items() if key[0] == "all-reduce") == 1  # of adapters and loss
    assert {key[0] for key in frozen} == {"all-gather", "reduce-scatter", "all-reduce"}

    full = collectives(lowered(a_run(PALIGEMMA, mesh, FULL, listed=True)[0], 1))
    assert ways(full, "all-gather", "f32[1,48,32]") == [3, 3]
    assert ways(full, "reduce-scatter", "f32[1,24,32]") == [0, 3]
    assert ways(full, "reduce-scatter", "f32[1,16,48]") == [0, 6]
    assert sum(count for key, count in full.items() if key[0] == "all-reduce") == 1  # of norms' gradients and loss


def judged(mesh, listed=False, count=4):
    """What so many rolls, changed at random, score and write."""
    network, stacks, base, start, feed = made_on(PALIGEMMA, mesh, LORA, listed=listed)
    config = StepConfig(network, stacks, optim.Schedule("cosine", 6, 1), optim.Optimizer("adamw"))
    rolls = tickets.begin(LOTTERY, config, start, [LOTTERY.draw(number) for number in range(count)], mesh)
    noise = lambda leaf: np.random.default_rng(leaf.size).normal(0, 0.3, leaf.shape).astype(np.float32)
    moved = lambda leaf: sharding.placed(sharding.fetched(leaf) + noise(leaf), leaf.sharding)
    data = encoded(PALIGEMMA, feed)
    prompts = [PALIGEMMA.row("is it?", shown=[number]) for number in range(3)]
    asked = dataclasses.replace(data, rows=prompts, shapes=shapes_for([feed.shape(row) for row in prompts]))
    writer = setup.make_writer(PALIGEMMA.model, network, stacks, asked, 3, mesh)
    examples = [make_example(number) for number in range(3)]
    score = compiled.compile_score(network, stacks, 1, mesh)
    scored = dataclasses.replace(data, rows=data.rows[:3])
    judge = Evaluator(Task(WRITE, ()), examples, scored, base, score, 3, writer, mesh=mesh)
    return judge.predict(jax.tree.map(moved, rolls.trainable), rolls.scale)


def test_a_group_scores_and_writes_as_one_card():
    expected = judged(None)
    assert len({one.texts for one in expected}) > 2
    for listed in (False, True):
        found = judged(sharding.groups_of(2, 2), listed)
        assert [one.texts for one in found] == [one.texts for one in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-4, atol=1e-5)


def test_resumed_on_other_cards_to_rounding_and_a_roll_drawn_again(tmp_path, monkeypatch):
    """Two rolls, of which one dies and is drawn again: on two groups, gone on with on one card, and the other way."""
    monkeypatch.setitem(globals(), "LOTTERY", Lottery(0, (0.01, 1e30), (8.0,), (0.1,), rank=2, redraw_factor=1e-32))
    two, made = sharding.groups_of(2, 2), {}
    for mesh in (two, None):
        made[mesh] = dataclasses.replace(a_run(PALIGEMMA, mesh, FULL, rolls=2, steps=6)[0])
    expected = go(made[None], 2)
    assert [one.redrawn for one in expected.ended] == [True, False, False]
    for before, after in ((two, None), (None, two)):
        folder = tmp_path / f"{sharding.size_of(before)}"
        state = loop.new_state(made[before], 2)
        keep = lambda now, folder=folder: checkpoints.save(folder, now, {}, lambda judged: judged)
        go(made[before], 2, state, stop=lambda state=state: state.step >= 4, save=keep)
        loaded = checkpoints.load(folder, {}, loop.new_state(made[after], 2), lambda judged: judged)
        resumed = go(made[after], 2, loaded)
        one, other = [{end.draw.roll: end for end in state.ended} for state in (resumed, expected)]
        assert one.keys() == other.keys() and [end.redrawn for end in resumed.ended] == [True, False, False]
        near(resumed, expected, atol=2e-3)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
@pytest.mark.parametrize(
    ("dtype", "part"), [("float32", 1 << 22), ("bfloat16", 2048)], ids=["float32, whole", "bfloat16, 4 or 6 parts"]
)
def test_rows_of_a_matrix_move_as_within_it(name, dtype, part, monkeypatch):
    """On four cards: blocks of eight bits, means of rows and columns, and random roundings are those of one card."""
    monkeypatch.setattr(optim, "PART", part)
    monkeypatch.setattr(optim, "LARGE", part)
    shapes = {"text/layers/mlp/up/kernel": (2, 128, 128), "text/norm/scale": (256,), "text/head/kernel": (256, 128)}
    draw = np.random.default_rng(6)
    params = {path: jnp.asarray(draw.normal(size=shape), dtype) for path, shape in shapes.items()}
    names = [path for path in shapes if "kernel" in path]
    assert all(cut.can_be_cut(path, params[path], 4) for path in names)
    number = lambda value: jnp.asarray(value, jnp.float32)

    def steps(optimizer):
        def run(params, grads):
            new, state = params, optimizer.init(params)
            for step in (1, 2):
                scaled = jax.tree.map(lambda leaf, step=step: jnp.sin(leaf * step), grads)
                clipped = optimizer.clipping(optimizer.norm(scaled))
                update = optim.Update(
                    number(0.1), number(0.01), jnp.asarray(step), clipped, jnp.asarray(True), jax.random.key(step)
                )
                new, state = optimizer.update(update, scaled, state, new)
            return new, state

        return run

    momentum = 0.9 if name == "sgd" else 0.0
    one = optim.Optimizer(name, 1.0, momentum, ("text/layers",))
    expected, kept = jax.jit(steps(one))(params, params)
    parted = dataclasses.replace(one, cut=frozenset(names))
    spec = cut.trained_specs(params, parted.cut, ())
    places = (spec, spec if parted.keeps_rows else sharding.WHOLE)
    mesh = sharding.groups_of(1, 4)
    program = jax.shard_map(steps(parted), mesh=mesh, in_specs=(spec, spec), out_specs=places, check_vma=False)
    found, own = jax.jit(program)(params, params)
    for a, b in zip(jax.tree.leaves((found, own)), jax.tree.leaves((expected, kept)), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        off = np.abs(a - b) > 1e-5 + 1e-4 * np.abs(b)
        # A sum in another order may turn a rounding, in a number out of thousands.
        assert a.shape == b.shape and off.mean() < 1e-3, (name, off.mean())


@pytest.mark.parametrize("word", ["nf4-double", "nf4-float8", "float8"])
def test_a_quantized_matrix_comes_together_in_bytes(word):
    """Over four cards: the product, and the gradient of its input, as on one. Whole trainings are not compared in
    float8: a sum in another order turns roundings there that are a sixteenth of a number."""
    mesh = sharding.groups_of(1, 4)
    draw = np.random.default_rng(0)
    kernel, x = (jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in ((128, 64), (8, 128)))
    matrix = quantize.KINDS[word](kernel.T)
    part = cut.places_for(mesh, {"a/kernel": "fsdp"}, {"a/kernel": matrix}).put("a/kernel", matrix)
    if word == "float8":
        assert part.values.values.addressable_shards[0].data.shape == (16, 128)
    else:
        assert part.values.packed.addressable_shards[0].data.shape == (16, 64)
        assert part.values.scales.codes.addressable_shards[0].data.shape == (32,)
    own = jax.sharding.PartitionSpec(sharding.CARDS)
    both = jax.value_and_grad(lambda x, w: jnp.sum(jnp.sin(layers.product(x, w))))
    each = lambda x, w: (jax.lax.psum((made := both(x, w))[0], sharding.CARDS), made[1])
    specs = (own, cut.specs_of(part))
    found = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=(sharding.WHOLE, own), check_vma=False))
    for a, b in zip(found(x, part), both(x, matrix), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
