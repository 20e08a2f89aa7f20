"""Eight bits a number: the map, and every rounding, of bitsandbytes' blockwise optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune import blockwise

# Entries of the published maps, by their numbers, as PyTorch computes them.
STORED = {
    True: {0: -0.99296874, 64: -0.09859375, 126: -5.5e-07, 127: 0, 128: 5.5e-07, 191: 0.10703125, 254: 0.99296874},
    False: {0: 0, 1: 3.25e-07, 2: 7.75e-07, 63: 0.010703125, 127: 0.103515625, 200: 0.61679685, 254: 0.9964844},
}


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_the_published_one(signed):
    made = blockwise.dynamic_map(signed)
    assert made.dtype == np.float32 and len(made) == 256 and made[255] == 1 and (np.diff(made) > 0).all()
    np.testing.assert_allclose([made[n] for n in STORED[signed]], list(STORED[signed].values()), rtol=2e-7)


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_pytorchs_to_the_last_bit(signed):
    torch = pytest.importorskip("torch")
    entries = [0.0, 1.0]
    for n in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (n + (not signed)) + 1, dtype=torch.float32)
        middles = 10 ** (n - 6) * ((edges[:-1] + edges[1:]) / 2.0)
        entries += middles.tolist() + ((-middles).tolist() if signed else [])
    np.testing.assert_array_equal(blockwise.dynamic_map(signed), np.array(sorted(entries), np.float32))


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_that_of_bitsandbytes(signed):
    functional = pytest.importorskip("bitsandbytes.functional")
    np.testing.assert_array_equal(blockwise.dynamic_map(signed), functional.create_dynamic_map(signed).numpy())


def descended(share: np.float32, entries: np.ndarray) -> int:
    """The reference's way to an entry: down a tree of pivots, then past a middle or not."""
    pivot, low, high = 127, 0, 255
    for step in (64, 32, 16, 8, 4, 2, 1):
        if share > entries[pivot]:
            low, pivot = pivot, pivot + step
        else:
            high, pivot = pivot, pivot - step
    if share > entries[pivot]:
        return high if share > (entries[high] + entries[pivot]) * np.float32(0.5) else pivot
    return low if share < (entries[low] + entries[pivot]) * np.float32(0.5) else pivot


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_the_references_ties_and_signs_included(signed):
    entries = blockwise.dynamic_map(signed)
    middles = (entries[:-1] + entries[1:]) * np.float32(0.5)
    near = [np.nextafter(middles, np.float32(side)) for side in (-2, 2)]
    draw = np.random.default_rng(0)
    spread = (10 ** draw.uniform(-9, 0, 2000)).astype(np.float32) * draw.choice([-1, 1], 2000).astype(np.float32)
    values = np.concatenate([entries, middles, *near, spread if signed else np.abs(spread), [-0.0] if signed else []])
    values = np.concatenate([values.astype(np.float32), np.zeros(-len(values) % 255, np.float32)]).reshape(-1, 255)
    values = np.concatenate([values, np.ones((len(values), 1), np.float32)], 1)  # each block's largest is 1
    expected = np.array([descended(share, entries) for share in values.flat]).reshape(values.shape)
    if signed:
        wrong = np.signbit(entries[expected]) != np.signbit(values)
        expected = np.where(wrong, np.where(values > 0, expected + 1, expected - 1), expected)
    made = jax.jit(lambda x: blockwise.encode(x, signed))(values)
    np.testing.assert_array_equal(made.codes, expected)
    np.testing.assert_array_equal(made.scales, 1)
    again = np.asarray(blockwise.decode(made, values.shape, signed))
    np.testing.assert_array_equal(again, entries[expected])


def test_blocks_have_their_own_scales_and_the_last_one_may_be_short():
    values = np.random.default_rng(1).normal(size=(7, 100)).astype(np.float32) * np.float32(1e-12)
    values[:3] *= 1e9
    made = blockwise.encode(jnp.asarray(values), signed=True)
    assert made.codes.shape == (3, 256) and made.codes.dtype == jnp.uint8
    parts = np.split(values.ravel(), [256, 512])
    np.testing.assert_array_equal(made.scales, [np.abs(part).max() for part in parts])
    again = np.asarray(blockwise.decode(made, values.shape, signed=True))
    for old, new in zip(parts, np.split(again.ravel(), [256, 512]), strict=True):
        np.testing.assert_allclose(new, old, atol=0.0075 * np.abs(old).max())


def test_zeros_stay_zeros():
    for signed in (True, False):
        made = blockwise.encode(jnp.zeros(300), signed)
        np.testing.assert_array_equal(blockwise.decode(made, (300,), signed), 0)
