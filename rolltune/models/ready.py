"""A decoder's layers as answers are written with: what products take of adapters is worked out once for all tokens."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from rolltune.models.layers import LoRA

SHARE = {"attn": ("q", "k", "v"), "mlp": ("gate", "up")}  # linear layers of the same input


def ready(layers: Any, dtype: Any) -> Any:
    """The layers with their adapters as products take them, worked out once for all tokens that are to be written."""
    if isinstance(layers, list | tuple):
        return [ready(p, dtype) for p in layers]
    return {name: _ready(name, p, dtype) if isinstance(p, dict) else p for name, p in layers.items()}


def _ready(block: str, p: dict, dtype: Any) -> dict:
    linear = [name for name, own in p.items() if isinstance(own, dict) and "kernel" in own]
    together = [name for name in SHARE.get(block, ()) if name in linear]  # in the order that products take them
    found = dict(p)
    if block == "attn" and len(together) == 3 and not any("bias" in p[name] for name in together):
        fused = side_by_side([p[name]["kernel"] for name in together], dtype)
        if fused is not None:
            found = {name: own for name, own in p.items() if name not in together} | {"qkv": {"kernel": fused}}
            linear, together = [name for name in linear if name not in together], []
    for names in (together, *([name] for name in linear if name not in together)):
        kernels = joined([found[name]["kernel"] for name in names], dtype)
        found |= {name: found[name] | {"kernel": kernel} for name, kernel in zip(names, kernels, strict=True)}
    return found


def joined(weights: Sequence[Any], dtype: Any) -> list[Any]:
    """Matrices of one input whose adapters lie as products take them: for whoever multiplies by them many times."""
    change = dataclasses.replace
    cast = lambda w: change(w, a=w.a.astype(dtype), b=w.b.astype(dtype)) if isinstance(w, LoRA) else w
    found = [cast(w) for w in weights]
    adapted = [w for w in found if isinstance(w, LoRA) and w.key is None]
    if adapted:
        every = jnp.concatenate([w.a for w in adapted], -1)
        found = [change(w, joined=every) if w is adapted[0] else w for w in found]
    return found


# Of matrices so small, a kernel's start and end are as long as what it reads: PaliGemma-3B's q, k and v of 10 MiB.
SMALL = 2**24


def side_by_side(weights: Sequence[Any], dtype: Any) -> Any:
    """One matrix that gives what several of the same input give, side by side; None where it would not be small, or
    their values are packed or cut. Their adapters become one, whose `b` has theirs as blocks."""
    bases = [w.base if isinstance(w, LoRA) else w for w in weights]
    plain = all(isinstance(base, Array) for base in bases)
    if not plain or sum(math.prod(base.shape[-2:]) * base.dtype.itemsize for base in bases) > SMALL:
        return None
    if any(isinstance(w, LoRA) and w.key is not None for w in weights):
        return None
    whole, begin, downs, ups = jnp.concatenate(bases, -1), 0, [], []
    for w, base in zip(weights, bases, strict=True):
        end = begin + base.shape[-1]
        if isinstance(w, LoRA):
            around = [(0, 0)] * (w.b.ndim - 1) + [(begin, whole.shape[-1] - end)]
            downs.append(w.a.astype(dtype))
            ups.append(jnp.pad(w.b.astype(dtype), around))
        begin = end
    return LoRA(whole, jnp.concatenate(downs, -1), jnp.concatenate(ups, -2)) if downs else whole
