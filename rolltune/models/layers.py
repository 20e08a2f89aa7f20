"""The operations that all model families share: the only place that multiplies by a weight.

Numbers: a product runs in the dtype of its activations (the weight is cast to it), norms in float32. The elementwise
parts that autodiff would keep several wide copies of (norms, gated activations) keep their inputs only and work the
rest out again when going back.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from rolltune.models import dropout, float8
from rolltune.models.cut import Cut, scattered, whole
from rolltune.models.gating import ACTIVATIONS, gate_and_up, with_slope
from rolltune.quantize import Quantized, decode


@struct.dataclass
class LoRA:
    """A weight with a low-rank addition: `x @ base + (x @ a) @ b` (Hu et al. 2021, arXiv:2106.09685).

    `b` already carries the scale alpha/r. With `key`, `dropout` of the input's entries are dropped
    on the way into `a`, as PEFT does: which ones depends on the key, the row and the place in it, not on the
    shape that the batch was padded to.
    """

    base: Any
    a: Float[Array, "*l i r"]
    b: Float[Array, "*l r o"]
    key: Any = None
    dropout: float = struct.field(pytree_node=False, default=0.0)
    over_cards: bool = struct.field(pytree_node=False, default=False)  # x has a card's own rows of a batch
    joined: Any = None  # its `a` beside those of all matrices that share its input, see `joined`


def in_turn(x: Float[Array, "b t d"], p: dict) -> tuple[Array, dict]:
    """x and a layer's weights, as they are; but over cards in groups, going back, the gradient of x waits for those of
    what the layer trains. XLA would put them off to the end, and keep what they need of every layer until then."""
    nodes, tree = jax.tree.flatten(p, is_leaf=lambda node: isinstance(node, LoRA | Cut))
    if not any(isinstance(node, Cut) or (isinstance(node, LoRA) and node.over_cards) for node in nodes):
        return x, p
    trained = [_trained_of(node) for node in nodes]
    x, trained = _in_turn(x, trained)
    own = lambda node, part: dataclasses.replace(node, **part) if part else node
    return x, jax.tree.unflatten(tree, list(map(own, nodes, trained)))


def in_dtype(p: dict, dtype: Any) -> dict:
    """A layer's weights with adapters in the dtype of products: what a checkpoint keeps of them is half as wide, and
    going back doesn't make them again."""
    is_lora = lambda node: isinstance(node, LoRA)
    cast = lambda w: dataclasses.replace(w, a=w.a.astype(dtype), b=w.b.astype(dtype)) if is_lora(w) else w
    return jax.tree.map(cast, p, is_leaf=is_lora)


def _trained_of(node: Any) -> dict[str, Array]:
    if isinstance(node, LoRA):
        return {"a": node.a, "b": node.b}
    return {"values": node.values} if isinstance(node, Cut) and node.trained else {}


@jax.custom_vjp
def _in_turn(x: Array, trained: list[dict[str, Array]]) -> tuple[Array, list[dict[str, Array]]]:
    return x, trained


_in_turn.defvjp(lambda *given: (given, None), lambda _, slopes: jax.lax.optimization_barrier(slopes))


def product(x: Float[Array, "*b i"], w: Any) -> Float[Array, "*b o"]:
    """`x @ w` for a plain array, a quantized matrix or an adapted one of either, in the dtype of x."""
    return products(x, [w])[0]


def products(
    x: Float[Array, "*b i"], weights: Sequence[Any], largest: Float[Array, ""] | None = None
) -> list[Float[Array, "*b o"]]:
    """`x @ w` for each of the weights; the inputs of adapters without dropout share one pass over x. No magnitude in x
    is over `largest`, where that is known: products in float8 ask for it.

    All rows are one dimension here: for gradients that sum over two, XLA would write a transposed copy of x.
    """
    rows = x.reshape(-1, x.shape[-1])
    return [y.reshape(*x.shape[:-1], -1) for y in _with_lows(rows, weights, _lows(x, weights), largest)]


