"""Frozen weights in four or eight bits: NF4 by blocks and int8 by channel as bitsandbytes has them, and float8.

NF4 (Dettmers et al. 2023, arXiv:2305.14314) gives each value the nearest of sixteen quantiles of a normal distribution,
times the largest magnitude of its block of 64. The scales themselves may be quantized ("double quantization"): their
distance from their mean, in eight bits of a dynamic map, by blocks of 256. Matrices keep the file's [out, in] with the
blocks along `in`, so that published files load as they are; `shape` says what a product sees, [in, out].

float8 (e4m3: Micikevicius et al. 2022, arXiv:2209.05433) is the one kind whose products are of eight bits, too, see
`models.float8`; `nf4-float8` keeps four bits, and multiplies in eight.

The arithmetic is written once for NumPy and JAX. NF4's and int8's is bitsandbytes' own, step by step: the bytes agree.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int8, Num, UInt8

from rolltune import rules as path_rules
from rolltune.blockwise import dynamic_map
from rolltune.errors import UserError
from rolltune.trees import Either, flatten, unflatten

BLOCK, SCALE_BLOCK = 64, 256
CODE = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
        *(0.7229568362236023, 1.0),
    ],
    np.float32,
)


DYNAMIC = dynamic_map(signed=True)  # of double-quantized scales


@struct.dataclass
class DoubleScales:
    """Quantized scales of n blocks: `code[codes] * absmax + offset`."""

    codes: UInt8[Either, "*l n"]
    code: Float[Either, "*l 256"]  # DYNAMIC, to the roundings of the machine that a published file was made on
    absmax: Float[Either, "*l s"]  # one for each 256 of the n
    offset: Float[Either, "*l"]


@struct.dataclass
class NF4:
    """Two values a byte, the first in its high half."""

    packed: UInt8[Either, "*l o p"]  # p = in / 2
    scales: Any  # float32 [*l, o, in / block], or DoubleScales of n = o * in / block
    block: int = struct.field(pytree_node=False, default=BLOCK)
    float8: bool = struct.field(pytree_node=False, default=False)  # products are made in eight bits

    @property
    def shape(self) -> tuple[int, ...]:
        *layers, o, half = self.packed.shape
        return (*layers, 2 * half, o)

    def take(self, layer: Any) -> "NF4":
        """One layer of a stack, or a slice of it."""
        return jax.tree.map(lambda leaf: leaf[layer], self)

    __getitem__ = take

    def __iter__(self) -> Iterator["NF4"]:
        return (self.take(layer) for layer in range(self.packed.shape[0]))


@struct.dataclass
class Int8Rows:
    """`values * scales / 127`, a scale for each output."""

    values: Int8[Either, "*l o i"]
    scales: Float[Either, "*l o"]

    @property
    def shape(self) -> tuple[int, ...]:
        *layers, o, i = self.values.shape
        return (*layers, i, o)

    def take(self, layer: Any) -> "Int8Rows":
        return jax.tree.map(lambda leaf: leaf[layer], self)

    __getitem__ = take

    def __iter__(self) -> Iterator["Int8Rows"]:
        return (self.take(layer) for layer in range(self.values.shape[0]))


@struct.dataclass
class Float8:
    """`values * scale`; the scale is a power of two, one for the matrix."""

    values: Num[Either, "*l o i"]  # float8_e4m3fn
    scale: Float[Either, "*l"]
    float8: bool = struct.field(pytree_node=False, default=True)  # as NF4's

    @property
    def shape(self) -> tuple[int, ...]:
        *layers, o, i = self.values.shape
        return (*layers, i, o)

    def take(self, layer: Any) -> "Float8":
        return jax.tree.map(lambda leaf: leaf[layer], self)

    __getitem__ = take

    def __iter__(self) -> Iterator["Float8"]:
        return (self.take(layer) for layer in range(self.values.shape[0]))


Quantized = NF4 | Int8Rows | Float8
LARGEST = 448  # of float8_e4m3fn


def encode_nf4(weight: Num[Any, "*l o i"], double: bool = True, block: int = BLOCK) -> NF4:
    """A matrix, or a stack of them, in NF4. Raises ValueError where the blocks don't divide a row.

    The scales' mean is one sum over all of them, in whatever order: bitsandbytes' own differs from CPU to GPU by a
    rounding.
    """
    *layers, o, i = weight.shape
    if i % block or block % 2:
        raise ValueError(f"rows of {i} values are no whole blocks of {block}")
    xp = weight.__array_namespace__()
    values = weight.astype(xp.float32).reshape(*layers, o, i // block, block)
    absmax = xp.max(xp.abs(values), -1)
    scaled = _scaled(values, absmax)
    codes = sum((scaled > bound).astype(xp.uint8) for bound in _midpoints(CODE)).reshape(*layers, o, i // 2, 2)
    packed = (codes[..., 0] << 4) | codes[..., 1]
    return NF4(packed, encode_scales(absmax.reshape(*layers, -1)) if double else absmax, block)


def encode_scales(absmax: Float[Any, "*l n"]) -> DoubleScales:
    xp, count = absmax.__array_namespace__(), absmax.shape[-1]
    offset = xp.mean(absmax, -1)
    fill = -count % SCALE_BLOCK  # zeros: they raise no block's largest magnitude
    values = xp.pad(absmax - offset[..., None], [*[(0, 0)] * (absmax.ndim - 1), (0, fill)])
    values = values.reshape(*absmax.shape[:-1], -1, SCALE_BLOCK)
    largest = xp.max(xp.abs(values), -1)
    codes = xp.searchsorted(xp.asarray(_midpoints(DYNAMIC)), _scaled(values, largest)).astype(xp.uint8)
    codes = codes.reshape(*absmax.shape[:-1], -1)[..., :count]
    return DoubleScales(codes, xp.broadcast_to(xp.asarray(DYNAMIC), (*offset.shape, 256)), largest, offset)


def encode_int8(weight: Num[Any, "*l o i"]) -> Int8Rows:
    """A matrix, or a stack of them, with a scale for each output."""
    xp = weight.__array_namespace__()
    values = weight.astype(xp.float32)
    scales = xp.max(xp.abs(values), -1)
    factor = xp.where(scales > 0, np.float32(127) / xp.where(scales > 0, scales, 1), 0)
    return Int8Rows(xp.round(values * factor[..., None]).astype(xp.int8), scales)


def encode_float8(weight: Num[Any, "*l o i"]) -> Float8:
    """A matrix, or a stack of them."""
    xp = weight.__array_namespace__()
    values = weight.astype(xp.float32)
    scale = power_of_two(xp.max(xp.abs(values), (-1, -2)))
    return Float8((values / scale[..., None, None]).astype(jnp.float8_e4m3fn), scale)


def power_of_two(largest: Float[Any, "..."]) -> Float[Any, "..."]:
    """The scale for values up to `largest`: float8 holds them divided by it, and multiplying by it loses nothing.

    What is not finite stays so: the scale is then one.
    """
    xp = largest.__array_namespace__()
    return xp.ldexp(xp.ones_like(largest), xp.frexp(largest / np.float32(LARGEST))[1])


def _midpoints(code: np.ndarray) -> np.ndarray:
    return (code[:-1] + code[1:]) / np.float32(2)


def _scaled(values: Any, absmax: Any) -> Any:
    """Values [..., block] over their block's largest magnitude, in -1..1; a block of zeros stays."""
    xp = values.__array_namespace__()
    inverse = xp.where(absmax > 0, np.float32(1) / xp.where(absmax > 0, absmax, 1), 0)
    return xp.clip(values * inverse[..., None], -1, 1)


