"""Products with frozen matrices in eight-bit floats: half bfloat16's bytes, and twice its rate where a card has it.

The weights are float8 (e4m3) under one scale a matrix. What they are multiplied by, and its gradients, are rounded to
float8, each row (a token) under a scale of its own, so that none depends on its neighbours; or under one that holds
whatever comes, where a norm says how large its results can be: float8 tells numbers apart over four orders of
magnitude, and a pass over all of them is saved. Scales are powers of two: they cost a rounding nowhere. Sums are
float32's; adapters' own products and gradients stay in the activations' dtype. A card without such products, or a CPU,
makes the same ones in a wider type.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rolltune.quantize import NF4, Float8, decode_float8, power_of_two

KIND = jnp.float8_e4m3fn


def serves(w: Any) -> bool:
    """Whether products with a matrix are made here."""
    return isinstance(w, NF4 | Float8) and w.float8


def products(
    x: Float[Array, "b i"],
    weights: Sequence[Any],
    lows: Sequence[Array | None],
    bs: Sequence[Array | None],
    largest: Float[Array, ""] | None = None,
) -> list[Float[Array, "b _"]]:
    """`x @ w + low @ b` for each of the weights; `low` [B, R] and `b` [R, O] are an adapter's, or None. No magnitude in
    x is over `largest`, where that is known."""
    return list(_products(x, tuple(weights), tuple(lows), tuple(bs), largest))


def rounded(*parts: Float[Array, "b _"]) -> tuple[list[Array], Float[Array, "b 1"]]:
    """Rows in float8, and the scale of each: one for all parts of a row."""
    parts = jax.lax.optimization_barrier(parts)  # or XLA makes them twice, for the largest and for what is rounded
    largest = [jnp.max(jnp.abs(part), -1, keepdims=True).astype(jnp.float32) for part in parts]
    scale = power_of_two(jax.tree.reduce(jnp.maximum, largest))
    return [_in_float8(part, scale) for part in parts], scale


def _in_float8(x, scale):
    return (x.astype(jnp.float32) / scale).astype(KIND)


@jax.custom_vjp
def _products(x, weights, lows, bs, largest):
    factor = None
    if largest is None:
        (rows,), scale = rounded(x)
        scale, factor = jnp.float32(1), scale.astype(x.dtype)
    else:
        scale = power_of_two(largest)
        rows = _in_float8(x, scale)
    # As in `layers.frozen_product`: matrices are not to be worked out ahead of what they multiply.
    rows, weights = jax.lax.optimization_barrier((rows, weights))
    found = []
    for w, low, b in zip(weights, lows, bs, strict=True):
        y = _product(rows, w, 1, x.dtype, scale)
        if low is not None:  # on a GPU one kernel adds the one product to the other
            y = (low if factor is None else low / factor) @ b + y
        found.append(y if factor is None else y * factor)
    return tuple(found)


def _product(x, w, axis, dtype, scale=1.0):
    """Over an axis of the matrix [O, I], times a scale. The compiler knows this form for a product of eight bits."""
    values, own = decode_float8(w)
    matrix = values.astype(dtype) * (own * scale).astype(dtype)
    return jax.lax.dot_general(x.astype(dtype), matrix, (((1,), (axis,)), ((), ())))


def slope_of(slopes: Sequence[Float[Array, "b _"]], weights: Sequence[Any]) -> Float[Array, "b i"]:
    """What going back gives the rows that were multiplied by these matrices."""
    rows, scale = rounded(*slopes)
    # Without the barrier XLA would find that both ways decode the same, and keep what the first one made.
    weights, rows = jax.lax.optimization_barrier((weights, rows))
    dtype = slopes[0].dtype
    found = [_product(part, w, 0, dtype) for part, w in zip(rows, weights, strict=True)]
    return functools.reduce(operator.add, found) * scale.astype(dtype)


def _products_forward(x, weights, lows, bs, largest):
    return _products(x, weights, lows, bs, largest), (weights, lows, bs)


def _products_backward(saved, slopes):
    weights, lows, bs = saved
    dlows = tuple(None if b is None else slope @ b.T for slope, b in zip(slopes, bs, strict=True))
    dbs = tuple(None if low is None else low.T @ slope for slope, low in zip(slopes, lows, strict=True))
    return slope_of(slopes, weights), None, dlows, dbs, None


_products.defvjp(_products_forward, _products_backward)