def _lows(x: Float[Array, "*b i"], weights: Sequence[Any]) -> list[Array | None]:
    """What each adapter's `a` makes of x, as rows; None where there is no adapter."""
    rows = x.reshape(-1, x.shape[-1])
    shared = [w for w in weights if isinstance(w, LoRA) and w.key is None]
    inner: Iterator[Array] = iter(())
    if shared:
        ready = shared[0].joined
        every = jnp.concatenate([w.a.astype(x.dtype) for w in shared], -1) if ready is None else ready
        joined = rows @ every
        cuts = np.cumsum([w.a.shape[-1] for w in shared])[:-1]
        inner = iter(jnp.split(joined, cuts, -1))
    lows: list[Array | None] = []
    for w in weights:
        if not isinstance(w, LoRA):
            lows.append(None)
        else:
            lows.append(next(inner) if w.key is None else low_rank(x, w).reshape(len(rows), -1))
    return lows


def _with_lows(
    rows: Float[Array, "b i"], weights: Sequence[Any], lows: Sequence[Array | None], largest: Array | None = None
) -> list[Array]:
    """`rows @ w` for each of the weights, where `low` is what an adapter's `a` makes of the rows."""
    bases = [w.base if isinstance(w, LoRA) else w for w in weights]
    bs = [w.b.astype(rows.dtype) if isinstance(w, LoRA) else None for w in weights]
    if all(map(float8.serves, bases)):
        return float8.products(rows, bases, lows, bs, largest)
    add = lambda y, low, b: y if low is None else y + low @ b
    return [add(_frozen_or_full(rows, base), low, b) for base, low, b in zip(bases, lows, bs, strict=True)]


def low_rank(x: Float[Array, "*b i"], w: LoRA) -> Float[Array, "*b r"]:
    """What goes into an adapter's `b`: `x @ a`, with a key of the entries of x that are not dropped."""
    if w.key is not None:
        keep = dropout.kept(w.key, w.dropout, x.shape, w.over_cards).reshape(x.shape)
        x = jnp.where(keep, x / (1 - w.dropout), 0).astype(x.dtype)
    return (x.reshape(-1, x.shape[-1]) @ w.a.astype(x.dtype)).reshape(*x.shape[:-1], -1)


def _is_packed(w: Any, dtype: Any) -> bool:
    """Whether a matrix is frozen, and kept smaller than it is multiplied."""
    return isinstance(w, Quantized) or (w.dtype == jnp.float16 and dtype == jnp.float32)


def _unpacked(w: Any, dtype: Any) -> Float[Array, "o i"]:
    return decode(w, dtype) if isinstance(w, Quantized) else w.T.astype(dtype)


def _frozen_or_full(x: Float[Array, "b i"], w: Any) -> Float[Array, "b o"]:
    if isinstance(w, Cut):
        return _frozen_or_full(x, whole(w, x.dtype)) if w.kept else cut_product(x, w)
    if float8.serves(w):
        return float8.products(x, [w], [None], [None])[0]
    return frozen_product(x, w) if _is_packed(w, x.dtype) else x @ w.astype(x.dtype)


@jax.custom_vjp
def cut_product(x: Float[Array, "b i"], w: Cut) -> Float[Array, "b o"]:
    """`x @ w` for a matrix that is cut over cards. It comes together where it is used, each way anew: nothing of it is
    kept but the card's own rows."""
    return _frozen_or_full(x, whole(w, x.dtype))


def _cut_product_forward(x, w):
    return cut_product(x, w), (x if w.trained else None, w)


def _cut_product_backward(saved, dy):
    # Without the barrier XLA would find that both ways gather the same, and keep what the first one did.
    (x, w), dy = jax.lax.optimization_barrier((saved, dy))
    matrix = whole(w, dy.dtype)
    dx = float8.slope_of([dy], [matrix]) if float8.serves(matrix) else dy @ _unpacked(matrix, dy.dtype)
    if x is None:
        return dx, None
    return dx, dataclasses.replace(w, values=scattered(x.T @ dy).astype(w.values.dtype))


cut_product.defvjp(_cut_product_forward, _cut_product_backward)


@jax.custom_vjp
def frozen_product(x: Float[Array, "b i"], w: Any) -> Float[Array, "b o"]:
    """`x @ w` for a frozen matrix in few bits, or in float16 under float32 activations. Its values are worked out where
    they are used, each way anew."""
    # Without the barrier the compiler is free to decode the matrices of many layers before their inputs are there.
    x, w = jax.lax.optimization_barrier((x, w))
    return jax.lax.dot_general(x, _unpacked(w, x.dtype), (((1,), (1,)), ((), ())))