def decode(weight: Quantized, dtype: Any) -> Num[Any, "*l o i"]:
    """The matrix as it lies in the file, [*l, out, in]: worked out in float32, then rounded to `dtype`."""
    if isinstance(weight, Float8):
        return (weight.values.astype(np.float32) * weight.scale[..., None, None]).astype(dtype)
    if isinstance(weight, Int8Rows):
        xp = weight.values.__array_namespace__()
        return (weight.values.astype(xp.float32) * weight.scales[..., None] * np.float32(1 / 127)).astype(dtype)
    xp = weight.packed.__array_namespace__()
    *layers, o, half = weight.packed.shape
    # One expression for both halves of a byte: XLA writes two that are stacked by a kernel half as fast.
    places = (weight.packed[..., None] >> xp.asarray([4, 0], xp.uint8)) & xp.uint8(15)
    code = xp.asarray(CODE)
    values = code[places] if xp is np else code.at[places].get(mode="promise_in_bounds")
    blocks = values.reshape(*layers, o, 2 * half // weight.block, weight.block)
    scales = decode_scales(weight.scales).reshape(blocks.shape[:-1])
    return (blocks * scales[..., None]).astype(dtype).reshape(*layers, o, 2 * half)


def decode_float8(weight: NF4 | Float8) -> tuple[Num[Any, "*l o i"], Float[Any, "*l"]]:
    """A matrix [*l, out, in] in float8, and the power of two that it is to be multiplied by."""
    if isinstance(weight, Float8):
        return weight.values, weight.scale
    xp = weight.packed.__array_namespace__()
    scales = decode_scales(weight.scales).reshape(*weight.packed.shape[:-1], -1)
    scale = power_of_two(xp.max(xp.abs(scales), (-1, -2)))
    return decode(dataclasses.replace(weight, scales=scales / scale[..., None, None]), jnp.float8_e4m3fn), scale


def decode_scales(scales: Any) -> Float[Any, "..."]:
    """float32, [*l, n] where they were quantized, else as they are."""
    if not isinstance(scales, DoubleScales):
        return scales
    xp, count = scales.codes.__array_namespace__(), scales.codes.shape[-1]
    largest = xp.repeat(scales.absmax, SCALE_BLOCK, -1)[..., :count]
    return xp.take_along_axis(scales.code, scales.codes.astype(xp.int32), -1) * largest + scales.offset[..., None]


KINDS: dict[str, Callable[[Any], Quantized]] = {
    "nf4": lambda weight: encode_nf4(weight, double=False),
    "nf4-double": encode_nf4,
    "nf4-float8": lambda weight: dataclasses.replace(encode_nf4(weight), float8=True),
    "int8": encode_int8,
    "float8": encode_float8,
}
FLOAT8 = frozenset(("nf4-float8", "float8"))  # whose products are of eight bits
IN_FOUR_BITS = ("nf4", "nf4-double", "nf4-float8")
KEEP = "keep"


DECODER = r"text/(layers|cross)/.*/kernel"


def words_for(rules: Sequence[tuple[str, str]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """path -> a word of KINDS or keep, for parameters of these shapes.

    Raises UserError for a rule without a match, another word, and what can't be quantized.
    """
    words = path_rules.match(rules, shapes, "what to quantize")
    for path, word in words.items():
        if word not in (*KINDS, KEEP):
            raise UserError(f"what to quantize: {path!r} is given {word!r}; expected {', '.join(KINDS)} or {KEEP}")
        if word != KEEP and not path.endswith("/kernel"):
            raise UserError(f"what to quantize: only matrices (paths that end in /kernel) can be, not {path!r}")
        if word.startswith("nf4") and shapes[path][-2] % BLOCK:
            raise UserError(
                f"what to quantize: {path!r} has {shapes[path][-2]} inputs, which are no whole blocks of {BLOCK}: "
                f"give it {KEEP}, int8 or float8"
            )
    return words


def quantized(kernel: Any, word: str) -> Quantized:
    """A matrix [in, out], or a stack of such, on the device. A stack goes there layer by layer: what is not quantized
    yet need not fit."""
    one = lambda matrix: _encode(jnp.asarray(matrix), word)
    if kernel.ndim == 2:
        return one(kernel)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[one(matrix) for matrix in kernel])


def quantized_shapes(kernel: jax.ShapeDtypeStruct, word: str) -> Quantized:
    """The shapes of what `quantized` makes of a matrix, or a stack of such, of this shape."""
    layers = kernel.shape[:-2]
    one = jax.eval_shape(lambda matrix: _encode(matrix, word), jax.ShapeDtypeStruct(kernel.shape[-2:], kernel.dtype))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*layers, *leaf.shape), leaf.dtype), one)


