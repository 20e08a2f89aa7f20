"""Pictures reach the step out of a table, from the disk or as tiles, and nothing depends on which way they came."""

import functools

import jax
import numpy as np
import pytest
from small_families import FAMILIES, PALIGEMMA, log_probs, name_of, score_all, score_encoded
from small_model import encoded

from rolltune import adapters
from rolltune.batch import NOTHING
from rolltune.data.batches import Encoded, Loader, evaluation_batches, joint_batch
from rolltune.data.shapes import shapes_for
from rolltune.inputs import features
from rolltune.inputs.feeds import DiskFeed, TileFeed
from rolltune.models import generate
from rolltune.optim import Optimizer, Schedule
from rolltune.text.templates import Template
from rolltune.training.rolls import Draw, Lottery, begin
from rolltune.training.step import StepConfig, compile_step, gradient

near = functools.partial(np.testing.assert_allclose, rtol=3e-5, atol=3e-5)
KINDS = ("table", "disk", "tiles")
CHAT = Template(prefix_lm=True)  # pictures stand where the text has their marks
WORDS = ("is it", "so", "a b c d e f g h", "and", "then what is it that stands here")
LOTTERY = Lottery(seed=0, rates=(0.1,), alphas=(4.0,), weight_decays=(0.0,), rank=2)


@pytest.fixture(scope="module", params=FAMILIES, ids=name_of)
def small(request):
    return request.param


@pytest.fixture(scope="module")
def feeds(small, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROLLTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(features, "content", lambda keys: {key: f"picture{key}" for key in keys})
        kept = features.files(small.model, small.params, small.pictures, False)
    disk = DiskFeed(small.family.learned_count, kept)
    return {"table": small.table(False), "disk": disk, "tiles": small.tiles}


def some_rows(small, seed: int, answers=(), count: int = 9):
    """Rows with pictures anywhere between their words: none, one, or several, the same one twice among them."""
    draw, made = np.random.default_rng(seed), []
    for number in range(count):
        shown = draw.integers(0, 8, number % 4).tolist() if number != 5 else [2, 2]
        words = [WORDS[place] for place in draw.integers(0, len(WORDS), len(shown) + 1)]
        text = words[0] + "".join("<image>" + word for word in words[1:])
        own = answers or (("a", "bcd", "efghij")[number % 3],)
        made.append(
            encoded(small.pictures, small.tokenizer, text, own if answers is not None else (), shown, template=CHAT)
        )
    return made


def data_of(rows, feed, most: int = 2) -> Encoded:
    return Encoded(rows, feed, shapes_for([feed.shape(row) for row in rows], most), [len(r.pictures) for r in rows])


@pytest.mark.parametrize("seed", range(2))
def test_evaluation_is_the_same_by_every_way_and_batch(small, feeds, seed):
    rows = some_rows(small, seed, ("yes", "no"))
    alone = [np.asarray(log_probs(small.net, small.ready, small.batch(row), NOTHING))[0] for row in rows[:4]]
    found = {kind: score_all(small.net, small.ready, rows, feed, batch=3) for kind, feed in feeds.items()}
    other = score_all(small.net, small.ready, rows[::-1], feeds["table"], batch=1)[::-1]
    for place, row in enumerate(found["tiles"]):
        for same in (found["table"][place], found["disk"][place], other[place]):
            near(same, row)
        if place < 4:
            near(row, alone[place])
    assert len({row.tobytes() for row in found["tiles"]}) > 6  # texts and pictures may fall alike


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_any_picture_is_scored_as_one_alone(small, feeds, kind):
    """Rows of one shape come in batches: three of text follow three of pictures."""
    both = [small.row("a b", "c", shown=[n]) for n in range(3)] + [
        small.row("a b c d e", "c", shown=[]) for n in range(3)
    ]
    data = data_of(both, feeds[kind], most=1)
    assert len(data.shapes) == 1
    batches = list(evaluation_batches(data, 3))
    shows = lambda some: (some.keys if small.family.keys else some.slots) >= 0
    assert [sum(shows(some).any(1)) for _, some, _ in batches] == [3, 0]
    assert batches[0][1].tiles.shape == batches[1][1].tiles.shape  # one program for both
    found = score_encoded(small.net, small.ready, data, batch=3)
    near(found[4], np.asarray(log_probs(small.net, small.ready, small.batch(both[4]), NOTHING))[0])


@pytest.mark.parametrize("seed", range(1))
def test_training_is_the_same_by_every_way(small, feeds, seed):
    """Losses and gradients of two rolls' own rows, with and without pictures."""
    made = small.prepare()
    config = StepConfig(small.net, made.stacks, Schedule("constant", 9, 0), Optimizer("sgd"), dropout=0.25)
    rolls = begin(LOTTERY, config, made.start, [Draw(n, n, 0.1, 4.0, 0.0) for n in range(2)])
    trainable = jax.tree.map(lambda leaf: leaf + 0.05, rolls.trainable)
    rolls = rolls._replace(trainable=trainable)
    one = jax.vmap(
        lambda source, roll, batch: gradient(config, made.base | towers(small), source, roll, batch), (None, 0, 0)
    )
    run, found = jax.jit(one), {}
    for kind, feed in feeds.items():
        data = data_of(some_rows(small, seed), feed)
        loaders = [Loader(data, np.arange(9), 4, roll) for roll in range(2)]
        batch, source = joint_batch(loaders, [0, 1], 2)
        found[kind] = run(source, rolls, batch)
    for kind in ("table", "disk"):
        near(found[kind][0], found["tiles"][0])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found[kind][1], found["tiles"][1]
        )


