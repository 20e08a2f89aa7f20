"""The gated activation, `act(gate) * up` (Shazeer 2020, arXiv:2002.05202), and its way back, with rows in float8.

Gate and up are the widest that a model has. Left to XLA, what comes of them is written, read for each row's largest
number, and read again to be rounded by it; here a kernel of Pallas has a whole row at a time and does all of it in one
pass. It serves cards that multiply in eight bits; elsewhere, and in what tests compare it with, the same is written
plainly. Both give the same numbers to the roundings of tanh and exp.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rolltune.device import multiplies_float8
from rolltune.quantize import LARGEST, power_of_two

KIND = jnp.float8_e4m3fn
ACTIVATIONS = {"gelu": jax.nn.gelu, "silu": jax.nn.silu}  # gelu is the tanh form, as in all published Gemma models
# Numbers of a row that a program has in hand at a time, and its warps: of seven pairs the fastest, or near it (H200).
CHUNK, WARPS = 4096, 16
LEAST = 1024  # that a chunk may be


class Rows(NamedTuple):
    """Rows in float8: `values[i] * scale` are those of the i-th array."""

    values: tuple[Array, ...]
    scale: Float[Array, "b 1"]  # powers of two


def with_slope(act: str, x: Float[Array, "*b"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """The activation and its derivative."""
    if act == "silu":
        sigmoid = jax.nn.sigmoid(x)
        return x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))
    tanh = jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return 0.5 * x * (1 + tanh), 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * slope


def gate_and_up(parts: Sequence[Float[Array, "b _"]]) -> list[Float[Array, "b f"]]:
    """In float32, of two arrays or of one that has both side by side [B, 2F]."""
    return [part.astype(jnp.float32) for part in (parts if len(parts) == 2 else jnp.split(parts[0], 2, -1))]


def rounded(*parts: Float[Array, "b _"]) -> Rows:
    """Rows in float8, under one scale for all parts of a row."""
    parts = jax.lax.optimization_barrier(parts)  # or XLA makes them twice, for the largest and for what is rounded
    largest = [jnp.max(jnp.abs(part), -1, keepdims=True).astype(jnp.float32) for part in parts]
    scale = power_of_two(jax.tree.reduce(jnp.maximum, largest))
    return Rows(tuple(in_float8(part, scale) for part in parts), scale)


def in_float8(x: Float[Array, "*b"], scale: Float[Array, "..."]) -> Array:
    return (x.astype(jnp.float32) / scale).astype(KIND)


def forward(parts: Sequence[Float[Array, "b _"]], act: str) -> tuple[Float[Array, "b f"], Rows]:
    """`act(gate) * up`, as it is and in float8; `parts` are gate and up, or both side by side."""
    width = _width(parts)
    if _has_kernels(width):
        return _forward(parts, act, False)
    gate, up = gate_and_up(parts)
    gated = (ACTIVATIONS[act](gate) * up).astype(parts[0].dtype)
    return gated, rounded(gated)


def backward(
    parts: Sequence[Float[Array, "b _"]],
    slope: Float[Array, "b f"],
    scale: Float[Array, "b 1"],
    added: Float[Array, "b f"] | None,
    act: str,
) -> tuple[list[Float[Array, "b _"]], Rows, Float[Array, "b f"]]:
    """The slopes of the parts, as they are and in float8, and what `forward` gives, which an adapter's gradient takes.

    The slope of what `forward` gives is `slope * scale + added`.
    """
    if _has_kernels(_width(parts)):
        return _backward(parts, slope, scale, added, act, False)
    gate, up = gate_and_up(parts)
    active, dactive = with_slope(act, gate)
    total = slope.astype(jnp.float32) * scale + (0 if added is None else added.astype(jnp.float32))
    dtype = parts[0].dtype
    found = [(total * up * dactive).astype(dtype), (total * active).astype(dtype)]
    found = found if len(parts) == 2 else [jnp.concatenate(found, -1)]
    return found, rounded(*found), (active * up).astype(dtype)


def _width(parts: Sequence[Array]) -> int:
    return parts[0].shape[-1] * len(parts) // 2


def _has_kernels(width: int) -> bool:
    """Whether there is a card for the kernels; rows that are no whole chunks are left to XLA."""
    return multiplies_float8() and width % LEAST == 0


def _call(kernel: Any, rows: int, interpret: bool, **specs: Any) -> Any:
    from jax.experimental import pallas as pl  # takes a while to import, and most runs have no need of it
    from jax.experimental.pallas import triton

    params = triton.CompilerParams(num_warps=WARPS, num_stages=1)
    return pl.pallas_call(kernel, grid=(rows,), compiler_params=params, interpret=interpret, **specs)


def _chunks(width: int) -> tuple[int, range]:
    size = math.gcd(CHUNK, width)
    return size, range(0, width, size)


def _power_of_two(largest):
    """`quantize.power_of_two` by bits, and one over it: no number, if the largest is none."""
    exponent = jax.lax.bitcast_convert_type(largest * (1 / LARGEST), jnp.int32) >> 23
    known = (exponent > 0) & (exponent < 254)
    bits = jnp.where(known, exponent + 1, 127)
    inverse = jax.lax.bitcast_convert_type((254 - bits) << 23, jnp.float32)
    scale = jax.lax.bitcast_convert_type(bits << 23, jnp.float32)
    # Converting saves what is infinite as the largest number that there is: nobody would see it any more.
    return scale, jnp.where(exponent < 255, inverse, jnp.nan)


def _halves(refs: Sequence[Any], width: int) -> tuple[tuple[Any, int], tuple[Any, int]]:
    """Where gate's numbers and where up's begin: the array, and the place in its row."""
    return (refs[0], 0), (refs[-1], 0 if len(refs) == 2 else width)


def _row(width: int) -> Any:
    from jax.experimental import pallas as pl

    return pl.BlockSpec((None, width), lambda i: (i, 0))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _forward(parts, act, interpret):
    from jax.experimental import pallas as pl

    width, count, dtype = _width(parts), len(parts[0]), parts[0].dtype
    size, starts = _chunks(width)

    def kernel(*refs):
        *part_refs, gated_ref, values_ref, scale_ref = refs
        kept, largest = [], jnp.zeros((size,), jnp.float32)
        for start in starts:
            gate, up = (ref[pl.ds(begin + start, size)].astype(jnp.float32) for ref, begin in _halves(part_refs, width))
            value = (ACTIVATIONS[act](gate) * up).astype(dtype)
            gated_ref[pl.ds(start, size)] = value
            kept.append(value)
            largest = jnp.maximum(largest, jnp.abs(value.astype(jnp.float32)))
        scale, inverse = _power_of_two(jnp.max(largest))
        scale_ref[...] = jnp.full((1,), scale, jnp.float32)
        for start, value in zip(starts, kept, strict=True):
            values_ref[pl.ds(start, size)] = (value.astype(jnp.float32) * inverse).astype(KIND)

    shape = lambda kind, width=width: jax.ShapeDtypeStruct((count, width), kind)
    gated, values, scale = _call(
        kernel,
        count,
        interpret,
        in_specs=[_row(part.shape[-1]) for part in parts],
        out_specs=[_row(width), _row(width), _row(1)],
        out_shape=[shape(dtype), shape(KIND), shape(jnp.float32, 1)],
    )(*parts)
    return gated, Rows((values,), scale)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _backward(parts, slope, scale, added, act, interpret):
    from jax.experimental import pallas as pl

    width, count, dtype, wide = _width(parts), len(parts[0]), parts[0].dtype, parts[0].shape[-1]
    size, starts = _chunks(width)
    more = [] if added is None else [added]

    def kernel(*refs):
        part_refs, refs = refs[: len(parts)], refs[len(parts) :]
        (slope_ref, scale_ref, *added_refs), refs = refs[: 2 + len(more)], refs[2 + len(more) :]
        slope_refs, values_refs, (gated_ref, last_ref) = refs[: len(parts)], refs[len(parts) : -2], refs[-2:]
        kept, largest = [], jnp.zeros((size,), jnp.float32)
        factor = jnp.max(scale_ref[...])
        for start in starts:
            here = pl.ds(start, size)
            gate, up = (ref[pl.ds(begin + start, size)].astype(jnp.float32) for ref, begin in _halves(part_refs, width))
            total = slope_ref[here].astype(jnp.float32) * factor
            for ref in added_refs:
                total = total + ref[here].astype(jnp.float32)
            active, dactive = with_slope(act, gate)
            gated_ref[here] = (active * up).astype(dtype)
            made = (total * up * dactive).astype(dtype), (total * active).astype(dtype)
            for (ref, begin), value in zip(_halves(slope_refs, width), made, strict=True):
                ref[pl.ds(begin + start, size)] = value
                largest = jnp.maximum(largest, jnp.abs(value.astype(jnp.float32)))
            kept.append(made)
        own, inverse = _power_of_two(jnp.max(largest))
        last_ref[...] = jnp.full((1,), own, jnp.float32)
        for start, made in zip(starts, kept, strict=True):
            for (ref, begin), value in zip(_halves(values_refs, width), made, strict=True):
                ref[pl.ds(begin + start, size)] = (value.astype(jnp.float32) * inverse).astype(KIND)

    shape = lambda kind, width=width: jax.ShapeDtypeStruct((count, width), kind)
    *found, gated, own = _call(
        kernel,
        count,
        interpret,
        in_specs=[*[_row(wide)] * len(parts), _row(width), _row(1), *[_row(width)] * len(more)],
        out_specs=[*[_row(wide)] * len(parts) * 2, _row(width), _row(1)],
        out_shape=[*[shape(dtype, wide)] * len(parts), *[shape(KIND, wide)] * len(parts),
                   shape(dtype), shape(jnp.float32, 1)],
        # In the places of what nobody reads again: gate's and up's slopes in theirs, what the two give in the slope's.
        input_output_aliases={number: number for number in range(len(parts))} | {len(parts): 2 * len(parts)},
    )(*parts, slope, scale, *more)  # fmt: skip
    return found[: len(parts)], Rows(tuple(found[len(parts) :]), own), gated
