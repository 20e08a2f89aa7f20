"""Products in eight-bit floats: what they round, and what they must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune.models import float8, gating
from rolltune.models import layers as nn
from rolltune.models.layers import LoRA
from rolltune.quantize import decode, decode_float8, encode_float8, quantized

WORDS = ("float8", "nf4-float8")


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def exact(rng, *shape):
    """Numbers that float8 holds as they are, of a few binary orders."""
    return jnp.asarray(rng.integers(-7, 8, shape) * 2.0 ** rng.integers(-2, 3, shape[:1])[:, None], jnp.float32)


def adapted(seed, base, rank=4):
    return LoRA(base, draw(seed, base.shape[0], rank) * 0.1, draw(seed + 1, rank, base.shape[1]) * 0.1)


def test_numbers_that_float8_holds_are_multiplied_without_an_error():
    rng = np.random.default_rng(0)
    x, kernel = exact(rng, 6, 32), exact(rng, 32, 16) * 2.0**-9
    weight = quantized(kernel, "float8")
    np.testing.assert_array_equal(decode(weight, np.float32).T, kernel)
    np.testing.assert_array_equal(nn.product(x, weight), np.asarray(x) @ np.asarray(kernel))
    slope = exact(rng, 6, 16)
    found = jax.grad(lambda x: jnp.sum(nn.product(x, weight) * slope))(x)
    np.testing.assert_array_equal(found, np.asarray(slope) @ np.asarray(kernel).T)


@pytest.mark.parametrize("word", WORDS)
def test_products_and_gradients_of_several_adapted_matrices_are_near_those_in_float32(word):
    x = draw(0, 2, 7, 128)
    packed = [adapted(10 * n, quantized(draw(n, 128, width) * 0.05, word)) for n, width in enumerate((48, 16), 1)]
    plain = [w.replace(base=decode(w.base, jnp.float32).T) for w in packed]

    def loss(x, trained, weights):
        ws = [w.replace(a=a, b=b) for w, (a, b) in zip(weights, trained, strict=True)]
        return sum(jnp.sum(jnp.sin(y)) for y in nn.products(x, ws))

    trained = [(w.a, w.b) for w in packed]
    own, expected = (jax.grad(loss, (0, 1))(x, trained, weights) for weights in (packed, plain))
    for one, other in zip(jax.tree.leaves(own), jax.tree.leaves(expected), strict=True):
        assert jnp.linalg.norm(one - other) < 0.06 * jnp.linalg.norm(other)
    for one, other in zip(nn.products(x, packed), nn.products(x, plain), strict=True):
        assert 1e-4 < jnp.linalg.norm(one - other) / jnp.linalg.norm(other) < 0.06  # it does round


@pytest.mark.parametrize(("act", "side_by_side"), [("gelu", False), ("silu", True)])
@pytest.mark.parametrize("word", WORDS)
def test_a_gated_mlp_and_its_gradients_are_near_those_in_float32(word, act, side_by_side):
    x, widths = draw(0, 2, 7, 64), (256,) if side_by_side else (128, 128)
    packed = [adapted(10 * n, quantized(draw(n, 64, width) * 0.2, word)) for n, width in enumerate(widths, 1)]
    packed.append(adapted(50, quantized(draw(5, 128, 64) * 0.2, word)))
    plain = [w.replace(base=decode(w.base, jnp.float32).T) for w in packed]

    def run(x, trained, weights):
        *ups, down = [w.replace(a=a, b=b) for w, (a, b) in zip(weights, trained, strict=True)]
        return nn.gated_mlp(x, ups, down, act)

    loss = lambda x, trained, weights: jnp.sum(jnp.sin(run(x, trained, weights) / 10))
    trained = [(w.a, w.b) for w in packed]
    own, expected = (jax.grad(loss, (0, 1))(x, trained, weights) for weights in (packed, plain))
    for one, other in zip(jax.tree.leaves(own), jax.tree.leaves(expected), strict=True):
        assert jnp.linalg.norm(one - other) < 0.1 * jnp.linalg.norm(other)
    one, other = (run(x, trained, weights) for weights in (packed, plain))
    assert 1e-3 < jnp.linalg.norm(one - other) / jnp.linalg.norm(other) < 0.1  # it does round
    bare = [w.base for w in packed], [w.base for w in plain]
    one, other = (jax.grad(lambda x, ws: jnp.sum(jnp.sin(nn.gated_mlp(x, ws[:-1], ws[-1], act) / 10)))(x, ws)
                  for ws in bare)  # fmt: skip
    assert jnp.linalg.norm(one - other) < 0.1 * jnp.linalg.norm(other)


def test_a_row_s_result_and_gradient_depend_on_no_other_row():
    weight = adapted(3, quantized(draw(1, 64, 32), "float8"))
    x = draw(0, 8, 64) * jnp.logspace(-6, 6, 8)[:, None]  # with one scale for all the smallest would be zeros
    run = lambda x: jax.vjp(lambda x: nn.product(x, weight), x)
    slope = draw(2, 8, 32) * jnp.logspace(5, -7, 8)[:, None]
    y, back = run(x)
    for row in range(8):
        alone, alone_back = run(x[row : row + 1])
        np.testing.assert_allclose(alone[0], y[row], rtol=1e-5, atol=1e-6 * np.abs(y[row]).max())
        found = back(slope)[0][row]
        np.testing.assert_allclose(
            alone_back(slope[row : row + 1])[0][0], found, rtol=1e-5, atol=1e-6 * np.abs(found).max()
        )
        plain = x[row] @ (decode(weight.base, jnp.float32).T + weight.a @ weight.b)
        assert jnp.linalg.norm(y[row] - plain) < 0.06 * jnp.linalg.norm(plain)


@pytest.mark.parametrize("offset", [True, False])
def test_a_norm_s_bound_holds_what_comes_and_serves_as_the_scale(offset):
    factor = draw(5, 64) * 3
    worst = jnp.zeros((1, 64)).at[0, jnp.argmax(jnp.abs(offset + factor))].set(-7.0)  # all of a row in one place
    x = nn.rms_norm(jnp.concatenate([draw(4, 6, 64), worst]), factor, 1e-6, offset)
    bound = nn.norm_bound(factor, offset)
    assert 0.97 * bound < jnp.max(jnp.abs(x)) <= bound
    weight = adapted(3, quantized(draw(1, 64, 32), "float8"))
    (found,), (searched,) = nn.products(x, [weight], bound), nn.products(x, [weight])
    assert np.isfinite(found).all() and jnp.linalg.norm(found - searched) < 0.02 * jnp.linalg.norm(searched)
    (saturated,) = nn.products(x, [weight], bound / 1000)
    assert not np.isfinite(saturated).all()  # or the bound counts for nothing


def test_four_bits_multiplied_in_eight_are_the_decoded_ones_rounded_once():
    weight = quantized(draw(0, 128, 24) * 0.02, "nf4-float8")
    values, scale = decode_float8(weight)
    plain = decode(weight, jnp.float32)
    assert values.dtype == gating.KIND and jnp.log2(scale) % 1 == 0
    np.testing.assert_array_equal(values, (plain / scale).astype(gating.KIND))
    error = np.abs(values.astype(jnp.float32) * scale - plain)
    assert (error <= np.abs(plain) / 16 + scale * 2.0**-10).all()


@pytest.mark.parametrize("largest", [0.0, 1e-30, 3e38, np.inf, np.nan])
def test_no_scale_makes_a_number_that_is_none_nor_hides_one(largest):
    x = jnp.asarray([[largest, 0.0], [1.0, -2.0]], jnp.float32)
    (rows,), scale = float8.rounded(x)
    whole = rows.astype(jnp.float32) * scale
    assert np.isfinite(whole[0]).all() == np.isfinite(largest)
    np.testing.assert_array_equal(whole[1], x[1])
    if np.isfinite(largest):
        np.testing.assert_allclose(whole[0, 0], largest, rtol=2.0**-4)
        found = encode_float8(np.asarray(x[:1]))
        np.testing.assert_allclose(decode(found, np.float32)[0, 0], largest, rtol=2.0**-4)
