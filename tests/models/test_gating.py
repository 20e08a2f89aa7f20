"""The gated activation in float8: the kernels against what they are written for, on a CPU by Pallas' interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune import device
from rolltune.models import gating


def drawn(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape) * 3, jnp.bfloat16)


def same(found, expected):
    """To a rounding of the activation here and there, which a compiler may work out in another order."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, rtol=0.13, atol=1e-3 * np.abs(other).max())
        assert np.mean(one != other) < 0.05


def rows(width, side_by_side):
    gate, up = drawn(0, 5, width), drawn(1, 5, width) * 2.0 ** jnp.arange(-9, 6, 3, jnp.bfloat16)[:, None]
    return [jnp.concatenate([gate, up], -1)] if side_by_side else [gate, up]


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize(("act", "width"), [("gelu", 3072), ("silu", 4096)])  # a chunk and a half, and two
def test_the_kernels_give_what_is_written_plainly(act, width, side_by_side):
    parts = rows(width, side_by_side)
    same(gating._forward(parts, act, True), gating.forward(parts, act))
    slope, added, scale = drawn(2, 5, width), drawn(3, 5, width), 2.0 ** jnp.arange(5, dtype=jnp.float32)[:, None]
    for more in (added, None):
        same(gating._backward(parts, slope, scale, more, act, True), gating.backward(parts, slope, scale, more, act))


def test_rows_of_many_rolls_go_through_the_kernels_as_each_roll_s_own():
    parts = [drawn(0, 2, 5, 2048), drawn(1, 2, 5, 2048)]
    run = lambda *parts: gating._forward(parts, "silu", True)
    same(jax.vmap(run)(*parts), jax.tree.map(lambda *x: jnp.stack(x), *(run(*(p[i] for p in parts)) for i in (0, 1))))


@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan])
def test_what_is_no_number_stays_none_and_in_its_row(what):
    parts = rows(2048, False)
    parts[1] = parts[1].at[2, 1500].set(what).at[3].set(0)
    gated, (values, scale) = gating._forward(parts, "silu", True)
    numbers = np.isfinite(np.asarray(values[0], np.float32))
    assert not numbers[2, 1500] and numbers[[0, 1, 3, 4]].all()
    assert not np.isfinite(np.asarray(gated, np.float32))[2, 1500]
    assert (np.asarray(scale)[3] == 1) and not np.asarray(values[0], np.float32)[3].any()


def test_the_slope_is_that_of_the_product_of_both():
    parts = [part.astype(jnp.float32) / 4 for part in rows(64, False)]
    slope, added, scale = drawn(2, 5, 64), drawn(3, 5, 64).astype(jnp.float32), 2.0 ** jnp.arange(5.0)[:, None]
    product, back = jax.vjp(lambda gate, up: jax.nn.gelu(gate) * up, *parts)
    slopes, eight, gated = gating.backward(parts, slope, scale, added, "gelu")
    for one, other in zip(slopes, back(slope * scale + added), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(gated, product, rtol=1e-5, atol=1e-5)
    for one, other in zip(eight.values, slopes, strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32) * eight.scale, other, rtol=0.07, atol=0.03)


def test_kernels_are_for_cards_that_multiply_in_eight_bits_and_rows_of_whole_chunks():
    has = {}
    for capability in ((7, 5), (8, 6), (8, 9), (9, 0)):
        with device.described_gpu(capability):
            has[capability] = [gating._has_kernels(width) for width in (16384, 9216, 100)]
    assert has[7, 5] == has[8, 6] == [False, False, False]
    assert has[8, 9] == has[9, 0] == [True, True, False]
