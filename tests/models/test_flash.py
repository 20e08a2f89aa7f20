"""The attention kernel against the plain way, in values and gradients. It is interpreted here: no GPU is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune.models import attention, flash

RNG = np.random.default_rng(0)


def random(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def causal(t):
    return jnp.tril(jnp.ones((t, t), bool))[None]


def prefix(t, prompt):
    return causal(t) | (jnp.arange(t) < prompt)


CASES = {
    "gemma 2: soft cap, causal, odd length": ((1, 80, 4, 2, 256), 50.0, True, causal(80)),
    "paligemma: prompt seen both ways, one key head": ((2, 128, 2, 1, 16), None, False, prefix(128, 70)),
    "capped and not causal": ((1, 64, 2, 2, 32), 5.0, False, prefix(64, 9)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_agrees_with_the_plain_way_in_values_and_gradients(case):
    (b, t, n, k, h), softcap, is_causal, mask = CASES[case]
    inputs = 3 * random(b, t, n, h), random(b, t, k, h), random(b, t, k, h)
    wanted, mask, scale = random(b, t, n, h), jnp.broadcast_to(mask, (b, t, t)), h**-0.5
    found_by = lambda way: jax.jit(jax.value_and_grad(lambda *x: jnp.sum(way(*x) * wanted), (0, 1, 2)))(*inputs)
    ours = found_by(lambda q, k, v: flash.attend(q, k, v, mask, scale, softcap, is_causal, interpret=True))
    plain = found_by(lambda q, k, v: attention._attend_whole(q, k, v, mask, scale, softcap))
    for found, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))


def test_rolls_side_by_side_are_attended_to_as_alone():
    q, k, v = random(2, 1, 64, 2, 16), random(2, 1, 64, 1, 16), random(2, 1, 64, 1, 16)
    one = lambda q, k, v: jax.grad(lambda k: jnp.sum(flash.attend(q, k, v, causal(64), 0.25, None, True, True) ** 2))(k)
    together = jax.jit(jax.vmap(one))(q, k, v)
    for roll in range(2):
        np.testing.assert_allclose(together[roll], one(q[roll], k[roll], v[roll]), rtol=1e-5, atol=1e-5)


def test_a_query_that_sees_nothing_stays_finite_and_moves_nothing():
    t, q, k, v = 64, random(1, 64, 1, 16), random(1, 64, 1, 16), random(1, 64, 1, 16)
    mask = causal(t).at[:, 40:].set(False)
    seen = jnp.arange(t)[None, :, None, None] < 40
    loss = lambda *x: jnp.sum(jnp.where(seen, flash.attend(*x, mask, 0.25, None, True, True), 0))
    slopes = jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)
    assert all(jnp.isfinite(one).all() for one in slopes)
    assert not jnp.any(slopes[0][:, 40:])


LONG, BF16, F32 = 1024, jnp.bfloat16, jnp.float32


@pytest.mark.parametrize(
    ("taken", "t", "s", "h", "dtype", "softcap", "is_causal", "masked"),
    [
        ("cudnn", LONG, LONG, 128, BF16, None, True, True),
        ("ours", LONG, LONG, 256, BF16, None, True, True),
        ("ours", LONG, LONG, 128, BF16, 50.0, True, True),
        ("ours", LONG, LONG, 128, BF16, None, False, True),
        ("ours", 64, LONG * LONG // 64, 128, BF16, None, False, True),
        ("plain", LONG, LONG, 128, BF16, None, False, False),
        ("plain", LONG, LONG, 72, BF16, None, False, True),
        ("plain", 32, LONG * LONG // 32, 128, BF16, None, False, True),
        ("plain", LONG, LONG - 1, 128, BF16, None, True, True),
        ("plain", LONG, LONG, 128, F32, None, True, True),
    ],
)
def test_each_shape_takes_the_kernel_that_serves_it(taken, t, s, h, dtype, softcap, is_causal, masked, monkeypatch):
    took = []
    monkeypatch.setattr(attention, "_attend_whole", lambda q, *rest: took.append("plain") or q)
    monkeypatch.setattr(flash, "attend", lambda q, *rest: took.append("ours") or q)
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, *rest, **more: took.append("cudnn") or q)
    q, key = jax.ShapeDtypeStruct((1, t, 2, h), dtype), jax.ShapeDtypeStruct((1, s, 1, h), dtype)
    mask = jax.ShapeDtypeStruct((1, t, s), bool) if masked else None
    for gpu, expected in ((True, taken), (False, "plain")):
        monkeypatch.setattr(attention, "is_gpu", lambda gpu=gpu: gpu)
        jax.eval_shape(lambda q, k, mask: attention.attend(q, k, k, mask, 0.1, softcap, is_causal), q, key, mask)
        assert took.pop() == expected
