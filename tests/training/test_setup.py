"""Setting up: where rows come in, by what is trained; which rows a roll trains on; what cannot be is said first."""

import dataclasses

import jax
import numpy as np
import pytest
from small_families import PALIGEMMA, score_all, score_encoded
from small_model import make_example

from rolltune import adapters, trees
from rolltune.adapters import CLASSES
from rolltune.data.batches import Encoded
from rolltune.errors import UserError
from rolltune.evaluation.metrics import Positive
from rolltune.evaluation.tasks import CHOOSE, CLASSIFY, Task
from rolltune.inputs import disk, features
from rolltune.recipe import Recipe
from rolltune.training import setup
from rolltune.training.dataset import Data
from rolltune.training.plan import plan_for, plan_of
from rolltune.training.rolls import Draw, InitialWeights

SHAPES = trees.shapes(PALIGEMMA.params)
TASK = Task(CHOOSE, ("no", "yes"))
PATH = "text/layers/attn/q/kernel"


@pytest.fixture
def data():
    examples = [make_example(n, answer=("yes", "no")[n % 2]) for n in range(10)]
    spans = {"train": range(2, 6), "valid": range(6, 8), "test": range(8, 10), "extra": range(0, 2)}
    return Data(examples, spans, {}, TASK, Positive("yes", ""), [])


def trained_on(data, folds, draw, **recipe) -> set[int]:
    """The places in the data set of the rows that this draw's batches hold."""
    rows = Encoded(data.seen, None, (), [data.examples[place].answer for place in data.seen])
    loader = setup.loaders(Recipe(batch=2, **recipe), rows, data, folds)(draw)
    return {row for step in range(8) for row in loader.rows(step)[0]}


def test_without_folds_the_training_split_is_trained_on(data):
    assert trained_on(data, None, Draw(0, 0, 1.0, 8.0, 0.0)) == set(range(2, 6))


def test_a_fold_trains_on_all_that_it_is_not_judged_by(data):
    folds = [0, 1, 2, 0, 1, 2, 0, 1]
    for fold in range(3):
        own = {data.seen[n] for n in range(8) if folds[n] == fold}
        assert trained_on(data, folds, Draw(fold, fold, 1.0, 8.0, 0.0, fold=fold)) == set(data.seen) - own
    loader = setup.loaders(Recipe(batch=2), Encoded(data.seen, None, (), ["a"] * 8), data, folds)
    same_seed = [loader(Draw(fold, 5, 1.0, 8.0, 0.0, fold=fold)).places.tolist() for fold in range(3)]
    assert same_seed == [[n for n in range(8) if folds[n] != fold] for fold in range(3)]


def test_a_draw_s_order_is_its_seed_s_and_one_loader_serves_it(data):
    rows = Encoded(data.seen, None, (), ["a"] * 8)
    loader = setup.loaders(Recipe(batch=1, accumulate=3), rows, data, None)
    one, other = (loader(Draw(n, n, 1.0, 8.0, 0.0)) for n in range(2))
    assert one is loader(Draw(5, 0, 9.0, 1.0, 0.0)) and one.batch == 3
    assert any(one.indices(step).tolist() != other.indices(step).tolist() for step in range(4))


@pytest.mark.parametrize(
    ("rules", "first", "in_step", "projected"),
    [
        ([(r"text/layers/.*/kernel", "lora"), (".*", "frozen")], 0, False, False),
        ([(r"text/layers/.*/kernel", "lora"), (".*", "frozen")], 1, False, True),
        ([(r"(projector|text/layers/attn/q)/kernel", "lora"), (".*", "frozen")], 0, False, False),
        ([(r"vision/.*/kernel", "lora"), (".*", "frozen")], 0, True, False),
        ([(".*", "full")], 0, True, False),
    ],
)
def test_rows_come_in_before_what_is_trained(rules, first, in_step, projected):
    words = adapters.trainability(rules, list(SHAPES))
    plan = plan_of(PALIGEMMA.model, words, first)
    assert (plan.in_step, plan.projected) == (in_step, projected)
    assert plan.stacks == {"text/layers": tuple(range(first, 3))}


