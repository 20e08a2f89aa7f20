"""Trees of parameters: paths, and the decoder's layers stacked, listed, cut in two.

A model is loaded with its layers in stacks: subtrees whose leaves have the layers of one kind on axis 0, or are lists
of the layers' own arrays (no stack is cut up then, which would take the memory of both). What runs has
them under `text/layers`, as that stack or as a list in the order of the layers, and under `text/lower` those below the
first layer that is trained. What is trained stays in stacks.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array

Either = Array | np.ndarray  # where nothing is traced, NumPy's arrays serve as JAX's do
Stacks = Mapping[str, tuple[int, ...]]  # subtree of stacked layers -> their numbers in the decoder
LAYERS, CROSS, LOWER = "text/layers", "text/cross", "text/lower"


def flatten(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: dict[str, Any]) -> Any:
    return traverse_util.unflatten_dict(flat, sep="/")


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    size = lambda leaf: (len(leaf), *leaf[0].shape) if isinstance(leaf, list) else tuple(leaf.shape)
    return {path: size(leaf) for path, leaf in flatten(tree).items()}


def layer_of(leaf: Any, number: int) -> Any:
    """One layer of a stacked leaf, which may be a tree itself."""
    return jax.tree.map(lambda one: one[number], leaf)


def stack_of(path: str, stacks: Stacks) -> str | None:
    """The stack that a path lies in."""
    return next((name for name in stacks if path.startswith(f"{name}/")), None)


def above(stacks: Stacks, first: int) -> Stacks:
    """The stacks of the layers from `first` up."""
    return {name: tuple(number for number in numbers if number >= first) for name, numbers in stacks.items()}


def cut_of(path: str, stacks: Stacks, first: int) -> int:
    """How many layers of the path's stack lie below `first`."""
    name = stack_of(path, stacks)
    return 0 if name is None else sum(number < first for number in stacks[name])


def arrange(params: dict, stacks: Stacks, first: int = 0, listed: bool = False, without: Collection[str] = ()) -> dict:
    """The tree as it runs: layers from `first` up under `text/layers`, those below under `text/lower`.

    Leaves of the paths in `without` are left out, but for those of lower layers: they are trained, and come back by
    `adapters.combine`. Layers of several kinds, and such as were loaded in lists, are always listed. Takes the leaves
    out of `params` one by one, so that no two copies of all of them exist at a time.
    """
    flat = flatten(params)
    listed = listed or len(stacks) > 1 or any(isinstance(leaf, list) for leaf in flat.values())
    params.clear()
    made: dict[str, Any] = {}
    layers: dict[int, dict[str, Any]] = {number: {} for numbers in stacks.values() for number in numbers}
    for path in list(flat):
        leaf, name = flat.pop(path), stack_of(path, stacks)
        trained = path in without
        if name is None:
            made |= {} if trained else {path: leaf}
            continue
        inner = path.removeprefix(f"{name}/")
        if listed:
            for number, own in zip(stacks[name], leaf, strict=True):
                if number < first or not trained:
                    layers[number][inner] = own
            continue
        if first:
            made[f"{LOWER}/{inner}"] = leaf[:first]
        if not trained:
            made[f"{LAYERS}/{inner}"] = leaf[first:] if first else leaf
    tree = unflatten(made)
    text = tree.setdefault("text", {})  # empty where all of it is trained
    if listed:
        in_order = [unflatten(layers[number]) for number in sorted(layers)]
        text["layers"] = in_order[first:]
        if first:
            text["lower"] = in_order[:first]
    return tree | {"text": {"layers": {}} | text}


def by_layer(trainable: dict[str, Any], stacks: Stacks) -> dict[str, Any]:
    """What is stacked over the decoder's layers, as lists of arrays, one a layer."""
    return {path: jax.tree.map(list, leaf) if stack_of(path, stacks) else leaf for path, leaf in trainable.items()}


def by_stack(trainable: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `by_layer`, in the memory order of the trained leaves themselves.

    Left to choose, XLA lays gradients out with the layers before the rolls; the fused update then reads them
    transposed, and writes its results beside the old values and copies them back, instead of in place.
    """
    is_list = lambda x: isinstance(x, list)

    def stack(parts: list[Array]) -> Array:
        stacked = jnp.stack(parts)
        return with_layout_constraint(stacked, Layout(tuple(range(stacked.ndim))))

    return jax.tree.map(lambda x: stack(x) if is_list(x) else x, trainable, is_leaf=is_list)


def per_layer(trainable: dict[str, Any], stacks: Stacks) -> list[dict[str, Any]]:
    """What is trained in each of the stacks' layers, in the decoder's order: path in the layer -> leaf."""
    layers: dict[int, dict[str, Any]] = {number: {} for numbers in stacks.values() for number in numbers}
    for path, leaf in trainable.items():
        name = stack_of(path, stacks)
        if name is None:
            raise ValueError(f"{path} lies in no stack of layers")
        for place, number in enumerate(stacks[name]):
            take = lambda x, place=place: x[place]
            layers[number][path.removeprefix(f"{name}/")] = jax.tree.map(
                take, leaf, is_leaf=lambda x: isinstance(x, list)
            )
    return [layers[number] for number in sorted(layers)]
