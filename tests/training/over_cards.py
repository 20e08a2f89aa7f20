"""Rolls over several cards, on virtual devices: run by test_over_cards.py in a process that has them."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from small_families import PALIGEMMA
from small_model import make_example

from rolltune import optim, sharding
from rolltune.data.batches import Loader, joint_batch
from rolltune.data.shapes import shapes_for
from rolltune.errors import UserError
from rolltune.evaluation import compiled, evaluator
from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.tasks import WRITE, Task
from rolltune.inputs import features
from rolltune.inputs.feeds import DiskFeed
from rolltune.training import checkpoints, loop, setup
from rolltune.training import rolls as tickets
from rolltune.training.loop import Evaluation, Looks, Run
from rolltune.training.rolls import Lottery
from rolltune.training.step import Roll, StepConfig, compile_step

ANSWERS = ("yes", "no", "Zeb", "a", "bcd", "yes", "no")
RATES = (0.05, 0.02, 1e30, 0.03, 0.01)  # the third roll dies, and is drawn again at a rate that serves
LOTTERY = Lottery(0, RATES, (8.0,), (0.0,), rank=2, redraw_factor=1e-32)
LOOKS = Looks(steps=6, log_every=2, rungs=(0.5,), keep_share=0.4, redraws=1)
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")


@pytest.fixture(scope="module")
def config(prepared):
    optimizer = optim.Optimizer("adamw", 1.0, stacks=tuple(prepared.stacks))
    return StepConfig(prepared.network, prepared.stacks, optim.Schedule("cosine", 6, 1), optimizer, dropout=0.25)


@pytest.fixture(scope="module")
def rows(encoded_rows):
    return encoded_rows(ANSWERS)


def on_each(base, mesh):
    """A copy of the tree, on every card of the mesh."""
    copied = jax.tree.map(lambda leaf: leaf, base)
    if mesh is not None:
        sharding.whole_on_each(copied, mesh)
    return copied


@pytest.fixture(scope="module")
def make_run(config, prepared, rows):
    """`make_run(mesh)`: five rolls over its cards."""

    steps = {}  # each compiled once

    def make(mesh, data=rows) -> Run:
        own = isinstance(data.feed, DiskFeed)
        step = steps.setdefault((mesh, own), compile_step(config, mesh, own))
        loader = lambda draw: Loader(data, np.arange(7), 2, draw.seed)
        return Run(LOTTERY, LOOKS, config, prepared.start, step, on_each(prepared.base, mesh), loader, 2, 5, mesh=mesh)

    return make


def go(run, state=None, **more):
    state = state or loop.new_state(run, 5)
    judge = lambda rolls, some, final: {n: Evaluation(-state.slots[n].draw.roll, False) for n in some}
    loop.train(run, state, judge, lambda state, report: None, lambda text: None, **more)
    return state


def near(found, expected):
    """All rolls end alike, and what they trained differs by rounding."""
    assert len(found.ended) == len(expected.ended) == 6 and sum(one.redrawn for one in found.ended) == 1
    of = lambda state: {one.draw.roll: one for one in state.ended}
    for number, one in of(expected).items():
        other = of(found)[number]
        assert dataclasses.replace(other, trainable=None) == dataclasses.replace(one, trainable=None)
        for a, b in zip(jax.tree.leaves(other.trainable), jax.tree.leaves(one.trainable), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def alone(make_run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "WORTH_A_PROGRAM", 1)
        return go(make_run(None))


@pytest.fixture
def closing(monkeypatch):
    monkeypatch.setattr(loop, "WORTH_A_PROGRAM", 1)


def test_the_fewest_cards_that_are_as_fast_as_all():
    assert [sharding.cards_for(rolls, 4) for rolls in (1, 2, 4, 5, 6, 8, 9, 16)] == [1, 2, 4, 3, 3, 4, 3, 4]
    assert [sharding.size_of(sharding.mesh_of(rolls)) for rolls in (1, 5, None)] == [1, 3, 4]
    assert sharding.told(5, sharding.mesh_of(5)) == "cards: 3 of 4, 2 rolls on each, 1 of these places empty"
    assert [sharding.groups_of(rolls, 2).shape for rolls in (1, 3)] == [
        {"rolls": 1, "cards": 2},
        {"rolls": 2, "cards": 2},
    ]
    for size in (0, 1, 3, 8):
        with pytest.raises(UserError, match=f"sharding_group: {size} of 4 cards"):
            sharding.groups_of(1, size)


def test_what_is_frozen_lies_whole_on_every_card_and_a_shared_table_stays_one(prepared, rows):
    mesh, base = sharding.mesh_of(5), jax.tree.map(lambda leaf: leaf, prepared.base)
    cached = setup.Cached(base, prepared.network, prepared.network, rows, rows, None, prepared.start)
    assert setup.on_cards(cached, None) is cached
    placed = setup.on_cards(cached, mesh)
    for leaf in jax.tree.leaves((placed.base, placed.training.feed.source)):
        assert leaf.sharding.is_fully_replicated and leaf.sharding.device_set == set(mesh.devices.flat)
    assert placed.training.feed is placed.scoring.feed and placed.prompts is None and placed.mesh == mesh
    same(placed.base, prepared.base)
    same(placed.training.feed.source, rows.feed.source)


def test_rolls_over_cards_equal_rolls_on_one(make_run, alone, closing):
    """Five on three cards: a place is empty from the start, one roll dies and is drawn again, losers stop at the rung,
    and those that are left move to one place a card."""
    mesh, widths = sharding.mesh_of(5), []
    run = make_run(mesh)

    def step(base, source, rolls, batch):
        widths.append(len(rolls.step))
        assert all(leaf.sharding.spec == sharding.SPLIT for leaf in jax.tree.leaves(rolls))
        return run.step(base, source, rolls, batch)

    found = go(dataclasses.replace(run, step=step))
    near(found, alone)
    assert set(widths) == {6, 3} and len(found.slots) == 3


def test_resumed_on_as_many_cards_bit_for_bit_and_on_others_to_rounding(make_run, alone, closing, tmp_path):
    three = sharding.mesh_of(5)
    whole = go(make_run(three))
    for before, after, places in ((three, three, 6), (three, None, 5), (None, three, 6)):
        folder, run, same_run = (
            tmp_path / f"{sharding.size_of(before)}to{sharding.size_of(after)}",
            make_run(before),
            before is after,
        )
        keep = lambda now, folder=folder: checkpoints.save(folder, now, {}, lambda judged: judged)
        state = loop.new_state(run, 5)
        go(run, state, stop=lambda state=state: state.step >= 2, save=keep)
        run = make_run(after)
        loaded = checkpoints.load(folder, {}, loop.new_state(run, 5), lambda judged: judged)
        assert len(loaded.slots) == len(loaded.rolls.step) == places
        resumed = go(run, loaded)
        near(resumed, alone)
        if same_run:
            same([one.trainable for one in resumed.ended], [one.trainable for one in whole.ended])


def test_a_state_cut_along_several_axes_is_read_on_any_other_cards(tmp_path):
    """Each card writes its own parts; those that read them may be cut along other axes, or be one."""

    def laid(rolls, columns, start):
        mesh = Mesh(np.array(jax.devices()[: rolls * columns]).reshape(rolls, columns), ("rolls", "columns"))
        lay = lambda leaf, *axes: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("rolls", *axes)))
        large = lay(start + np.arange(64, dtype=np.float32).reshape(2, 4, 8), None, "columns")
        leaves = {name: lay(np.full(2, start, np.float32)) for name in Roll._fields}
        slots = [loop.Slot(LOTTERY.draw(number)) for number in range(2)]
        return loop.State(Roll(**leaves | {"trainable": {"w": large}}), slots, 2)

    for number, (before, after) in enumerate([((2, 2), (1, 4)), ((1, 4), (2, 1)), ((2, 1), (1, 1)), ((1, 1), (2, 2))]):
        folder, state, fresh = tmp_path / str(number), laid(*before, 5), laid(*after, 0)
        checkpoints.save(folder, state, {}, lambda judged: judged)
        likes = jax.tree.map(lambda leaf: leaf.sharding, fresh.rolls)
        loaded = checkpoints.load(folder, {}, fresh, lambda judged: judged)
        same(loaded.rolls, state.rolls)
        assert jax.tree.map(lambda leaf: leaf.sharding, loaded.rolls) == likes
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(fresh.rolls))  # no card held both


@pytest.fixture(scope="module")
def on_disk(rows, tmp_path_factory):
    """The same rows, whose pictures' features each step brings along."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROLLTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(features, "content", lambda keys: {key: f"picture{key}" for key in keys})
        files = features.files(PALIGEMMA.model, PALIGEMMA.params, PALIGEMMA.pictures, False)
        feed = DiskFeed(PALIGEMMA.family.learned_count, files)
        yield dataclasses.replace(rows, feed=feed, shapes=shapes_for([feed.shape(row) for row in rows.rows]))