def test_the_narrower_side_of_the_projector_is_kept():
    narrow = dataclasses.replace(PALIGEMMA.config, text=dataclasses.replace(PALIGEMMA.config.text, width=8))
    model = dataclasses.replace(PALIGEMMA.model, config=narrow)
    assert plan_of(model, {PATH: "lora"}, 0).projected
    assert not plan_of(model, {PATH: "lora", "projector/kernel": "full"}, 0).projected


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(first_layer=3), r"first_layer: 3, but the decoder has the layers 0 to 2"),
        (
            Recipe(first_layer=1, method="rules", rules=((r"projector/.*", "full"), (".*", "frozen"))),
            r"first_layer: 1, but 'projector/bias', which is trained, lies below",
        ),
        (Recipe(method="rules", rules=(("nothing", "lora"), (".*", "frozen"))), "matches no parameter"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_work(recipe, message):
    with pytest.raises(UserError, match=message):
        plan_for(PALIGEMMA.model, SHAPES, recipe, TASK)


def test_a_classifier_trains_its_head_and_draws_one_where_there_is_none():
    task = Task(CLASSIFY, ("a", "b", "c"))
    plan = plan_for(PALIGEMMA.model, SHAPES, Recipe(), task)
    assert plan.words[CLASSES] == "full" and plan.new_classes == 3
    assert setup.initial_weights(PALIGEMMA.model, PALIGEMMA.params, plan).heads == {CLASSES: (32, 3)}
    had = plan_for(PALIGEMMA.model, SHAPES | {CLASSES: (32, 3)}, Recipe(), task)
    assert had.words[CLASSES] == "full" and not had.new_classes
    with pytest.raises(UserError, match="has a head of 2 classes, the data 3 answers"):
        plan_for(PALIGEMMA.model, SHAPES | {CLASSES: (32, 2)}, Recipe(), task)
    assert CLASSES not in plan_for(PALIGEMMA.model, SHAPES, Recipe(), TASK).words
    with pytest.raises(UserError, match=r"a head of 2 classes and gives no words: --config\.task=classify"):
        plan_for(PALIGEMMA.model, SHAPES | {CLASSES: (32, 2)}, Recipe(), TASK)
    own = Recipe(method="rules", rules=((CLASSES, "frozen"), (PATH, "lora"), (".*", "frozen")))
    plan = plan_for(PALIGEMMA.model, SHAPES | {CLASSES: (32, 3)}, own, task)
    assert plan.words[CLASSES] == "frozen" and plan.trained == [PATH]  # rules of one's own are what they say
    above = (("text/norm/scale", "full"), (CLASSES, "full"), (PATH, "lora"), (".*", "frozen"))
    plan = plan_for(PALIGEMMA.model, SHAPES, Recipe(method="rules", rules=above, first_layer=2), task)
    assert plan.first == 2 and plan.paths("full") == ["text/norm/scale", CLASSES] and plan.paths("lora") == [PATH]


def test_a_roll_begins_with_the_upper_layers_in_float32():
    half = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), PALIGEMMA.params)
    words = adapters.trainability(
        [("text/layers/attn/q/kernel", "lora"), ("text/layers/.*|text/norm/scale", "full"), (".*", "frozen")],
        list(SHAPES),
    )
    start = setup.initial_weights(PALIGEMMA.model, half, plan_of(PALIGEMMA.model, words, 1))
    assert start.lora == {PATH: (2, 32, 32)}
    assert start.full["text/layers/attn/k/kernel"].shape == (2, 32, 16)
    np.testing.assert_array_equal(
        start.full["text/layers/attn/k/kernel"], half["text"]["layers"]["attn"]["k"]["kernel"][1:]
    )
    assert {str(leaf.dtype) for leaf in start.full.values()} == {"float32"}


