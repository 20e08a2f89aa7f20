"""Numbers in eight bits, block by block, by the dynamic map: what an optimizer remembers, in a quarter of the memory.

A block of 256 numbers is divided by its largest magnitude; each share becomes the number of its nearest entry in a map
of 256, whose steps are a tenth as wide for shares a tenth as large. From Dettmers et al. 2021 (arXiv:2110.02861);
the map and every rounding are those of bitsandbytes' blockwise optimizers.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

BLOCK = 256
DECADES = 7  # of magnitudes: below 1e-7 of the block's largest lies only zero


class Blocks(NamedTuple):
    """A matrix in eight bits. The last block is filled up with zeros."""

    codes: UInt8[Array, "*r n 256"]
    scales: Float[Array, "*r n"]  # the largest magnitude of each block


@functools.cache
def dynamic_map(signed: bool) -> Float[np.ndarray, "256"]:
    """The rising entries: 0, 1, and of each decade twice as many middles of equal steps as of the one below.

    A signed map has half as many of them, each with both signs; its lowest is -0.993.
    """
    entries = [0.0, 1.0]
    for decade in range(DECADES):
        edges = _equal_steps(2 ** (decade + (not signed)) + 1)
        middles = np.float32(10.0 ** (decade - DECADES + 1)) * ((edges[:-1] + edges[1:]) / np.float32(2))
        entries += [*middles, *(-middles if signed else ())]
    return np.sort(np.array(entries, np.float32))


def _equal_steps(count: int) -> Float[np.ndarray, " n"]:
    """From 0.1 to 1 as PyTorch's linspace, which the reference calls, has them: from both ends, one rounding each."""
    low, number = float(np.float32(0.1)), np.arange(count)
    step = float((np.float32(1) - np.float32(0.1)) / np.float32(count - 1))
    return np.where(number < count // 2, low + step * number, 1 - step * (count - 1 - number)).astype(np.float32)


@functools.cache
def _limits(signed: bool) -> Float[np.ndarray, "255"]:
    """What a share must exceed to be the next entry: the middle of two; one that lies there takes the even number."""
    entries = dynamic_map(signed)
    middles = (entries[:-1] + entries[1:]) * np.float32(0.5)
    odd = np.arange(255) % 2 == 1
    return np.where(odd, np.nextafter(middles, np.float32(-2)), middles)


def encode(values: Float[Array, "*s"], signed: bool) -> Blocks:
    """The values of one array, flattened, in blocks. A signed one keeps the sign of each value but zero's."""
    flat = values.reshape(-1)
    x = jnp.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)
    scales = jnp.max(jnp.abs(x), -1)
    shares = x / jnp.where(scales > 0, scales, 1)[:, None]
    codes = _nearest(shares, signed)
    if signed:
        # A value that rounds to zero, or past it, goes to the smallest entry of its own sign: it keeps its direction.
        negative = jnp.signbit(jnp.asarray(dynamic_map(True))[codes])
        codes += jnp.where(negative == jnp.signbit(x), 0, jnp.where(x > 0, 1, -1))
    return Blocks(codes.astype(jnp.uint8), scales)


def _nearest(shares: Float[Array, "n 256"], signed: bool) -> Int[Array, "n 256"]:
    """The numbers of the nearest entries, by halving: elementwise, so the compiler makes one pass of it."""
    limits = jnp.asarray(_limits(signed))
    codes = jnp.where(shares > limits[127], 128, 0)
    for half in (64, 32, 16, 8, 4, 2, 1):
        codes += jnp.where(shares > limits[codes + (half - 1)], half, 0)
    return codes


def decode(blocks: Blocks, shape: tuple[int, ...], signed: bool) -> Float[Array, "*s"]:
    """The values, float32, of an array of this shape."""
    entries = jnp.asarray(dynamic_map(signed))[blocks.codes.astype(jnp.int32)]
    return (entries * blocks.scales[:, None]).reshape(-1)[: int(np.prod(shape))].reshape(shape)
