"""The operations that all model families share: the only place that multiplies by a weight.

Numbers: a product runs in the dtype of its activations (the weight is cast to it), norms, softmax and
rotary angles in float32. The elementwise parts that autodiff would keep several wide copies of (norms,
gated activations, attention weights) keep their inputs only and work the rest out again when going back.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

NEVER = (
    -2.3819763e38
)  # the logit of what must not be seen (big_vision's value; finite, so that a row of them is no NaN)


@struct.dataclass
class LoRA:
    """A weight with a low-rank addition: `x @ base + (x @ a) @ b` (Hu et al. 2021, arXiv:2106.09685).

    `b` already carries the scale alpha/r. With `key`, `dropout` of the input's entries are dropped
    on the way into `a`, as PEFT does.
    """

    base: Any
    a: Float[Array, "*l i r"]
    b: Float[Array, "*l r o"]
    key: Any = None
    dropout: float = struct.field(pytree_node=False, default=0.0)


def product(x: Float[Array, "*b i"], w: Any) -> Float[Array, "*b o"]:
    """`x @ w` for a plain array or an adapted weight, in the dtype of x."""
    return products(x, [w])[0]


def products(x: Float[Array, "*b i"], weights: Sequence[Any]) -> list[Float[Array, "*b o"]]:
    """`x @ w` for each of the weights; the inputs of adapters without dropout share one pass over x.

    All rows are one dimension here: for gradients that sum over two, XLA would write a transposed copy of x.
    """
    rows = x.reshape(-1, x.shape[-1])
    shared = [w for w in weights if isinstance(w, LoRA) and w.key is None]
    inner: Iterator[Array] = iter(())
    if shared:
        joined = rows @ jnp.concatenate([w.a.astype(x.dtype) for w in shared], -1)
        cuts = np.cumsum([w.a.shape[-1] for w in shared])[:-1]
        inner = iter(jnp.split(joined, cuts, -1))
    out = []
    for w in weights:
        if not isinstance(w, LoRA):
            y = rows @ w.astype(x.dtype)
        elif w.key is None:
            y = product(rows, w.base) + next(inner) @ w.b.astype(x.dtype)
        else:
            keep = jax.random.bernoulli(w.key, 1 - w.dropout, rows.shape)
            dropped = jnp.where(keep, rows / (1 - w.dropout), 0).astype(x.dtype)
            y = product(rows, w.base) + dropped @ w.a.astype(x.dtype) @ w.b.astype(x.dtype)
        out.append(y.reshape(*x.shape[:-1], -1))
    return out


def linear(p: dict, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
    return linears([p], x)[0]


def linears(ps: Sequence[dict], x: Float[Array, "*b i"]) -> list[Float[Array, "*b o"]]:
    """Several linear layers of the same input."""
    found = products(x, [p["kernel"] for p in ps])
    return [y + p["bias"].astype(x.dtype) if "bias" in p else y for p, y in zip(ps, found, strict=True)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: Float[Array, "*b d"], scale: Float[Array, " d"], eps: float) -> Float[Array, "*b d"]:
    """Gemma's: the stored scale is an offset from one, and the cast comes after the product with it."""
    return (_normed(x, eps)[0] * (1 + scale.astype(jnp.float32))).astype(x.dtype)


def _normed(x, eps):
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
    return x32 * inverse, inverse


def _rms_norm_forward(x, scale, eps):
    return rms_norm(x, scale, eps), (x, scale)


def _rms_norm_backward(eps, saved, dy):
    (x, scale), dy = jax.lax.optimization_barrier((saved, dy))  # as in _gated_backward
    normed, inverse = _normed(x, eps)
    dy = dy.astype(jnp.float32)
    dscale = jnp.sum((dy * normed).reshape(-1, x.shape[-1]), 0)
    dy = dy * (1 + scale.astype(jnp.float32))
    dx = inverse * (dy - normed * jnp.mean(dy * normed, -1, keepdims=True))
    return dx.astype(x.dtype), dscale.astype(scale.dtype)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def layer_norm(p: dict, x: Float[Array, "*b d"], eps: float) -> Float[Array, "*b d"]:
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, -1, keepdims=True)
    y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
    return (y * p["scale"].astype(jnp.float32) + p["bias"].astype(jnp.float32)).astype(x.dtype)


def gelu_gated_product(gate: Float[Array, "*b f"], up: Float[Array, "*b f"], w: Any) -> Float[Array, "*b o"]:
    """`(gelu_tanh(gate) * up) @ w` (Shazeer 2020, arXiv:2002.05202). Keeps gate and up for the way back, no more.

    The product's input is as wide as they are and costs one more pass to work out again: a third of what a layer keeps.
    """
    rows = gate.reshape(-1, gate.shape[-1]), up.reshape(-1, up.shape[-1])
    if isinstance(w, LoRA) and w.key is None:
        gated, low = _gated(*rows, w.a.astype(gate.dtype))
        y = product(gated, w.base) + low @ w.b.astype(gate.dtype)
    else:
        y = product(_gated(*rows, None)[0], w)
    return y.reshape(*gate.shape[:-1], -1)


@jax.custom_vjp
def _gated(gate, up, a):
    """`gelu_tanh(gate) * up`, and its product with an adapter's `a`, whose gradient needs it again."""
    gated = (jax.nn.gelu(gate.astype(jnp.float32)) * up.astype(jnp.float32)).astype(gate.dtype)
    return gated, None if a is None else gated @ a


