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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rolltune.models import gating
from rolltune.models.gating import in_float8, rounded
from rolltune.quantize import NF4, Float8, decode_float8, power_of_two


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


@jax.custom_vjp
def _products(x, weights, lows, bs, largest):
    factor = None
    if largest is None:
        (rows,), scale = rounded(x)
        scale, factor = jnp.float32(1), scale.astype(x.dtype)
    else:
        scale = power_of_two(largest)
        rows = in_float8(x, scale)
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
    return _slope_of(rounded(*slopes), weights, slopes[0].dtype)


def _slope_of(slopes: gating.Rows, weights: Sequence[Any], dtype: Any) -> Float[Array, "b i"]:
    # Without the barrier XLA would find that both ways decode the same, and keep what the first one made.
    weights, (rows, scale) = jax.lax.optimization_barrier((weights, tuple(slopes)))
    found = [_product(part, w, 0, dtype) for part, w in zip(rows, weights, strict=True)]
    return functools.reduce(operator.add, found) * scale.astype(dtype)


def _products_forward(x, weights, lows, bs, largest):
    return _products(x, weights, lows, bs, largest), (weights, lows, bs)


def _products_backward(saved, slopes):
    weights, lows, bs = saved
    return slope_of(slopes, weights), None, *_slopes_of_adapters(slopes, lows, bs), None


def _slopes_of_adapters(slopes, lows, bs):
    dlows = tuple(None if b is None else slope @ b.T for slope, b in zip(slopes, bs, strict=True))
    return dlows, tuple(None if low is None else low.T @ slope for slope, low in zip(slopes, lows, strict=True))


_products.defvjp(_products_forward, _products_backward)


class Down(NamedTuple):
    """The matrix that a gated activation is multiplied by, and its adapter's [F, R] and [R, O], or None."""

    w: Any
    a: Any
    b: Any


def gated_mlp(
    x: Float[Array, "b i"],
    weights: Sequence[Any],
    lows: Sequence[Array | None],
    bs: Sequence[Array | None],
    down: Down,
    act: str,
    largest: Float[Array, ""] | None = None,
) -> Float[Array, "b o"]:
    """`(act(gate) * up) @ down`, where gate and up are `products` of the first arguments, two or both side by side.
    They alone are kept for the way back."""
    return _gated_mlp(x, tuple(weights), tuple(lows), tuple(bs), down, largest, act)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _gated_mlp(x, weights, lows, bs, down, largest, act):
    return _gated_mlp_forward(x, weights, lows, bs, down, largest, act)[0]


def _gated_mlp_forward(x, weights, lows, bs, down, largest, act):
    parts = _products(x, weights, lows, bs, largest)
    gated, rows = gating.forward(parts, act)
    factor = rows.scale.astype(x.dtype)
    (values,), w = jax.lax.optimization_barrier((rows.values, down.w))
    y, low = _product(values, w, 1, x.dtype), None
    if down.a is not None:
        low = gated @ down.a
        y = (low / factor) @ down.b + y
    return y * factor, (parts, weights, lows, bs, down, low)


def _gated_mlp_backward(act, saved, slope):
    parts, weights, lows, bs, down, low = saved
    # Without the barrier XLA would work out ahead, and keep, what is made of gate and up.
    parts, slope = jax.lax.optimization_barrier((parts, slope))
    (rows,), scale = rounded(slope)
    w, rows = jax.lax.optimization_barrier((down.w, rows))
    dlow = added = db = None
    if low is not None:
        dlow, db = slope @ down.b.T, low.T @ slope
        added = dlow @ down.a.T
    slopes, eight, gated = gating.backward(parts, _product(rows, w, 0, slope.dtype), scale, added, act)
    da = None if dlow is None else gated.T @ dlow
    dx = _slope_of(eight, weights, slope.dtype)
    return dx, None, *_slopes_of_adapters(slopes, lows, bs), Down(None, da, db), None


_gated_mlp.defvjp(_gated_mlp_forward, _gated_mlp_backward)
