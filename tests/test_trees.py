"""Trees of parameters: layers stacked, listed and cut in two, of one kind and of two."""

import jax
import numpy as np
import pytest
from small_families import FAMILIES, name_of

from rolltune import trees

ONE = {"text/layers": (0, 1, 2)}
TWO = {"text/layers": (0, 2, 3), "text/cross": (1, 4)}  # numbers in the decoder


def made(stacks):
    """A tree whose every number says which layer of the decoder it is of."""
    flat = {f"{name}/{part}/kernel": np.repeat(np.array(numbers, float), 6).reshape(-1, 2, 3)
            for name, numbers in stacks.items() for part in ("attn", "mlp")}  # fmt: skip
    return trees.unflatten(flat | {"text/norm/scale": np.ones(3), "vision/patch": np.ones(2)})


def numbers_in(layers):
    return [int(trees.flatten(layer)["attn/kernel"][0, 0]) for layer in layers]


def test_layers_of_two_kinds_come_in_the_decoder_s_order():
    params = made(TWO)
    tree = trees.arrange(params, TWO, first=2)
    assert numbers_in(tree["text"]["lower"]) == [0, 1] and numbers_in(tree["text"]["layers"]) == [2, 3, 4]
    assert not params and "cross" not in tree["text"] and tree["vision"]["patch"].shape == (2,)
    assert trees.above(TWO, 2) == {"text/layers": (2, 3), "text/cross": (4,)}
    assert [trees.cut_of(f"{name}/attn/kernel", TWO, 2) for name in TWO] == [1, 1]
    assert trees.cut_of("text/norm/scale", TWO, 2) == 0


@pytest.mark.parametrize("listed", [False, True])
def test_a_stack_is_cut_at_the_first_layer_that_is_trained(listed):
    tree = trees.arrange(made(ONE), ONE, first=1, listed=listed)
    lower, layers = tree["text"]["lower"], tree["text"]["layers"]
    assert isinstance(layers, list) == isinstance(lower, list) == listed
    if listed:
        assert numbers_in(lower) == [0] and numbers_in(layers) == [1, 2]
    else:
        assert lower["mlp"]["kernel"][:, 0, 0].tolist() == [0] and layers["mlp"]["kernel"][:, 0, 0].tolist() == [1, 2]
    assert "lower" not in trees.arrange(made(ONE), ONE, listed=listed)["text"]


@pytest.mark.parametrize("listed", [False, True])
def test_what_is_trained_is_left_out_but_for_the_layers_below(listed):
    tree = trees.arrange(made(ONE), ONE, 1, listed, without=["text/layers/attn/kernel", "text/norm/scale"])
    upper, lower = (tree["text"][name][0] if listed else tree["text"][name] for name in ("layers", "lower"))
    assert set(trees.flatten(upper)) == {"mlp/kernel"} and set(trees.flatten(lower)) == {"attn/kernel", "mlp/kernel"}
    assert "norm" not in tree["text"]


def test_what_is_trained_in_each_layer_and_back_in_stacks():
    leaf = lambda numbers: {side: np.array(numbers, float)[:, None] for side in "ab"}
    trained = {f"{name}/attn/kernel": leaf(numbers) for name, numbers in TWO.items()}
    each = trees.per_layer(trained, TWO)
    assert [list(one) for one in each] == [["attn/kernel"]] * 5
    assert [one["attn/kernel"]["b"].tolist() for one in each] == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    listed = trees.by_layer(trained | {"text/norm/scale": np.ones(3)}, TWO)
    assert isinstance(listed["text/cross/attn/kernel"]["a"], list) and listed["text/norm/scale"].shape == (3,)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(trees.by_stack)(trees.by_layer(trained, TWO)), trained)
    with pytest.raises(ValueError, match="text/norm/scale lies in no stack"):
        trees.per_layer({"text/norm/scale": np.ones(3)}, TWO)


@pytest.mark.parametrize("small", FAMILIES, ids=name_of)
def test_a_family_s_stacks_hold_each_of_its_layers_once(small):
    stacks, flat = small.model.stacks, trees.flatten(small.params)
    assert sorted(number for numbers in stacks.values() for number in numbers) == list(range(small.config.text.layers))
    for path, leaf in flat.items():
        if name := trees.stack_of(path, stacks):
            assert len(leaf) == len(stacks[name]), path
    assert all(any(path.startswith(f"{tower}/") for path in flat) for tower in small.family.towers)
