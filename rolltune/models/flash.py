"""Attention that never holds [T, S] of logits, with a soft cap and any mask: a kernel for GPUs, by way of Pallas.

FlashAttention-2 (Dao 2023, arXiv:2307.08691). cuDNN's kernel is the faster one where it serves (`attention.attend`); it
knows no soft cap (Gemma 2) and, of masks that are cheap to state, the causal one alone. Numbers are those of
`attention._attend`: products in the inputs' dtype summed up in float32, everything between them in float32.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

from rolltune.models.attention import ATTENTION

NEVER = -1e30
WIDTHS = (16, 32, 64, 128, 256)  # of a head
LEAST = 64  # tokens: all sizes below divide it
LOG2E = 1.4426950408889634


class Sizes(NamedTuple):
    """Of a kernel: tokens that a program makes results for, tokens that it goes through at a time, and how it runs."""

    own: int
    others: int
    warps: int
    stages: int


class Kernels(NamedTuple):
    forward: Sizes
    queries: Sizes  # the gradient of the queries
    keys: Sizes  # of keys and values


class Mode(NamedTuple):
    """How is attended, fixed while a program is compiled: see `attend`."""

    scale: float
    softcap: float | None
    causal: bool
    interpret: bool


class Given(NamedTuple):
    """What going back needs. `total` are logarithms to base 2 of each query's sum of exponentials, `delta` what the
    softmax takes away again of each query's slopes; both [B, N, T]."""

    q: Array
    k: Array
    v: Array
    mask: Array
    total: Array
    delta: Array
    dout: Array


# The fastest of eight to eleven each on an H100 that fit the 99 KiB of shared memory of an RTX 40.
NARROW = Kernels(Sizes(64, 64, 4, 2), Sizes(64, 64, 4, 2), Sizes(64, 64, 4, 1))
WIDE = Kernels(Sizes(64, 32, 4, 2), Sizes(64, 32, 4, 1), Sizes(32, 32, 4, 2))


def attend(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    mask: Bool[Array, "b t s"],
    scale: float,
    softcap: float | None = None,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "b t n h"]:
    """Grouped-query attention. `causal` promises that no query sees a later key, which halves the work; T is S then.

    What a query gets that sees nothing is finite, and else undefined. `interpret` runs it without a GPU.
    """
    t, s = q.shape[1], k.shape[1]
    fill_q, fill_k = -t % LEAST, -s % LEAST
    if fill_q or fill_k:
        pad = lambda x, fill: jnp.pad(x, ((0, 0), (0, fill), (0, 0), (0, 0)))
        q, k, v = pad(q, fill_q), pad(k, fill_k), pad(v, fill_k)
        mask = jnp.pad(mask, ((0, 0), (0, fill_q), (0, fill_k)))
    return _attend(q, k, v, mask.astype(jnp.int8), Mode(scale, softcap, causal, interpret))[:, :t]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q, k, v, mask, mode):
    return _forward(q, k, v, mask, mode)[0]


def _attend_forward(q, k, v, mask, mode):
    out, total = (checkpoint_name(x, ATTENTION) for x in _forward(q, k, v, mask, mode))
    return out, (q, k, v, mask, out, total)


def _attend_backward(mode, saved, dout):
    q, k, v, mask, out, total = saved
    delta = jnp.einsum("btnh,btnh->bnt", out, dout, preferred_element_type=jnp.float32)
    given = Given(q, k, v, mask, total, delta, dout)
    return _slopes_of_queries(given, mode), *_slopes_of_keys(given, mode), None


_attend.defvjp(_attend_forward, _attend_backward)


def _kernels(width: int) -> Kernels:
    return NARROW if width <= 128 else WIDE


def _call(kernel: Any, sizes: Sizes, grid: tuple[int, ...], interpret: bool, **specs: Any) -> Any:
    params = triton.CompilerParams(num_warps=sizes.warps, num_stages=sizes.stages)
    return pl.pallas_call(kernel, grid=grid, compiler_params=params, interpret=interpret, **specs)


def _dot(x, y):
    return jnp.dot(x, y, preferred_element_type=jnp.float32)


def _logits(q, k, seen, mode):
    """Float32 [queries, keys] in units of log 2, and the soft cap's slope."""
    logits = _dot(q, k.T) * mode.scale
    slope = 1.0
    if mode.softcap:
        capped = 1 - 2 / (jnp.exp2(logits * (2 * LOG2E / mode.softcap)) + 1)  # tanh
        logits, slope = capped * mode.softcap, 1 - capped * capped
    return jnp.where(seen != 0, logits * LOG2E, NEVER), slope


