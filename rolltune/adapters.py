"""What is trained and what is not: two trees, and how they make one model.

`base` is the frozen tree. `trainable` maps a path to what is trained there: `{"a", "b"}`, the factors of a
LoRA (Hu et al. 2021, arXiv:2106.09685), or a plain array, the weight itself in float32.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rolltune import rules as path_rules
from rolltune.errors import UserError
from rolltune.models.cut import Cut
from rolltune.models.layers import LoRA
from rolltune.trees import Stacks, cut_of, flatten, per_layer, stack_of, unflatten

# Trainability in three words. A method is a list of rules; a recipe may give its own.
METHODS: dict[str, list[tuple[str, str]]] = {
    "lora": [(r"text/(layers|cross)/(attn|cross|mlp)/.*/kernel", "lora"), (r".*", "frozen")],
    "attention": [(r"text/(layers|cross)/(attn|cross)/.*", "full"), (r".*", "frozen")],
    "full": [(r".*", "full")],
}
CLASSES = "text/classes/kernel"  # a classifier's head above the decoder


def trainability(rules: Sequence[tuple[str, str]], paths: Sequence[str]) -> dict[str, str]:
    """path -> frozen, lora or full. Raises UserError for a rule without a match or another word."""
    head = next((pattern for pattern, _ in rules if pattern.startswith("text/head")), None)
    if head is not None and not any(path.startswith("text/head/") for path in paths):
        raise UserError(
            f"what to train: the rule {head!r} is for an output matrix, and this model's is its embedding: leave the "
            'rule out, or train the embedding itself, by ("text/embed/embedding", "full")'
        )
    words = path_rules.match(rules, paths, "what to train")
    for path, word in words.items():
        if word not in ("frozen", "lora", "full"):
            raise UserError(f"what to train: {path!r} is given {word!r}; expected frozen, lora or full")
        if word == "lora" and not path.endswith("/kernel"):
            raise UserError(f"what to train: LoRA is for matrices (paths that end in /kernel), not {path!r}")
    if set(words.values()) == {"frozen"}:
        raise UserError("what to train: the rules freeze everything, so there is nothing to train")
    return words


def init_lora(key: Array, shapes: dict[str, tuple[int, ...]], rank: int) -> dict[str, dict[str, Array]]:
    """Fresh factors for weights of these shapes `[..., in, out]`: `a` uniform as in PEFT, `b` zero: no change yet."""
    fresh = {}
    for number, (path, shape) in enumerate(sorted(shapes.items())):
        *stack, width_in, width_out = shape
        bound = width_in**-0.5
        a = jax.random.uniform(jax.random.fold_in(key, number), (*stack, width_in, rank), jnp.float32, -bound, bound)
        fresh[path] = {"a": a, "b": jnp.zeros((*stack, rank, width_out), jnp.float32)}
    return fresh


def combine(
    base: dict,
    trainable: dict[str, Any],
    stacks: Stacks,
    scale: Any = 1.0,
    key: Any = None,
    dropout: float = 0.0,
    cut: Collection[str] | None = None,
) -> dict:
    """One parameter tree out of the two. `base` is arranged (`trees.arrange`), `stacks` are of the layers it runs.

    `scale` is alpha/rank (or alpha/sqrt(rank): rsLoRA, arXiv:2312.03732); with `key`, LoRA inputs drop out. `cut` are
    the paths of what is trained in parts over the cards of a group; None: there is no group.
    """
    prepared = {}
    for number, (path, leaf) in enumerate(sorted(trainable.items())):
        if isinstance(leaf, dict):
            leaf = {"a": leaf["a"], "b": jax.tree.map(lambda b: b * scale, leaf["b"])}
            if key is not None and dropout:
                one, stack = jax.random.fold_in(key, number), stack_of(path, stacks)
                leaf["key"] = one if stack is None else jax.random.split(one, len(stacks[stack]))
        elif cut is not None and path in cut:
            leaf = jax.tree.map(lambda own: Cut(own, trained=True), leaf)
        prepared[path] = leaf
    layers, drops = base["text"]["layers"], Drops(dropout, cut is not None)
    if not isinstance(layers, list):
        return _graft(base, unflatten(prepared), drops)
    stacked = {path: leaf for path, leaf in prepared.items() if stack_of(path, stacks)}
    rest = {path: leaf for path, leaf in prepared.items() if path not in stacked}
    joined = [
        _graft(own, unflatten(trained), drops) for own, trained in zip(layers, per_layer(stacked, stacks), strict=True)
    ]
    return _graft(base | {"text": base["text"] | {"layers": joined}}, unflatten(rest), drops)


class Drops(NamedTuple):
    """What of a LoRA's inputs drops out."""

    share: float
    over_cards: bool  # the rows of a batch are over the cards of a group


def _graft(base: Any, trained: Any, drops: Drops) -> Any:
    if trained is None:
        return base
    if base is None:
        return trained
    if isinstance(base, dict):
        return {name: _graft(base.get(name), trained.get(name), drops) for name in base | trained}
    return LoRA(base, trained["a"], trained["b"], trained.get("key"), drops.share, drops.over_cards)


def merge(base: dict, trainable: dict[str, Any], stacks: Stacks, scale: float, first_layer: int = 0) -> dict:
    """A plain tree with the changes worked into the weights: `W + scale * a @ b` in float32, then in W's dtype."""
    flat = flatten(base)
    for path, leaf in trainable.items():
        if path not in flat:  # a new head
            flat[path] = leaf
            continue
        old, start = flat[path], cut_of(path, stacks, first_layer)
        if isinstance(leaf, dict):
            change = jnp.matmul(leaf["a"], leaf["b"], precision="highest") * scale
            new = (old[start:].astype(jnp.float32) + change).astype(old.dtype)
        else:
            new = leaf.astype(old.dtype)
        flat[path] = jnp.concatenate([old[:start], new]) if start else new
    return unflatten(flat)


def rank_scale(alpha: float, rank: int, rslora: bool) -> float:
    return alpha / rank**0.5 if rslora else alpha / rank
