"""Optimizers follow optax, schedules big_vision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rolltune import optim
from rolltune.errors import UserError


def test_the_schedule_of_the_published_demo():
    cosine = optim.Schedule("cosine", 65, 6)
    known = {1: 0.005, 6: 0.03, 16: 0.027923, 32: 0.017779, 64: 2.1e-5, 65: 0}
    for step, rate in known.items():
        assert float(0.03 * cosine(step)) == pytest.approx(rate, abs=1e-6), step
    assert f"{0.03 * float(optim.Schedule('cosine', 256, 26)(32)):.5f}" == "0.02995"


def test_linear_and_constant():
    linear, constant = optim.Schedule("linear", 11, 1), optim.Schedule("constant", 10, 4)
    np.testing.assert_allclose([linear(s) for s in (1, 2, 6, 11, 20)], [1, 0.9, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose([constant(s) for s in (1, 2, 4, 9)], [0.25, 0.5, 1, 1], atol=1e-6)
    assert optim.Schedule("constant", 1, 0)(1) == 1


@pytest.mark.parametrize("clip", [None, 0.5])
def test_adamw_equals_optax(clip):
    draw = np.random.default_rng(0)
    params = {"text/layers/attn/q/kernel": {"a": draw.normal(size=(4, 3)), "b": draw.normal(size=(3, 2))}}
    params = jax.tree.map(jnp.float32, params | {"text/norm/scale": draw.normal(size=(4,))})
    ours = optim.transform("adamw", clip)
    mask = jax.tree.map(bool, optim.decays(params))
    assert mask == {"text/layers/attn/q/kernel": {"a": True, "b": True}, "text/norm/scale": False}
    chain = [optax.adamw(0.01, weight_decay=0.1, mask=mask)]
    theirs = optax.chain(*([optax.clip_by_global_norm(clip)] if clip else []), *chain)
    state, their_state, expected = ours.init(params), theirs.init(params), params
    for number in range(4):
        gradient = jax.tree.map(lambda p, n=number: jnp.sin(p * (n + 1)), params)
        direction, state = ours.update(gradient, state, params)
        params = jax.tree.map(
            lambda p, d, decay: p - 0.01 * (d + 0.1 * decay * p), params, direction, optim.decays(params)
        )
        updates, their_state = theirs.update(gradient, their_state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), params, expected)


def test_sgd_is_the_gradient_clipped_by_its_norm():
    gradient = {"x/kernel": jnp.array([3.0, 4.0])}
    for clip, expected in ((None, [3, 4]), (1.0, [0.6, 0.8]), (10.0, [3, 4])):
        sgd = optim.transform("sgd", clip)
        np.testing.assert_allclose(sgd.update(gradient, sgd.init(gradient))[0]["x/kernel"], expected, rtol=1e-6)


def test_unknown_names_are_advice():
    with pytest.raises(UserError, match=r"'lion'.*sgd, adamw"):
        optim.transform("lion", None)
    with pytest.raises(UserError, match=r"'step'.*cosine, linear or constant"):
        optim.Schedule("step", 10, 1)