def _forward(q, k, v, mask, mode):
    """(what comes out, the logarithm to base 2 of the sum of each query's exponentials [B, N, T])."""
    (b, t, n, h), s, group = q.shape, k.shape[1], q.shape[2] // k.shape[2]
    sizes = _kernels(h).forward
    own, others = sizes.own, sizes.others

    def kernel(q_ref, k_ref, v_ref, mask_ref, out_ref, total_ref):
        queries = q_ref[...]

        def add(i, carry):
            out, most, total = carry
            here = pl.ds(i * others, others)
            logits, _ = _logits(queries, k_ref[here, :], mask_ref[:, here], mode)
            new = jnp.maximum(most, jnp.max(logits, 1))
            weights, before = jnp.exp2(logits - new[:, None]), jnp.exp2(most - new)
            values = v_ref[here, :]
            out = out * before[:, None] + _dot(weights.astype(values.dtype), values)
            return out, new, total * before + jnp.sum(weights, 1)

        empty = jnp.zeros((own, h), jnp.float32), jnp.full((own,), NEVER), jnp.zeros((own,), jnp.float32)
        stop = (pl.program_id(0) + 1) * own // others if mode.causal else s // others
        out, most, total = jax.lax.fori_loop(0, stop, add, empty)
        out_ref[...] = (out / total[:, None]).astype(out_ref.dtype)
        total_ref[...] = most + jnp.log2(total)

    queries = pl.BlockSpec((None, own, None, h), lambda i, j, l: (l, i, j, 0))
    keys = pl.BlockSpec((None, s, None, h), lambda i, j, l: (l, 0, j // group, 0))
    return _call(
        kernel,
        sizes,
        (t // own, n, b),
        mode.interpret,
        in_specs=[queries, keys, keys, pl.BlockSpec((None, own, s), lambda i, j, l: (l, i, 0))],
        out_specs=[queries, pl.BlockSpec((None, None, own), lambda i, j, l: (l, j, i))],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((b, n, t), jnp.float32)],
    )(q, k, v, mask)


def _slopes_of_queries(given, mode):
    (b, t, n, h), s, group = given.q.shape, given.k.shape[1], given.q.shape[2] // given.k.shape[2]
    sizes = _kernels(h).queries
    own, others = sizes.own, sizes.others

    def kernel(q_ref, k_ref, v_ref, mask_ref, total_ref, delta_ref, dout_ref, dq_ref):
        queries, total, delta, dout = q_ref[...], total_ref[...], delta_ref[...], dout_ref[...]

        def add(i, dq):
            here = pl.ds(i * others, others)
            keys = k_ref[here, :]
            logits, slope = _logits(queries, keys, mask_ref[:, here], mode)
            weights = jnp.exp2(logits - total[:, None])
            dlogits = weights * (_dot(dout, v_ref[here, :].T) - delta[:, None]) * slope * mode.scale
            return dq + _dot(dlogits.astype(keys.dtype), keys)

        stop = (pl.program_id(0) + 1) * own // others if mode.causal else s // others
        dq_ref[...] = jax.lax.fori_loop(0, stop, add, jnp.zeros((own, h), jnp.float32)).astype(dq_ref.dtype)

    queries = pl.BlockSpec((None, own, None, h), lambda i, j, l: (l, i, j, 0))
    keys = pl.BlockSpec((None, s, None, h), lambda i, j, l: (l, 0, j // group, 0))
    each = pl.BlockSpec((None, None, own), lambda i, j, l: (l, j, i))
    seen = pl.BlockSpec((None, own, s), lambda i, j, l: (l, i, 0))
    return _call(
        kernel,
        sizes,
        (t // own, n, b),
        mode.interpret,
        in_specs=[queries, keys, keys, seen, each, each, queries],
        out_specs=queries,
        out_shape=jax.ShapeDtypeStruct(given.q.shape, given.q.dtype),
    )(*given)


def _slopes_of_keys(given, mode):
    """Of keys and values. Those of query heads that share a key head are summed up last: more programs run at once."""
    (b, t, n, h), (s, heads) = given.q.shape, given.k.shape[1:3]
    group, sizes = n // heads, _kernels(h).keys
    own, others = sizes.own, sizes.others

    def kernel(q_ref, k_ref, v_ref, mask_ref, total_ref, delta_ref, dout_ref, dk_ref, dv_ref):
        keys, values = k_ref[...], v_ref[...]

        def add(i, carry):  # all of it turned, [keys, queries]: no product has to turn what was just made
            dk, dv = carry
            here = pl.ds(i * others, others)
            queries, dout = q_ref[here, :], dout_ref[here, :]
            logits, slope = _logits(keys, queries, mask_ref[here, :].T, mode)
            weights = jnp.exp2(logits - total_ref[here][None])
            dlogits = weights * (_dot(values, dout.T) - delta_ref[here][None]) * slope * mode.scale
            dv = dv + _dot(weights.astype(dout.dtype), dout)
            return dk + _dot(dlogits.astype(queries.dtype), queries), dv

        empty = jnp.zeros((own, h), jnp.float32)
        start = pl.program_id(0) * own // others if mode.causal else 0
        dk_ref[...], dv_ref[...] = jax.lax.fori_loop(start, t // others, add, (empty, empty))

    keys = pl.BlockSpec((None, own, None, h), lambda i, j, l: (l, i, j // group, 0))
    queries = pl.BlockSpec((None, t, None, h), lambda i, j, l: (l, 0, j, 0))
    each = pl.BlockSpec((None, None, t), lambda i, j, l: (l, j, 0))
    seen = pl.BlockSpec((None, t, own), lambda i, j, l: (l, 0, i))
    made = pl.BlockSpec((None, own, None, h), lambda i, j, l: (l, i, j, 0))
    found = _call(
        kernel,
        sizes,
        (s // own, n, b),
        mode.interpret,
        in_specs=[queries, keys, keys, seen, each, each, queries],
        out_specs=[made, made],
        out_shape=[jax.ShapeDtypeStruct((b, s, n, h), jnp.float32)] * 2,
    )(*given)
    return [x.reshape(b, s, heads, group, h).sum(3).astype(given.k.dtype) for x in found]