def test_each_card_is_sent_its_own_rolls_rows(make_run, alone, closing, on_disk, monkeypatch):
    run = make_run(sharding.mesh_of(5), on_disk)
    near(go(run), alone)
    loaders = [run.loader(run.lottery.draw(number)) for number in range(6)]
    whole, _ = joint_batch(loaders, [0] * 6, 2)
    batch, source = joint_batch(loaders, [0] * 6, 2, groups=3)
    same(batch._replace(slots=0), whole._replace(slots=0))
    made = []
    count = DiskFeed.make
    monkeypatch.setattr(DiskFeed, "make", lambda *args: made.append(len(args[1])) or count(*args))
    part, their_source = joint_batch(loaders, [0] * 6, 2, groups=3, own=range(1, 3))  # of a host with two of the cards
    assert made == [4, 4]  # the other host's rows are not looked at
    own = source.rows.shape[0] // 3
    same(part, jax.tree.map(lambda leaf: leaf[2:], batch))
    same(their_source.rows, source.rows[own:])
    assert batch.slots.max() < own  # each group's slots point into its own part


@pytest.mark.parametrize("kind", ["disk", "layers in a list", "tower in the step"])
def test_no_card_waits_for_another(kind, config, prepared, rows, on_disk):
    """The compiled programs of training, scoring and writing have no collective at all."""
    mesh = sharding.mesh_of(None)
    made = prepared
    if kind == "layers in a list":
        made = PALIGEMMA.prepare(listed=True)
    elif kind == "tower in the step":
        made = PALIGEMMA.prepare(rules=[(r"vision/.*kernel", "full"), (r".*attn/q/kernel", "lora"), (r".*", "frozen")])
    data = on_disk if kind == "disk" else dataclasses.replace(rows, feed=made.feed)
    data = dataclasses.replace(data, shapes=shapes_for([data.feed.shape(row) for row in data.rows]))
    config = dataclasses.replace(config, network=made.network, stacks=made.stacks)
    base = on_each(made.base, mesh)
    draws = [LOTTERY.draw(number) for number in range(8)]
    rolls = tickets.begin(LOTTERY, config, made.start, draws, mesh)
    batch, source = joint_batch([Loader(data, np.arange(7), 2, draw.seed) for draw in draws], [0] * 8, 2, groups=4)
    step = compile_step(config, mesh, kind == "disk")
    programs = [step.lower(base, source, rolls, batch)]
    if kind != "disk":  # an evaluation's source is the same on every card
        some = jax.tree.map(lambda leaf: leaf[0, 0], batch)
        args = (base, source, rolls.trainable, rolls.scale, some)
        programs.append(compiled.compile_score(made.network, made.stacks, 1, mesh).lower(*args))
        if made.network.first == 0:
            chosen = compiled.picked(mesh, 1)((rolls.trainable, rolls.scale), 1)
            write = compiled.compile_write(made.network, made.stacks, 3, [1], mesh)
            programs.append(write.lower(base, source, *chosen, (some, np.zeros(len(some.label), np.uint32))))
    for program in programs:
        text = program.compile().as_text()
        assert "num_partitions=4" in text and not [word for word in COLLECTIVES if word in text]


