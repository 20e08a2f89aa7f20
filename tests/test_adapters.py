"""The two trees of rolltune/adapters.py: what is trained, what is frozen, and how they make one model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import CONFIG, make_batch, make_params, make_row

from rolltune import adapters
from rolltune.errors import UserError
from rolltune.families import paligemma
from rolltune.models.layers import LoRA

EVERYWHERE = [(r".*/kernel", "lora"), (r"text/norm/scale", "full"), (r".*", "frozen")]


@pytest.fixture(scope="module")
def params():
    return make_params()


def trained(params, rules, first_layer=0):
    """(the frozen tree, a trainable one in which nothing is zero) as a session makes them."""
    split = adapters.split_layers(params, first_layer)
    words = adapters.plan(rules, list(adapters.flatten(params)))
    shapes = {path: leaf.shape for path, leaf in adapters.flatten(split).items() if words.get(path) == "lora"}
    frozen, full = adapters.partition(split, words)
    lora = adapters.init_lora(jax.random.key(1), shapes, 2)
    noise = lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape))
    return frozen, jax.tree.map(noise, lora | full)


@jax.jit
def score(params):
    return paligemma.log_probs(CONFIG, params, make_batch(make_row("a b", "abc"), make_row("c", "d", number=1)))


@pytest.mark.parametrize(
    ("rules", "first_layer"),
    [(EVERYWHERE, 0), (adapters.METHODS["attention"], 0), (adapters.METHODS["lora"], 1)],
)
def test_merged_equals_combined(params, rules, first_layer):
    frozen, trainable = trained(params, rules, first_layer)
    merged = adapters.merge(params, trainable, 1.5, first_layer)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, params)
    combined = score(adapters.combine(frozen, trainable, 1.5))
    np.testing.assert_allclose(combined, score(merged), rtol=1e-3, atol=1e-3)
    assert np.abs(combined - score(params)).max() > 0.1
    below = jax.tree.map(lambda a, b: np.array_equal(a[:first_layer], b[:first_layer]), *(
        tree["text"]["layers"] for tree in (merged, params)
    ))  # fmt: skip
    assert all(jax.tree.leaves(below))


def test_fresh_adapters_change_nothing(params):
    words = adapters.plan(EVERYWHERE, list(adapters.flatten(params)))
    shapes = {path: leaf.shape for path, leaf in adapters.flatten(params).items() if words[path] == "lora"}
    fresh = adapters.init_lora(jax.random.key(0), shapes, 2)
    np.testing.assert_allclose(score(adapters.combine(params, fresh, 2.0)), score(params), rtol=1e-5, atol=1e-5)
    path = "text/layers/attn/q/kernel"
    assert fresh[path]["a"].shape == (3, 32, 2) and fresh[path]["b"].shape == (3, 2, 32)
    spread = np.asarray(fresh[path]["a"])
    assert 0.9 * 32**-0.5 < np.abs(spread).max() <= 32**-0.5 and not np.array_equal(spread[0], spread[1])


def test_layers_in_a_list_take_adapters_as_the_stack_does(params):
    frozen, trainable = trained(params, adapters.METHODS["lora"])
    expected = score(adapters.combine(frozen, trainable, 1.5))
    listed = adapters.unstack_layers(dict(frozen, text=dict(frozen["text"])))
    assert len(listed["text"]["layers"]) == 3
    for leaves in (trainable, adapters.by_layer(trainable)):
        np.testing.assert_allclose(score(adapters.combine(listed, leaves, 1.5)), expected, rtol=1e-4, atol=1e-4)
    back = adapters.by_stack(adapters.by_layer(trainable))
    jax.tree.map(np.testing.assert_array_equal, back, trainable)


def test_partition_and_combine_are_inverse(params):
    words = adapters.plan(adapters.METHODS["attention"], list(adapters.flatten(params)))
    frozen, full = adapters.partition(params, words)
    assert sorted(full) == [f"text/layers/attn/{name}/kernel" for name in "koqv"]
    assert not set(full) & set(adapters.flatten(frozen))
    jax.tree.map(np.testing.assert_array_equal, adapters.combine(frozen, full), params)


def test_dropout_gives_every_layer_its_own_key(params):
    frozen, trainable = trained(params, adapters.METHODS["lora"])
    made = adapters.combine(frozen, trainable, 1.0, jax.random.key(0), 0.5)["text"]["layers"]
    keys = [made["attn"][name]["kernel"].key for name in "qk"]
    assert isinstance(made["attn"]["q"]["kernel"], LoRA) and keys[0].shape == (3,)
    assert len({tuple(np.asarray(jax.random.key_data(key))) for one in keys for key in one}) == 6


def test_plans_that_make_no_sense_are_advice(params):
    paths = list(adapters.flatten(params))
    for rules, message in (
        ([(".*", "frozen")], "nothing to train"),
        ([("text/norm/scale", "lora"), (".*", "frozen")], "LoRA is for matrices"),
        ([("text/.*", "thaw"), (".*", "frozen")], "'thaw'; expected frozen, lora or full"),
        ([("text/layer/.*", "lora"), (".*", "frozen")], "matches no parameter"),
    ):
        with pytest.raises(UserError, match=message):
            adapters.plan(rules, paths)


def test_the_scale_is_that_of_the_papers():
    assert adapters.rank_scale(32.0, 16, rslora=False) == 2 and adapters.rank_scale(32.0, 16, rslora=True) == 8