def towers(small):
    return {name: small.params[name] for name in small.family.towers}


def test_training_on_a_batch_without_pictures(small, feeds):
    """A step that was compiled for rows with pictures takes rows of text alone, by every way."""
    made, text = small.prepare(), [small.row("a b c d e", "ab", shown=[]) for _ in range(4)]
    rows = [*text, *[small.row("a b", "c", shown=[n]) for n in range(2)]]
    config = StepConfig(small.net, made.stacks, Schedule("constant", 9, 0), Optimizer("sgd"))
    step, found = compile_step(config), []
    for feed in feeds.values():
        loader = Loader(data_of(rows, feed, most=1), np.arange(4), 4, 0)  # of text
        batch, source = joint_batch([loader], [0], 1)
        rolls = begin(LOTTERY, config, made.start, [Draw(0, 0, 0.1, 4.0, 0.0)])
        rolls, report = step(made.base | towers(small), source, rolls, batch)
        found.append((report.loss, rolls.trainable))
    for loss, trainable in found[1:]:
        near(loss, found[0][0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), trainable, found[0][1])


@pytest.mark.parametrize("seed", range(1))
def test_answers_are_written_the_same_by_every_way(small, feeds, seed):
    """Pictures anywhere, in batches that hold none among them: what a row is answered is what it is answered alone."""
    rows = some_rows(small, seed, None, count=6)
    run = jax.jit(lambda batch, source: generate.generate(small.net, small.ready, batch, source, 3, (63,)))
    found = {}
    for kind, feed in feeds.items():
        texts = [None] * 6
        for places, some, source in evaluation_batches(data_of(rows, feed), 4):
            for place, ids in zip(places, np.asarray(run(some, source)).tolist(), strict=False):
                texts[place] = ids
        found[kind] = texts
    assert found["table"] == found["disk"] == found["tiles"]
    for place in (0, 3):
        batch = small.batch(rows[place])
        assert np.asarray(run(batch, NOTHING))[0].tolist() == found["tiles"][place]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_traced_again_after_the_shapes_are_known(small, feeds, kind):
    rows, traces = some_rows(small, 0), []
    made = small.prepare()
    params = adapters.combine(made.base | towers(small), {}, made.stacks)

    def run(params, batch, source):
        traces.append(batch.tokens.shape)
        return batch.tokens.sum()

    data, counted = data_of(rows, feeds[kind]), jax.jit(run)
    for _ in range(3):
        for _, some, source in evaluation_batches(data, 4):
            counted(params, some, source)
    assert len(traces) == len(data.shapes)
    traces.clear()
    loader = Loader(data, np.arange(9), 4, 0)
    for step in range(40):
        counted(params, *joint_batch([loader, loader], [step, step + 3], 2))
    assert len(traces) <= len(data.shapes)


def test_each_step_brings_the_rows_of_its_own_pictures_once(feeds, small):
    rows = [small.row("a", "b", shown=shown) for shown in ([1, 2], [2], [1])]
    (shape,) = data_of(rows, feeds["disk"], most=1).shapes
    batch, source = feeds["disk"].make(rows, shape, 4)
    places = [small.pictures.places[key] for key in (1, 2)]
    used = sum(len(one.used) for one in places)
    assert source.rows.shape == (4 * shape.rows, feeds["disk"].files.width)
    assert np.abs(source.rows[:used]).sum(1).all() and not source.rows[used:].any()
    numbers = batch.keys if small.family.keys else batch.slots
    last = numbers[1].max()
    assert last == small.family.learned_count + used - 1 and numbers[2].max() < last


def test_decoded_tiles_are_kept_within_their_limit(monkeypatch):
    opened = []
    monkeypatch.setattr(type(PALIGEMMA.pictures), "open", lambda self, key: opened.append(key) or real(self, key))
    rows = [PALIGEMMA.row("a", "b", shown=[n]) for n in range(4)]

    def twice(limit):
        opened.clear()
        monkeypatch.setattr(TileFeed, "KEPT_BYTES", limit)
        feed = TileFeed(0, PALIGEMMA.pictures)
        for _ in range(2):
            feed.make(rows, feed.shape(rows[0]), 4)
        return len(opened)

    assert twice(2**20) == 4 and twice(0) == 8 and twice(2 * 28 * 28 * 3) == 6


real = type(PALIGEMMA.pictures).open
