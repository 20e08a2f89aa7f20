"""What is trained and what is not: two trees, and how they make one model.

`base` is the frozen tree. `trainable` maps a path to what is trained there: `{"a", "b"}`, the factors of a
LoRA (Hu et al. 2021, arXiv:2106.09685), or a plain array, the weight itself in float32.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array

from rolltune import rules as path_rules
from rolltune.errors import UserError
from rolltune.models.layers import LoRA

LAYERS = "text/layers/"  # paths below it are stacked over the decoder's layers on axis 0

# Trainability in three words. A method is a list of rules; a recipe may give its own.
METHODS: dict[str, list[tuple[str, str]]] = {
    "lora": [(r"text/layers/(attn|mlp)/.*/kernel", "lora"), (r".*", "frozen")],
    "attention": [(r"text/layers/attn/.*", "full"), (r".*", "frozen")],
    "full": [(r".*", "full")],
}


def flatten(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: dict[str, Any]) -> Any:
    return traverse_util.unflatten_dict(flat, sep="/")


def plan(rules: Sequence[tuple[str, str]], paths: Sequence[str]) -> dict[str, str]:
    """path -> frozen, lora or full. Raises UserError for a rule without a match or another word."""
    words = path_rules.match(rules, paths, "what to train")
    for path, word in words.items():
        if word not in ("frozen", "lora", "full"):
            raise UserError(f"what to train: {path!r} is given {word!r}; expected frozen, lora or full")
        if word == "lora" and not path.endswith("/kernel"):
            raise UserError(f"what to train: LoRA is for matrices (paths that end in /kernel), not {path!r}")
    if set(words.values()) == {"frozen"}:
        raise UserError("what to train: the rules freeze everything, so there is nothing to train")
    return words


def split_layers(params: dict, first: int) -> dict:
    """Sets the decoder layers below `first` apart, as `text/lower`: nothing below it is trained."""
    if not first:
        return params
    cut = lambda part: jax.tree.map(part, params["text"]["layers"])
    text = params["text"] | {"lower": cut(lambda x: x[:first]), "layers": cut(lambda x: x[first:])}
    return params | {"text": text}


def unstack_layers(params: dict) -> dict:
    """The decoder layers as a list of trees: unrolled, no layer's weights are copied out of a stack each step.

    Takes the stacked leaves out of `params` one by one, so that no two copies of all of them exist at a time.
    """
    stacked = flatten(params["text"].pop("layers"))
    listed: list[dict] = [{} for _ in range(next(iter(stacked.values())).shape[0])]
    for path in list(stacked):
        for layer, leaf in zip(listed, stacked.pop(path), strict=True):
            layer[path] = leaf
    params["text"]["layers"] = [unflatten(layer) for layer in listed]
    return params


def partition(params: dict, words: dict[str, str]) -> tuple[dict, dict[str, Array]]:
    """(the tree without its fully trained leaves, those leaves by path)."""
    flat = flatten(params)
    trained = {path: leaf for path, leaf in flat.items() if words.get(path) == "full"}
    return unflatten({path: leaf for path, leaf in flat.items() if path not in trained}), trained


def init_lora(key: Array, shapes: dict[str, tuple[int, ...]], rank: int) -> dict[str, dict[str, Array]]:
    """Fresh factors for weights of these shapes `[..., in, out]`: `a` uniform as in PEFT, `b` zero: no change yet."""
    fresh = {}
    for number, (path, shape) in enumerate(sorted(shapes.items())):
        *stack, width_in, width_out = shape
        bound = width_in**-0.5
        a = jax.random.uniform(jax.random.fold_in(key, number), (*stack, width_in, rank), jnp.float32, -bound, bound)
        fresh[path] = {"a": a, "b": jnp.zeros((*stack, rank, width_out), jnp.float32)}
    return fresh


def by_layer(trainable: dict[str, Any]) -> dict[str, Any]:
    """What is stacked over the decoder's layers, as lists of arrays, one a layer."""
    return {path: jax.tree.map(list, leaf) if path.startswith(LAYERS) else leaf for path, leaf in trainable.items()}


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


def combine(base: dict, trainable: dict[str, Any], scale: Any = 1.0, key: Any = None, dropout: float = 0.0) -> dict:
    """One parameter tree out of the two. `base` may hold `text/layers` stacked or as a list.

    `scale` is alpha/rank (or alpha/sqrt(rank): rsLoRA, arXiv:2312.03732); with `key`, LoRA inputs drop out.
    """
    prepared = {}
    for number, (path, leaf) in enumerate(sorted(trainable.items())):
        if isinstance(leaf, dict):
            leaf = {"a": leaf["a"], "b": jax.tree.map(lambda b: b * scale, leaf["b"])}
            if key is not None and dropout:
                one = jax.random.fold_in(key, number)
                depth = len(leaf["a"]) if isinstance(leaf["a"], list) or leaf["a"].ndim > 2 else None
                leaf["key"] = jax.random.split(one, depth) if depth else one
        prepared[path] = leaf
    return _graft(base, unflatten(prepared), dropout)


def _graft(base: Any, trained: Any, dropout: float) -> Any:
    if trained is None:
        return base
    if base is None:
        return trained
    if isinstance(base, list):
        part = lambda i: jax.tree.map(lambda x: x[i], trained, is_leaf=lambda x: isinstance(x, list))
        return [_graft(one, part(i), dropout) for i, one in enumerate(base)]
    if isinstance(base, dict):
        return {name: _graft(base.get(name), trained.get(name), dropout) for name in base | trained}
    return LoRA(base, trained["a"], trained["b"], trained.get("key"), dropout)


def all_layers(trainable: dict[str, Any], params: dict, first_layer: int) -> dict[str, Any]:
    """What was trained from `first_layer` up, for all layers: adapters below it change nothing, weights stay."""
    if not first_layer:
        return trainable
    flat = flatten(params)

    def deepen(path: str, leaf: Any) -> Any:
        if not path.startswith(LAYERS):
            return leaf
        if isinstance(leaf, dict):
            return jax.tree.map(lambda x: jnp.pad(x, ((first_layer, 0), (0, 0), (0, 0))), leaf)
        return jnp.concatenate([flat[path][:first_layer].astype(leaf.dtype), leaf])

    return {path: deepen(path, leaf) for path, leaf in trainable.items()}


def merge(base: dict, trainable: dict[str, Any], scale: float, first_layer: int = 0) -> dict:
    """A plain tree with the changes worked into the weights: `W + scale * a @ b` in float32, then in W's dtype."""
    flat = flatten(base)
    for path, leaf in trainable.items():
        old = flat.get(path)
        start = first_layer if path.startswith(LAYERS) else 0
        if isinstance(leaf, dict):
            change = jnp.matmul(leaf["a"], leaf["b"], precision="highest") * scale
            new = old[start:].astype(jnp.float32) + change
        else:
            new = leaf
        dtype = leaf.dtype if old is None else old.dtype
        flat[path] = jnp.concatenate([old[:start], new.astype(dtype)]) if start else new.astype(dtype)
    return unflatten(flat)


def rank_scale(alpha: float, rank: int, rslora: bool) -> float:
    return alpha / rank**0.5 if rslora else alpha / rank