def _frozen_product_forward(x, w):
    return frozen_product(x, w), w


def _frozen_product_backward(w, dy):
    # Without the barrier XLA would find that both ways decode the same, and keep what the first one made.
    w, dy = jax.lax.optimization_barrier((w, dy))
    return dy @ _unpacked(w, dy.dtype), None


frozen_product.defvjp(_frozen_product_forward, _frozen_product_backward)


def linear(p: dict, x: Float[Array, "*b i"], largest: Float[Array, ""] | None = None) -> Float[Array, "*b o"]:
    return linears([p], x, largest)[0]


def linears(
    ps: Sequence[dict], x: Float[Array, "*b i"], largest: Float[Array, ""] | None = None
) -> list[Float[Array, "*b o"]]:
    """Several linear layers of the same input; `largest` as `products` takes it."""
    found = products(x, [p["kernel"] for p in ps], largest)
    return [y + p["bias"].astype(x.dtype) if "bias" in p else y for p, y in zip(ps, found, strict=True)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def rms_norm(
    x: Float[Array, "*b d"], scale: Float[Array, " d"], eps: float, offset: bool = True
) -> Float[Array, "*b d"]:
    """Root mean square norm (Zhang and Sennrich 2019, arXiv:1910.07467), in float32.

    `offset` is Gemma's: the stored scale is an offset from one, and the cast comes after the product with it. Llama's
    scale is the factor itself, and the cast comes before the product.
    """
    normed = _normed(x, eps)[0]
    if offset:
        return (normed * (1 + scale.astype(jnp.float32))).astype(x.dtype)
    return normed.astype(x.dtype) * scale.astype(x.dtype)


def norm_bound(scale: Float[Array, " d"], offset: bool = True) -> Float[Array, ""]:
    """What no magnitude that comes out of `rms_norm` is over: all of a row in one of its places."""
    factor = jnp.max(jnp.abs(offset + scale.astype(jnp.float32)))
    return factor * math.sqrt(scale.shape[-1]) * 1.01  # and the roundings on the way


def _normed(x, eps):
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
    return x32 * inverse, inverse


def _rms_norm_forward(x, scale, eps, offset):
    return rms_norm(x, scale, eps, offset), (x, scale)


def _rms_norm_backward(eps, offset, saved, dy):
    (x, scale), dy = jax.lax.optimization_barrier((saved, dy))  # as in _gated_backward
    normed, inverse = _normed(x, eps)
    dy = dy.astype(jnp.float32)
    dscale = jnp.sum((dy * normed).reshape(-1, x.shape[-1]), 0)
    dy = dy * (offset + scale.astype(jnp.float32))
    dx = inverse * (dy - normed * jnp.mean(dy * normed, -1, keepdims=True))
    return dx.astype(x.dtype), dscale.astype(scale.dtype)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def layer_norm(p: dict, x: Float[Array, "*b d"], eps: float) -> Float[Array, "*b d"]:
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, -1, keepdims=True)
    y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
    return (y * p["scale"].astype(jnp.float32) + p["bias"].astype(jnp.float32)).astype(x.dtype)


def gated_mlp(
    x: Float[Array, "*b i"], weights: Sequence[Any], down: Any, act: str, largest: Float[Array, ""] | None = None
) -> Float[Array, "*b o"]:
    """`(act(gate) * up) @ down` (Shazeer 2020, arXiv:2002.05202), where gate and up are products of x with `weights`:
    of two, or of one that has both side by side. Keeps them for the way back, no more; `largest` as in `products`.

    The last product's input is as wide as they are and costs one more pass to compute again: a third of what a layer
    keeps.
    """
    adapted = isinstance(down, LoRA)
    bases = [w.base if isinstance(w, LoRA) else w for w in (*weights, down)]
    if all(map(float8.serves, bases)) and not (adapted and down.key is not None):
        *ups, last = bases
        cast = lambda one: one.astype(x.dtype)
        bs = [cast(w.b) if isinstance(w, LoRA) else None for w in weights]
        end = float8.Down(last, *((cast(down.a), cast(down.b)) if adapted else (None, None)))
        y = float8.gated_mlp(x.reshape(-1, x.shape[-1]), ups, _lows(x, weights), bs, end, act, largest)
        return y.reshape(*x.shape[:-1], -1)
    return gated_product(products(x, weights, largest), down, act)


