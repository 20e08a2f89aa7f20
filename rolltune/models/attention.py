"""Rotary positions, and attention. Angles, logits and softmax are float32.

As in `layers`, only inputs are kept for the way back: the weights of attention are worked out again.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rolltune.device import is_gpu

# The logit of what must not be seen (big_vision's value; finite, so that a row of them is no NaN).
NEVER = -2.3819763e38


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864), and how published models stretch it to longer texts.

    `llama3` divides slow frequencies by `factor` and mends those between. `su` (LongRoPE, arXiv:2402.13753) divides
    each by a factor of its own: `long` where a row's prompt is longer than `original_max`, else `short`.
    """

    theta: float = 10000.0
    kind: str = "plain"  # plain, llama3 or su
    original_max: int = 8192
    factor: float = 8.0  # of llama3, with the bounds between which it is mended
    low: float = 1.0
    high: float = 4.0
    short: tuple[float, ...] = ()  # of su, one a pair of dimensions
    long: tuple[float, ...] = ()
    amplitude: float = 1.0  # of su: cosine and sine are multiplied by it, short or long


def _inverse_frequencies(rope: Rope, head_dim: int, prompt: Int[Array, " b"]) -> Float[Array, "*b h"]:
    """Angles per position, float32: [H/2], or [B, H/2] where rows differ."""
    inverse = rope.theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if rope.kind == "llama3":
        wavelength = 2 * jnp.pi / inverse
        blend = (rope.original_max / wavelength - rope.low) / (rope.high - rope.low)
        return (1 - (blend := jnp.clip(blend, 0, 1))) * inverse / rope.factor + blend * inverse
    if rope.kind == "su":
        long = (prompt > rope.original_max)[:, None]
        return inverse / jnp.where(long, jnp.asarray(rope.long), jnp.asarray(rope.short))
    return inverse


def rope_angles(
    rope: Rope, positions: Int[Array, "b t"], head_dim: int, prompt: Int[Array, " b"]
) -> tuple[Float[Array, "b t 1 h"], Float[Array, "b t 1 h"]]:
    """Cosine and sine of the rotary angles, float32. `prompt` is the length of each row's prompt."""
    inverse = _inverse_frequencies(rope, head_dim, prompt)
    inverse = inverse[:, None, None, :] if inverse.ndim == 2 else inverse
    angles = positions[:, :, None, None].astype(jnp.float32) * inverse
    return jnp.cos(angles) * rope.amplitude, jnp.sin(angles) * rope.amplitude


def rotate(x: Float[Array, "b t n h"], angles: tuple[Array, Array]) -> Float[Array, "b t n h"]:
    """Rotary embedding in the first-half, second-half layout of the published weights."""
    cos, sin = angles
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x.dtype)


@jax.custom_batching.custom_vmap
def put(
    cache: Float[Array, "*r b s k h"], new: Float[Array, "*r b t k h"], slot: Int[Array, ""]
) -> Float[Array, "*r b s k h"]:
    """The cache with these rows from `slot` on."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new, slot, -3)


@put.def_vmap
def _put_of_rolls(count, mapped, cache, new, slot):
    """One update for all rolls, which write at the same place: JAX's own rule makes a scatter of it, which asks first
    whether it stays inside and reads what is there, by two more kernels a layer and token."""
    if mapped[2]:
        raise ValueError("rows of a cache are put at one place for all")
    whole = lambda x, own: x if own else jnp.broadcast_to(x, (count, *x.shape))
    return put(whole(cache, mapped[0]), whole(new, mapped[1]), slot), True


ATTENTION = "attention"  # the name of what attention makes, for whoever says what is kept for the way back
FUSED_FROM, FUSED_HEAD = 1024 * 1024, 128  # T * S, and the width of a head
LOGITS_AT_ONCE = 2**28  # float32 logits [B, N, T, S]: 1 GiB


def attend(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    mask: Bool[Array, "b t s"] | None,
    scale: float,
    softcap: float | None = None,
    causal: bool = False,
) -> Float[Array, "b t n h"]:
    """Grouped-query attention: each key head serves n/k consecutive query heads. Logits and softmax in float32.

    `causal` says that the mask lets every token see those before it and itself, padding at the end apart, which nobody
    reads. Long sequences on a GPU take a kernel that holds no [T, S] of logits (FlashAttention: Dao et al. 2022,
    arXiv:2205.14135): cuDNN's where it serves, which knows no soft cap, no mask but the causal one under `vmap`, and
    heads of up to 128; else ours. Where there is none and logits would be large, they come for some queries at a time.
    """
    b, t, n, h = q.shape
    if t * k.shape[1] >= FUSED_FROM and q.dtype != jnp.float32 and is_gpu():
        if causal and softcap is None and h <= FUSED_HEAD:
            return jax.nn.dot_product_attention(q, k, v, is_causal=True, scale=scale, implementation="cudnn")
        from rolltune.models import flash  # Pallas takes a while to import, and most runs have no need of it

        if mask is not None and h in flash.WIDTHS and t >= flash.LEAST:
            return flash.attend(q, k, v, mask, scale, softcap, causal)
    parts = -(-b * n * t * k.shape[1] // LOGITS_AT_ONCE)
    if parts == 1:
        return _attend_whole(q, k, v, mask, scale, softcap)
    size = -(-t // parts)
    fill = ((0, 0), (0, parts * size - t), (0, 0))
    cut = lambda x: x.reshape(b, parts, size, *x.shape[2:]).swapaxes(0, 1)
    asked = cut(jnp.pad(q, (*fill, (0, 0)))), None if mask is None else cut(jnp.pad(mask, fill))
    out = jax.lax.map(lambda some: _attend_whole(some[0], k, v, some[1], scale, softcap), asked)
    return out.swapaxes(0, 1).reshape(b, parts * size, n, h)[:, :t]


def _attend_whole(q, k, v, mask, scale, softcap):
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