def test_a_second_pass_begins_where_the_first_ended():
    start = InitialWeights(
        {PATH: (3, 32, 32), "text/layers/attn/k/kernel": (3, 32, 16)},
        {"text/norm/scale": jax.device_put(np.zeros(3))},
        {CLASSES: (32, 3)},
    )
    continued = {PATH: {"a": np.ones((3, 32, 2)), "b": np.ones((3, 2, 32))}, "text/norm/scale": np.ones(3)}
    continued |= {CLASSES: np.ones((32, 3))}
    on = setup.going_on(start, continued)
    assert on.lora == {"text/layers/attn/k/kernel": (3, 32, 16)} and set(on.adapters) == {PATH}
    np.testing.assert_array_equal(on.full["text/norm/scale"], np.ones(3))
    np.testing.assert_array_equal(on.full[CLASSES], np.ones((32, 3)))
    assert on.heads == {}  # what stands there is drawn anew, over the one that was learned
    with pytest.raises(UserError, match="trained 'projector/kernel', which this recipe does not"):
        setup.going_on(start, {"projector/kernel": np.ones(3)})


@pytest.mark.parametrize("room", ["table", "disk", "nowhere"])
@pytest.mark.parametrize("first", [0, 1])
def test_what_is_computed_once_gives_what_the_whole_model_gives(data, room, first, tmp_path, monkeypatch):
    """And of the frozen tree stays what the steps still run, no more."""
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(features, "content", lambda keys: {key: f"picture{key}" for key in keys})
    if room == "nowhere":
        monkeypatch.setattr(disk, "keep", lambda *about, **more: None)
    recipe = Recipe(first_layer=first, table_gib=float(room == "table"), evaluate_batch=3)
    encoded = [PALIGEMMA.row("is it?", one.answer, shown=[n % 8]) for n, one in enumerate(data.examples)]
    inputs = setup.Inputs(PALIGEMMA.pictures, [encoded[place] for place in data.seen], encoded, encoded[:2], 0)
    params = trees.unflatten(trees.flatten(PALIGEMMA.params))
    plan = plan_for(PALIGEMMA.model, SHAPES, recipe, TASK)
    cached = setup.cache(PALIGEMMA.model, params, plan, recipe, data, inputs)
    whole = score_all(PALIGEMMA.net, PALIGEMMA.ready, encoded, PALIGEMMA.tiles)
    own = [whole[place] for place in data.seen]
    prompts = (cached.whole, cached.prompts, whole[:2])  # generation runs all layers
    for network, rows, expected in (
        (cached.network, cached.training, own), (cached.network, cached.scoring, whole), prompts
    ):  # fmt: skip
        for found, one in zip(score_encoded(network, cached.base, rows), expected, strict=True):
            np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-5)
    assert ("vision" in cached.base) == (room == "nowhere") and cached.network.first == (room != "nowhere" and first)
    if first:
        params = trees.unflatten(trees.flatten(PALIGEMMA.params))
        alone = dataclasses.replace(inputs, prompts=[])
        kept = setup.cache(PALIGEMMA.model, params, plan, recipe, data, alone).base["text"]
        assert ("lower" in kept) == (room == "nowhere") and "lower" in cached.base["text"]


def test_the_lottery_takes_stated_rates_first_then_a_range_then_the_rate():
    assert setup.lottery(Recipe(rates=(1.0, 2.0))).rates == (1.0, 2.0)
    by_root = Recipe(alpha=8.0, rank=16, rslora=True)  # training and scoring scale alike
    assert (
        setup.lottery(by_root).rslora and by_root.scale == 2 and dataclasses.replace(by_root, rslora=False).scale == 0.5
    )
    assert setup.lottery(Recipe(rate=0.5)).rates == (0.5,)
    ranged = Recipe(rate_range=(0.1, 1.0))
    assert setup.lottery(ranged).rate_range == (0.1, 1.0)
    assert setup.lottery(dataclasses.replace(ranged, rates=(0.5,))).rate_range == ()