@pytest.mark.parametrize("room", [0, 2**30])  # roll by roll on each card | all side by side
def test_every_place_of_a_card_writes_as_one_card_does(prepared, config, rows, room, monkeypatch):
    monkeypatch.setattr(evaluator, "KEPT", room)
    mesh = sharding.mesh_of(None)
    draws = [LOTTERY.draw(number) for number in range(8)]
    noise = lambda leaf: leaf + np.random.default_rng(leaf.size).normal(0, 0.3, leaf.shape).astype(np.float32)

    def written(mesh):
        rolls = tickets.begin(LOTTERY, config, prepared.start, draws, mesh)
        trainable = jax.tree.map(lambda leaf: jax.device_put(noise(np.asarray(leaf)), leaf.sharding), rolls.trainable)
        prompts = [PALIGEMMA.row("is it?", shown=[number]) for number in range(3)]
        data = dataclasses.replace(rows, rows=prompts, shapes=shapes_for([rows.feed.shape(row) for row in prompts]))
        writer = setup.make_writer(PALIGEMMA.model, prepared.network, prepared.stacks, data, 3, mesh)
        examples = [make_example(number) for number in range(3)]
        score = compiled.compile_score(prepared.network, prepared.stacks, 1, mesh)
        scored = dataclasses.replace(rows, rows=rows.rows[:3])
        base = on_each(prepared.base, mesh)
        judge = Evaluator(Task(WRITE, ()), examples, scored, base, score, 2, writer, mesh=mesh)
        return judge.predict(trainable, rolls.scale)

    found, expected = written(mesh), written(None)
    assert [one.texts for one in found] == [one.texts for one in expected]
    assert len({one.texts for one in expected}) > 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-4, atol=1e-5)