@functools.partial(jax.jit, static_argnums=1)
def _encode(matrix: Num[Array, "i o"], word: str) -> Quantized:
    return encoded(matrix, word)


def encoded(matrix: Num[Array, "i o"], word: str) -> Quantized:
    return KINDS[word](jnp.swapaxes(matrix, -1, -2))


def multiplied_as(matrix: NF4, word: str) -> NF4:
    """Four bits that a file has already: no word packs them anew, but one says that products are of eight bits."""
    return dataclasses.replace(matrix, float8=word == "nf4-float8")


def multiplied_in_full(params: dict) -> dict:
    """The tree with products of the same numbers in the activations' dtype, where eight bits were to multiply them."""
    plain = lambda leaf: dataclasses.replace(leaf, float8=False) if isinstance(leaf, NF4 | Float8) else leaf
    return jax.tree.map(plain, params, is_leaf=lambda leaf: isinstance(leaf, NF4 | Float8))


def quantize_tree(params: dict, rules: Sequence[tuple[str, str]]) -> dict:
    """The tree with the matrices that the rules name quantized (see `words_for`). Leaves are taken out of `params` one
    by one: no two copies of all of them exist at a time."""
    flat = flatten(params)
    words = words_for(rules, {path: tuple(leaf.shape) for path, leaf in flat.items()})
    params.clear()
    made = {}
    for path, word in words.items():
        leaf = flat.pop(path)
        made[path] = leaf if word == KEEP else quantized(leaf, word)
    return unflatten(made)