def gated_product(parts: Sequence[Float[Array, "*b f"]], w: Any, act: str) -> Float[Array, "*b o"]:
    lead, rows = parts[0].shape[:-1], [part.reshape(-1, part.shape[-1]) for part in parts]
    if isinstance(w, LoRA) and w.key is None:
        gated, low = _gated(rows, w.a.astype(rows[0].dtype), act)
        y = _with_lows(gated, [w], [low])[0]
    else:
        y = product(_gated(rows, None, act)[0].reshape(*lead, -1), w)
    return y.reshape(*lead, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gated(parts, a, act):
    """`act(gate) * up`, and its product with an adapter's `a`, whose gradient needs it again."""
    gate, up = gate_and_up(parts)
    gated = (ACTIVATIONS[act](gate) * up).astype(parts[0].dtype)
    return gated, None if a is None else gated @ a


def _gated_forward(parts, a, act):
    return _gated(parts, a, act), (parts, a)


def _gated_backward(act, saved, slopes):
    parts, a = saved
    dgated, dlow = slopes
    # Without the barrier XLA shares float32 copies of gate and up between the two ways, and keeps them.
    parts, dlow = jax.lax.optimization_barrier((parts, dgated if dlow is None else dlow))
    dtype = parts[0].dtype
    gate, up = gate_and_up(parts)
    active, dactive = with_slope(act, gate)
    da = None
    if a is not None:
        da = (active * up).astype(dtype).T @ dlow
        dgated = dgated + dlow @ a.T
    dgated = dgated.astype(jnp.float32)
    found = [(dgated * up * dactive).astype(dtype), (dgated * active).astype(dtype)]
    return found if len(parts) == 2 else [jnp.concatenate(found, -1)], da


_gated.defvjp(_gated_forward, _gated_backward)


def logits(x: Float[Array, "*b d"], w: Any, low: Float[Array, "*b r"] | None = None) -> Float[Array, "*b v"]:
    """Float32 `x @ w` for an output matrix [D, V] of any kind; `low` is an adapted one's `low_rank(x, w)`."""
    if isinstance(w, LoRA):
        low = low_rank(x, w) if low is None else low
        return logits(x, w.base) + jnp.matmul(low, w.b.astype(x.dtype), preferred_element_type=jnp.float32)
    matrix = whole(w, x.dtype)
    return product(x, matrix).astype(jnp.float32) if isinstance(matrix, Quantized) else tied_logits(x, matrix.T)


SCALED = 1024  # what gradients are multiplied by in float16: it holds 6e-8 to 65,504, and they are small


def _logits_dtype(x: Array, table: Array) -> Any:
    """A table in float16 is multiplied as it lies there: a float32 copy of it takes 2 GiB for 257,152 words."""
    return jnp.dtype(jnp.float16) if table.dtype == jnp.float16 else x.dtype


@jax.custom_vjp
def tied_logits(x: Float[Array, "*b d"], table: Float[Array, "v d"]) -> Float[Array, "*b v"]:
    """Float32 `x @ table.T`. Going back, the gradient takes x's dtype first: a float32 product would copy the table."""
    dtype = _logits_dtype(x, table)
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) == 1:  # cuBLAS has no float32 product of one vector in bfloat16: XLA would copy the table to float32
        rows = jnp.pad(rows, ((0, 1), (0, 0)))
    out = jnp.einsum("nd,vd->nv", rows.astype(dtype), table.astype(dtype), preferred_element_type=jnp.float32)
    return out[: math.prod(x.shape[:-1])].reshape(*x.shape[:-1], -1)


def _tied_logits_forward(x, table):
    return tied_logits(x, table), (x, table)


def _tied_logits_backward(saved, dy):
    x, table = saved
    dtype = _logits_dtype(x, table)
    factor = SCALED if dtype == jnp.float16 else 1
    dy = (dy * factor).astype(dtype)
    dtable = jnp.einsum("...v,...d->vd", dy, x.astype(dtype), preferred_element_type=jnp.float32) / factor
    kept = jnp.float32 if dtype == jnp.float16 else dtype
    dx = jnp.einsum("...v,vd->...d", dy, table.astype(dtype), preferred_element_type=kept) / factor
    return dx.astype(x.dtype), dtable.astype(table.dtype)


tied_logits.defvjp(_tied_logits_forward, _tied_logits_backward)