def _gated_forward(gate, up, a):
    return _gated(gate, up, a), (gate, up, a)


def _gated_backward(saved, slopes):
    gate, up, a = saved
    dgated, dlow = slopes
    # Without the barrier XLA shares float32 copies of gate and up between the two ways, and keeps them.
    (gate, up), dlow = jax.lax.optimization_barrier(((gate, up), dgated if dlow is None else dlow))
    dtypes = gate.dtype, up.dtype
    gate, up = gate.astype(jnp.float32), up.astype(jnp.float32)
    inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    tanh = jnp.tanh(inner)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * gate**2)
    gelu = 0.5 * gate * (1 + tanh)
    dgelu = 0.5 * (1 + tanh) + 0.5 * gate * (1 - tanh**2) * slope
    da = None
    if a is not None:
        da = (gelu * up).astype(dtypes[0]).T @ dlow
        dgated = dgated + dlow @ a.T
    dgated = dgated.astype(jnp.float32)
    return (dgated * up * dgelu).astype(dtypes[0]), (dgated * gelu).astype(dtypes[1]), da


_gated.defvjp(_gated_forward, _gated_backward)


def rope_angles(positions: Int[Array, "b t"], head_dim: int, theta: float) -> tuple[Float[Array, "b t 1 h"], ...]:
    """Cosine and sine of the rotary angles, float32 (Su et al. 2021, arXiv:2104.09864)."""
    inverse = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[:, :, None, None].astype(jnp.float32) * inverse
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "b t n h"], angles: tuple[Array, Array]) -> Float[Array, "b t n h"]:
    """Rotary embedding in the first-half, second-half layout of the published weights."""
    cos, sin = angles
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x.dtype)


def attend(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    mask: Bool[Array, "b t s"] | None,
    scale: float,
    softcap: float | None = None,
) -> Float[Array, "b t n h"]:
    """Grouped-query attention: each key head serves n/k consecutive query heads. Logits and softmax in float32."""
    b, t, _, h = q.shape
    heads = k.shape[2]
    # A key head's queries of all tokens are the rows of one matrix: with one key head, as they lie there.
    rows = q.reshape(b, t, heads, -1, h).swapaxes(1, 2).reshape(b, heads, -1, h)
    out = _attend(rows, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, scale, softcap)
    return out.reshape(b, heads, t, -1, h).swapaxes(1, 2).reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(q, k, v, mask, scale, softcap):
    """q [B, K, M, H], k and v [B, K, S, H] -> [B, K, M, H]; the M rows are T tokens of M/T heads each."""
    return _multiply(_attention_weights(q, k, mask, scale, softcap)[0].astype(v.dtype), v, 3, 2)


def _multiply(x, y, x_axis, y_axis, dtype=None):
    """Sums over these axes, for each B and K. einsum would be free to swap the two and to transpose what comes out."""
    return jax.lax.dot_general(x, y, (((x_axis,), (y_axis,)), ((0, 1), (0, 1))), preferred_element_type=dtype)


def _attention_weights(q, k, mask, scale, softcap):
    """Float32 weights [B, K, M, S], and the slope of the soft cap."""
    logits = _multiply(q, k, 3, 3, jnp.float32) * scale
    slope = 1.0
    if softcap:
        capped = jnp.tanh(logits / softcap)
        logits, slope = softcap * capped, 1 - capped**2
    if mask is not None:
        by_token = logits.reshape(*logits.shape[:2], mask.shape[1], -1, logits.shape[-1])
        logits = jnp.where(mask[:, None, :, None], by_token, NEVER).reshape(logits.shape)
    return jax.nn.softmax(logits, -1), slope


def _attend_forward(q, k, v, mask, scale, softcap):
    return _attend(q, k, v, mask, scale, softcap), (q, k, v, mask)


def _attend_backward(scale, softcap, saved, dy):
    """As FlashAttention's (Dao et al. 2022, arXiv:2205.14135): weights again, and products in the inputs' dtype."""
    (q, k, v), dy = jax.lax.optimization_barrier((saved[:3], dy))
    weights, slope = _attention_weights(q, k, saved[3], scale, softcap)
    dv = _multiply(weights.astype(dy.dtype), dy, 2, 2)
    dweights = _multiply(dy, v, 3, 3, jnp.float32)
    dlogits = weights * (dweights - jnp.sum(weights * dweights, -1, keepdims=True)) * slope * scale
    dlogits = dlogits.astype(q.dtype)
    return _multiply(dlogits, k, 3, 2), _multiply(dlogits, q, 2, 2), dv, None


_attend.defvjp(_attend_forward, _attend_backward)


@jax.custom_vjp
def tied_logits(x: Float[Array, "*b d"], table: Float[Array, "v d"]) -> Float[Array, "*b v"]:
    """Float32 `x @ table.T`. Going back, the gradient takes x's dtype first: a float32 product would copy the table."""
    return jnp.einsum("...d,vd->...v", x, table.astype(x.dtype), preferred_element_type=jnp.float32)


def _tied_logits_forward(x, table):
    return tied_logits(x, table), (x, table)


def _tied_logits_backward(saved, dy):
    x, table = saved
    dy = dy.astype(x.dtype)
    dtable = jnp.einsum("...v,...d->vd", dy, x, preferred_element_type=jnp.float32)
    return jnp.einsum("...v,vd->...d", dy, table.astype(x.dtype)), dtable.astype(table.dtype)


tied_logits.defvjp(_tied_logits_forward, _tied_logits_backward)
