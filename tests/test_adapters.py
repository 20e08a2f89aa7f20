"""The two trees of rolltune/adapters.py: what is trained, what is frozen, and how they make one model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_families import FAMILIES, PALIGEMMA, name_of
from small_model import NET, make_batch, make_params, make_row

from rolltune import adapters, trees
from rolltune.batch import NOTHING
from rolltune.errors import UserError
from rolltune.models import forward
from rolltune.models.layers import LoRA

EVERYWHERE = [(r".*/kernel", "lora"), (r"text/norm/scale", "full"), (r".*", "frozen")]
STACKS = PALIGEMMA.model.stacks


@pytest.fixture(scope="module")
def params():
    return make_params()


def trained(small, rules, first=0, listed=False):
    """(what a step needs, a trainable tree in which nothing is zero) as a run makes them."""
    made = small.prepare(first=first, listed=listed, rules=rules)
    lora = adapters.init_lora(jax.random.key(1), made.start.lora, 2)
    noise = lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape))
    return made, jax.tree.map(noise, lora | made.start.full)


@jax.jit
def score(params):
    return forward.log_probs(NET, params, make_batch(make_row("a b", "abc"), make_row("c", "d", shown=[1])), NOTHING)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    ("rules", "first"),
    [(EVERYWHERE, 0), (adapters.METHODS["attention"], 0), (adapters.METHODS["lora"], 1)],
)
def test_merged_equals_combined(params, rules, first, listed):
    made, trainable = trained(PALIGEMMA, rules, first, listed)
    merged = adapters.merge(params, trainable, STACKS, 1.5, first)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, params)
    combined = score(adapters.combine(made.base, trainable, made.stacks, 1.5))
    np.testing.assert_allclose(combined, score(merged), rtol=1e-3, atol=1e-3)
    assert np.abs(combined - score(params)).max() > 0.1
    below = jax.tree.map(lambda a, b: np.array_equal(a[:first], b[:first]), *(
        tree["text"]["layers"] for tree in (merged, params)
    ))  # fmt: skip
    assert all(jax.tree.leaves(below))


def test_a_change_is_added_in_float32_and_rounded_once():
    path, draw = "text/layers/attn/q/kernel", np.random.default_rng(0)
    old = jnp.asarray(draw.standard_normal((2, 64, 48)), jnp.bfloat16)
    a, b = (jnp.asarray(draw.standard_normal(shape), jnp.float32) for shape in ((1, 64, 2), (1, 2, 48)))
    merged = trees.flatten(
        adapters.merge(trees.unflatten({path: old}), {path: {"a": a, "b": b}}, {"text/layers": (0, 1)}, 0.1, 1)
    )[path]
    exact = np.asarray(old[1:], np.float32) + 0.1 * np.matmul(a, b)
    assert merged.dtype == jnp.bfloat16 and np.array_equal(merged[:1], old[:1])
    off = np.abs(np.asarray(merged[1:], np.float32) - exact) / np.abs(exact)
    assert off.max() < 2**-8 * 1.01  # half of the last bit of bfloat16's eight


def test_fresh_adapters_change_nothing(params):
    shapes = PALIGEMMA.prepare(rules=EVERYWHERE).start.lora
    fresh = adapters.init_lora(jax.random.key(0), shapes, 2)
    combined = adapters.combine(params, fresh, STACKS, 2.0)
    np.testing.assert_allclose(score(combined), score(params), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "width_in", "width_out"), [("attn/q", 32, 32), ("mlp/up", 32, 48), ("mlp/down", 48, 32)]
)
def test_fresh_factors_are_bounded_by_the_width_that_comes_in(path, width_in, width_out):
    path = f"text/layers/{path}/kernel"
    fresh = adapters.init_lora(jax.random.key(0), {path: (3, width_in, width_out)}, 4)
    assert fresh[path]["a"].shape == (3, width_in, 4) and fresh[path]["b"].shape == (3, 4, width_out)
    spread = np.asarray(fresh[path]["a"])
    assert 0.97 * width_in**-0.5 < np.abs(spread).max() <= width_in**-0.5
    assert not np.array_equal(spread[0], spread[1]) and not fresh[path]["b"].any()


@pytest.mark.parametrize("small", FAMILIES, ids=name_of)
def test_layers_in_a_list_take_adapters_as_the_stack_does(small):
    rules = adapters.METHODS["lora"]
    stacked, trainable = trained(small, rules)
    listed = trained(small, rules, listed=True)[0]
    run = jax.jit(lambda params: forward.log_probs(
        small.net, params, small.batch(small.row("a b", "abc"), small.row("c", "d", shown=[1])), NOTHING
    ))  # fmt: skip
    expected = run(adapters.combine(stacked.base, trainable, stacked.stacks, 1.5))
    assert len(listed.base["text"]["layers"]) == small.config.text.layers
    for leaves in (trainable, trees.by_layer(trainable, stacked.stacks)):
        found = run(adapters.combine(listed.base, leaves, stacked.stacks, 1.5))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    back = trees.by_stack(trees.by_layer(trainable, stacked.stacks))
    jax.tree.map(np.testing.assert_array_equal, back, trainable)


def test_layers_of_a_second_kind_are_adapted_too():
    """A stack that `combine` forgot would stay untrained without a word."""
    stacks = {"text/layers": (0, 2), "text/cross": (1,)}
    kernel = lambda count, value: jnp.full((count, 4, 5), float(value))
    params = {"text/layers/attn/q/kernel": kernel(2, 1), "text/cross/cross/q/kernel": kernel(1, 2)}
    words = adapters.trainability(adapters.METHODS["lora"], list(params))
    assert set(words.values()) == {"lora"}
    base = trees.arrange(trees.unflatten(dict(params)), stacks)
    trainable = adapters.init_lora(jax.random.key(0), {path: leaf.shape for path, leaf in params.items()}, 2)
    trainable = jax.tree.map(lambda leaf: leaf + 0.5, trainable)
    merged = trees.flatten(adapters.merge(trees.unflatten(params), trainable, stacks, 2.0))
    layers = adapters.combine(base, trainable, stacks, 2.0)["text"]["layers"]
    for layer, (path, place) in zip(layers, ((a, b) for a, b in (
        ("text/layers/attn/q/kernel", 0), ("text/cross/cross/q/kernel", 0), ("text/layers/attn/q/kernel", 1),
    )), strict=True):  # fmt: skip
        (kernel,) = jax.tree.leaves(layer, is_leaf=lambda leaf: isinstance(leaf, LoRA))
        np.testing.assert_allclose(kernel.base + kernel.a @ kernel.b, merged[path][place], rtol=1e-5)


def test_what_is_trained_itself_leaves_the_frozen_tree_and_comes_back(params):
    made = PALIGEMMA.prepare("attention")
    assert sorted(made.start.full) == [f"text/layers/attn/{name}/kernel" for name in "koqv"] and not made.start.lora
    assert not set(made.start.full) & set(trees.flatten(made.base))
    combined = adapters.combine(made.base, made.start.full, made.stacks)
    jax.tree.map(np.testing.assert_array_equal, combined, params)


@pytest.mark.parametrize("listed", [False, True])
def test_dropout_gives_every_layer_its_own_key(listed):
    made, trainable = trained(PALIGEMMA, adapters.METHODS["lora"], listed=listed)
    layers = adapters.combine(made.base, trainable, made.stacks, 1.0, jax.random.key(0), 0.5)["text"]["layers"]
    kernels = [layer["attn"][name]["kernel"] for layer in (layers if listed else [layers]) for name in "qk"]
    assert all(isinstance(one, LoRA) and one.dropout == 0.5 for one in kernels)
    keys = [key for one in kernels for key in (jax.random.key_data(one.key)[None] if listed else one.key)]
    assert len({np.asarray(key if listed else jax.random.key_data(key)).tobytes() for key in keys}) == 6


def test_keys_of_dropout_are_the_layers_own_in_a_list_and_in_a_stack():
    keys = []
    for listed in (False, True):
        made, trainable = trained(PALIGEMMA, adapters.METHODS["lora"], listed=listed)
        layers = adapters.combine(made.base, trainable, made.stacks, 1.0, jax.random.key(0), 0.5)["text"]["layers"]
        take = (lambda n, layers=layers: layers[n]["mlp"]["up"]["kernel"].key) if listed else (
            lambda n, layers=layers: layers["mlp"]["up"]["kernel"].key[n])  # fmt: skip
        keys.append([jax.random.key_data(take(n)).tolist() for n in range(3)])
    assert keys[0] == keys[1]


def test_plans_that_make_no_sense_are_advice(params):
    paths = list(trees.flatten(params))
    for rules, message in (
        ([(".*", "frozen")], "nothing to train"),
        ([("text/norm/scale", "lora"), (".*", "frozen")], "LoRA is for matrices"),
        ([("vision/layers/attn/q/bias", "lora"), (".*", "frozen")], "LoRA is for matrices"),
        ([("text/.*", "thaw"), (".*", "frozen")], "'thaw'; expected frozen, lora or full"),
        ([("text/layer/.*", "lora"), (".*", "frozen")], "matches no parameter"),
        ([("text/head/kernel", "lora"), (".*", "frozen")], "this model's is its embedding: leave the rule out"),
    ):
        with pytest.raises(UserError, match=message):
            adapters.trainability(rules, paths)
    with pytest.raises(UserError, match="LoRA is for matrices"):
        adapters.trainability([(".*", "lora")], ["text/kernel/scale"])


def test_the_scale_is_that_of_the_papers():
    assert adapters.rank_scale(32.0, 16, rslora=False) == 2 and adapters.rank_scale(32.0, 16, rslora=True) == 8
