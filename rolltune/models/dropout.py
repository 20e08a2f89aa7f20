"""Which entries of an adapter's input drop out."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

from rolltune.sharding import CARDS


def kept(key: Array, share: float, shape: Sequence[int], over_cards: bool = False) -> Bool[Array, "*b"]:
    """What of an array [B, T, D] is kept where `share` of it drops out. An entry's fate is its row's and place's own: T
    may grow by padding, and B be a card's part of the batch.

    Fates are a hash of the key and the entry's numbers, a dozen operations: JAX's own generator takes some hundred for
    each of three keys in a row, and the compiler most of its time for them: 4.4 of the 5.6 MB of a step of four layers.
    """
    data = jax.random.key_data(key)
    mixed = data[0]
    for axis, size in enumerate(shape):
        numbers = jnp.arange(size, dtype=jnp.uint32)
        if over_cards and axis == 0:
            numbers += (jax.lax.axis_index(CARDS) * size).astype(jnp.uint32)
        mixed = _mixed(mixed[..., None] ^ (numbers * GOLDEN + data[1]))
    return mixed >= np.uint32(min(round(share * 2**32), 2**32 - 1))


GOLDEN = np.uint32(0x9E3779B9)  # 2**32 over the golden ratio: numbers that follow each other come to lie far apart


def _mixed(x: UInt32[Array, "*b"]) -> UInt32[Array, "*b"]:
    """A hash of 32 bits, one to one: each bit of x changes each bit of what comes out, nearly half the time (lowbias32:
    Wellons 2018, "Prospecting for Hash Functions", in the public domain)."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
