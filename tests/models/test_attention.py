"""Attention as a plain loop computes it, and rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np

from rolltune.models import attention


def draw(number: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(number), shape)


def causal(t: int) -> jax.Array:
    return jnp.tril(jnp.ones((t, t), bool))


def test_attention_equals_a_loop_over_heads():
    b, t, n, kv, h = 2, 5, 4, 2, 6
    q, k, v = draw(0, b, t, n, h), draw(1, b, t, kv, h), draw(2, b, t, kv, h)
    mask = jnp.tril(jnp.ones((t, t), bool))[None].repeat(b, 0)
    found = attention.attend(q, k, v, mask, 0.3, softcap=2.0)
    for head in range(n):
        logits = 2.0 * np.tanh(0.3 * np.einsum("bth,bsh->bts", q[:, :, head], k[:, :, head // 2]) / 2.0)
        weights = np.where(mask, np.exp(logits), 0)
        weights /= weights.sum(-1, keepdims=True)
        expected = np.einsum("bts,bsh->bth", weights, v[:, :, head // 2])
        np.testing.assert_allclose(found[:, :, head], expected, rtol=1e-5, atol=1e-5)


def test_logits_of_attention_are_float32_whatever_comes_in():
    """Logits of about 64, which differ by about one: in bfloat16 they would be half of one apart."""
    q, k, v = (draw(n, 2, 6, 2, 16) for n in range(3))
    q, k, v = ((1 + 0.1 * q).astype(jnp.bfloat16), (4 + 0.25 * k).astype(jnp.bfloat16), v.astype(jnp.bfloat16))
    run = lambda q, k, v: attention.attend(q, k, v, causal(6)[None].repeat(2, 0), 1.0)
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    expected, back = jax.vjp(run, *wide)
    found, our_back = jax.vjp(run, q, k, v)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.02)
    dy = draw(9, *expected.shape).astype(jnp.bfloat16)
    mine, theirs = our_back(dy)[2], back(dy.astype(jnp.float32))[2]
    np.testing.assert_allclose(mine.astype(jnp.float32), theirs, atol=0.03)


def test_a_prompt_of_the_original_length_has_short_factors_and_one_of_a_token_more_long_ones():
    rope = attention.Rope(theta=100.0, kind="su", original_max=6, short=(1.0, 2.0), long=(3.0, 5.0), amplitude=1.5)
    positions = jnp.broadcast_to(jnp.arange(7), (2, 7))
    cos, sin = attention.rope_angles(rope, positions, 4, jnp.array([6, 7]))
    for row, factors in enumerate(((1.0, 2.0), (3.0, 5.0))):
        angles = np.arange(7)[:, None] * np.array([1.0, 0.1]) / np.array(factors)
        np.testing.assert_allclose(cos[row, :, 0], 1.5 * np.cos(angles), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sin[row, :, 0], 1.5 * np.sin(angles), rtol=1e-5, atol=1e-6)


def test_rolls_put_rows_into_their_caches_by_one_update():
    cache, new = draw(1, 3, 2, 5, 1, 4), draw(2, 3, 2, 2, 1, 4)
    put = jax.vmap(attention.put, (0, 0, None))
    found = np.asarray(put(cache, new, 2))
    expected = np.asarray(cache).copy()
    expected[:, :, 2:4] = new
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(jax.vmap(attention.put, (None, 0, None))(cache[0], new, 2)[1, :, 2:4], new[1])
    said = str(jax.make_jaxpr(put)(cache, new, 2))
    assert "dynamic_update_slice" in said and "scatter" not in said
