"""Optimizers follow optax, schedules big_vision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rolltune import optim
from rolltune.errors import UserError


def test_the_schedule_of_the_published_demo():
    cosine = optim.Schedule("cosine", 64, 0.1)
    known = {1: 0.005, 6: 0.03, 16: 0.027923, 32: 0.017779, 64: 2.1e-5, 65: 0}
    for step, rate in known.items():
        assert float(0.03 * cosine(step)) == pytest.approx(rate, abs=1e-6), step
    printed = optim.Schedule("cosine", 256, 0.1)
    assert printed.warmup_steps == 26
    assert [f"{0.03 * float(printed(step)):.5f}" for step in range(32, 257, 32)] == [
        "0.02995", "0.02804", "0.02370", "0.01774", "0.01127", "0.00549", "0.00149", "0.00000",
    ]  # fmt: skip
    assert float(0.03 * printed(256)) == pytest.approx(1.4e-6, rel=0.02)


def test_linear_and_constant():
    linear, constant = optim.Schedule("linear", 10, 1), optim.Schedule("constant", 10, 4)
    np.testing.assert_allclose([linear(s) for s in (1, 2, 6, 10, 11, 20)], [1, 0.9, 0.5, 0.1, 0, 0], atol=1e-6)
    np.testing.assert_allclose([constant(s) for s in (1, 2, 4, 9)], [0.25, 0.5, 1, 1], atol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 0.1, 0.9, 1])
def test_no_schedule_wastes_an_update(kind, warmup):
    for steps in (1, 2, 3, 100):
        schedule = optim.Schedule(kind, steps, warmup)
        assert min(float(schedule(step)) for step in range(1, steps + 1)) > 1e-5, steps


def test_warmup_is_a_share_or_a_number_of_steps():
    counted = {0: 0, 0.001: 1, 0.1: 10, 1: 1, 20: 20}
    assert {warmup: optim.Schedule("cosine", 99, warmup).warmup_steps for warmup in counted} == counted


def moved(optimizer, params, gradients, rate=0.01, decay=0.0, state=None, number=1, going=True, seed=0):
    """(weights, state) after one update."""
    state = optimizer.init(params) if state is None else state
    factor = optimizer.clipping(optim.norm(gradients))
    numbers = [jnp.float32(rate), jnp.float32(decay), jnp.int32(number), factor, jnp.bool_(going)]
    return optimizer.update(optim.Update(*numbers, jax.random.PRNGKey(seed)), gradients, state, params)


def sines(params, number):
    return jax.tree.map(lambda p: jnp.sin(p * (number + 1)), params)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_adamw_equals_optax(clip):
    draw = np.random.default_rng(0)
    params = {"text/layers/attn/q/kernel": {"a": draw.normal(size=(2, 4, 3)), "b": draw.normal(size=(2, 3, 2))}}
    params = jax.tree.map(jnp.float32, params | {"text/norm/scale": draw.normal(size=(4,))})
    mask = {"text/layers/attn/q/kernel": {"a": True, "b": True}, "text/norm/scale": False}
    chain = [optax.adamw(0.01, weight_decay=0.1, mask=mask)]
    ours = optim.Optimizer("adamw", clip, stacks=("text/layers",))
    theirs = optax.chain(*([optax.clip_by_global_norm(clip)] if clip else []), *chain)
    state, their_state, expected = None, theirs.init(params), params
    for number in range(4):
        params, state = moved(ours, params, sines(params, number), decay=0.1, state=state, number=number + 1)
        updates, their_state = theirs.update(sines(expected, number), their_state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), params, expected)


def test_sgd_is_the_gradient_clipped_by_its_norm():
    gradient = {"x/kernel": jnp.array([3.0, 4.0])}
    for clip, expected in ((None, [3, 4]), (1.0, [0.6, 0.8]), (10.0, [3, 4])):
        new, _ = moved(optim.Optimizer("sgd", clip), {"x/kernel": jnp.zeros(2)}, gradient, rate=-1)
        np.testing.assert_allclose(new["x/kernel"], expected, rtol=1e-6)


def test_unknown_names_are_advice():
    with pytest.raises(UserError, match=r"'lion'.*adamw, adamw8bit, adafactor, sgd"):
        optim.Optimizer("lion")
    with pytest.raises(UserError, match=r"'step'.*cosine, linear or constant"):
        optim.Schedule("step", 10, 1)
