"""Optimizers follow optax, schedules big_vision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rolltune import optim
from rolltune.blockwise import Blocks, decode, dynamic_map
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


WIDE = {"text/layers/mlp/up/kernel": (2, 64, 80), "text/layers/norm/scale": (2, 2560), "text/head/kernel": (33, 130)}


def wide(dtype=jnp.float32):
    draw = np.random.default_rng(3)
    return {path: jnp.asarray(draw.normal(size=shape), dtype) for path, shape in WIDE.items()}


def referred_to(matrix, gradients, rate, decay):
    """Weights and states of AdamW8bit in plain NumPy, from its paper and kernels: nearest by all distances."""
    size = -(-matrix.size // 256) * 256
    weight, moments = matrix.astype(np.float64).ravel(), [np.zeros(size), np.zeros(size)]

    def rounded(values, signed):
        entries = dynamic_map(signed).astype(np.float64)
        blocks = values.reshape(-1, 256)
        scales = np.abs(blocks).max(1, keepdims=True)
        shares = blocks / np.where(scales, scales, 1)
        codes = np.abs(shares[:, :, None] - entries).argmin(-1)
        if signed:
            wrong = np.signbit(entries[codes]) != np.signbit(shares)
            codes += np.where(wrong, np.where(shares > 0, 1, -1), 0)
        return (entries[codes] * scales).ravel()

    for number, gradient in enumerate(gradients, 1):
        gradient = np.pad(gradient.astype(np.float64).ravel(), (0, size - gradient.size))
        mean, square = 0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2
        step = mean / (1 - 0.9**number) / (np.sqrt(square / (1 - 0.999**number)) + 1e-8)
        weight = weight - rate * (step[: matrix.size] + decay * weight)
        moments = [rounded(mean, True), rounded(square, False)]
    return weight.reshape(matrix.shape), [one[: matrix.size].reshape(matrix.shape) for one in moments]


def test_adamw8bit_follows_its_reference():
    """Each layer of a stack is a matrix: a norm of 2 x 2560 numbers stays in 32 bits, a matrix of 5120 does not."""
    optimizer, params = optim.Optimizer("adamw8bit", stacks=("text/layers",)), wide()
    draw = np.random.default_rng(4)
    steps = [
        {path: jnp.asarray(draw.normal(size=shape), jnp.float32) for path, shape in WIDE.items()} for _ in range(5)
    ]
    state, new = optimizer.init(params), params
    assert state["text/layers/mlp/up/kernel"].mean.codes.shape == (2, 20, 256)
    assert state["text/head/kernel"].square.codes.shape == (17, 256)
    assert state["text/layers/norm/scale"].mean.dtype == jnp.float32
    run = jax.jit(lambda params, gradients, state, n: moved(optimizer, params, gradients, 0.01, 0.1, state, n))
    for number, gradients in enumerate(steps, 1):
        new, state = run(new, gradients, state, number)
    for path, layer in (("text/layers/mlp/up/kernel", 1), ("text/head/kernel", None)):
        of = lambda tree, path=path, layer=layer: np.asarray(tree[path] if layer is None else tree[path][layer])
        weight, moments = referred_to(of(params), [of(one) for one in steps], 0.01, 0.1)
        # A number between two entries may go to the other one in float32: few do.
        near = np.isclose(of(new), weight, rtol=1e-5, atol=1e-6)
        assert near.mean() > 0.999 and np.abs(of(new) - weight).max() < 1e-3
        for mine, theirs, signed in zip(state[path], moments, (True, False), strict=True):
            own = mine if layer is None else Blocks(*[part[layer] for part in mine])
            kept = np.asarray(decode(own, weight.shape, signed))
            assert np.isclose(kept, theirs, rtol=1e-5, atol=1e-12).mean() > 0.999
    exact, _ = moved(optim.Optimizer("adamw", stacks=("text/layers",)), params, steps[0], 0.01, 0.1)
    first, _ = moved(optimizer, params, steps[0], 0.01, 0.1)
    jax.tree.map(np.testing.assert_array_equal, first, exact)  # a step is of the new means, not of what is kept of them


def test_momentum_and_adafactor_are_optax():
    """Of each layer by itself: rows and columns are a matrix's own."""
    params = {
        "text/layers/mlp/up/kernel": jnp.asarray(np.random.default_rng(5).normal(size=(2, 130, 140)), jnp.float32)
    }
    factored = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale(-0.01))
    for ours, theirs in (
        (optim.Optimizer("sgd", momentum=0.9, stacks=("text/layers",)), optax.sgd(0.01, momentum=0.9)),
        (optim.Optimizer("adafactor", stacks=("text/layers",)), factored),
    ):
        new, state = params, None
        layers = [one for one in params["text/layers/mlp/up/kernel"]]
        states = [theirs.init(one) for one in layers]
        for number in range(3):
            new, state = moved(ours, new, sines(new, number), state=state, number=number + 1)
            for n, layer in enumerate(layers):
                updates, states[n] = theirs.update(jnp.sin(layer * (number + 1)), states[n], layer)
                layers[n] = optax.apply_updates(layer, updates)
        np.testing.assert_allclose(new["text/layers/mlp/up/kernel"], jnp.stack(layers), rtol=1e-5, atol=1e-6)
    sizes = [leaf.size for leaf in jax.tree.leaves(state)]
    assert max(sizes) == 2 * 140  # no square of a whole matrix is kept


@pytest.mark.parametrize("name", ["adamw8bit", "adafactor", "sgd"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_leaves_in_turn_equal_all_at_once(name, dtype, monkeypatch):
    shapes = {"text/layers/mlp/up/kernel": (2, 64, 128), "text/embed/embedding": (192, 64)}
    draw = np.random.default_rng(6)
    params = {path: jnp.asarray(draw.normal(size=shape), dtype) for path, shape in shapes.items()}
    optimizer = optim.Optimizer(name, stacks=("text/layers",))

    def run():
        new, state = params, None
        for number in range(3 if dtype == "float32" else 1):
            new, state = moved(optimizer, new, sines(params, number), state=state, number=number + 1)
        return new, state

    whole, _ = run()
    monkeypatch.setattr(optim, "LARGE", 4096)
    monkeypatch.setattr(optim, "PART", 4096)
    parted, state = run()
    if name == "adamw8bit":
        parts = {path: optimizer._parts((jax.tree_util.DictKey(path),), params[path]) for path in shapes}
        assert parts == {"text/embed/embedding": 3, "text/layers/mlp/up/kernel": 2}
        # What is remembered of a matrix does not show it.
        assert state["text/embed/embedding"].mean.codes.shape == (48, 256)
        assert state["text/layers/mlp/up/kernel"].mean.codes.shape == (2, 32, 256)
    for path, leaf in whole.items():
        # Parts are rounded with random numbers of their own; up or down, they are neighbours.
        slack = 2**-7 if dtype == "bfloat16" else 1e-5
        np.testing.assert_allclose(
            leaf.astype(jnp.float32), parted[path].astype(jnp.float32), rtol=slack, atol=1e-5, err_msg=path
        )


def test_a_roll_that_does_not_go_on_stays_as_it_is():
    for name in optim.OPTIMIZERS:
        optimizer, params = optim.Optimizer(name, stacks=("text/layers",)), wide(jnp.bfloat16)
        _, state = moved(optimizer, params, sines(params, 1))
        broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
        new, kept = moved(optimizer, params, broken, state=state, number=2, going=False)
        jax.tree.map(np.testing.assert_array_equal, (new, kept), (params, state))


def test_rounding_at_random_is_right_on_average():
    """The mean of n roundings lies within five standard errors of the value: sqrt(p (1 - p) / n) of a step each."""
    values = jnp.asarray([1 + 2**-9, -3.01, 1e-30, 0.1, 65504.3, -1e-3, 2.0, 0.0, -0.0], jnp.float32)
    count = 20_000
    drawn = jax.vmap(lambda key: optim.round_at_random(key, values))(jax.random.split(jax.random.PRNGKey(1), count))
    drawn = np.asarray(drawn.astype(jnp.float32), np.float64)
    low, high = drawn.min(0), drawn.max(0)
    chance = (np.asarray(values, np.float64) - low) / np.where(high > low, high - low, 1)
    assert (high > low).tolist() == [True] * 6 + [False] * 3
    error = np.abs(drawn.mean(0) - np.asarray(values)) / np.where(high > low, high - low, 1)
    assert (error <= 5 * np.sqrt(chance * (1 - chance) / count)).all(), error
    for side in (low, high):
        np.testing.assert_array_equal(side.astype(np.float32).view(np.uint32) & 0xFFFF, 0)
    odd = optim.round_at_random(jax.random.PRNGKey(0), jnp.asarray([jnp.inf, -jnp.inf, jnp.nan], jnp.float32))
    np.testing.assert_array_equal(odd.astype(jnp.float32), [np.inf, -np.inf, np.nan])


def test_each_leaf_and_each_layer_is_rounded_with_random_numbers_of_its_own():
    params = {
        "text/layers/mlp/up/kernel": jnp.ones((2, 64, 64), jnp.bfloat16),
        **{f"{name}/kernel": jnp.ones((64, 64), jnp.bfloat16) for name in ("text/head", "projector")},
    }
    new, _ = moved(optim.Optimizer("sgd", stacks=("text/layers",)), params, params, rate=2.0**-9)
    rounded = [*new["text/layers/mlp/up/kernel"], new["text/head/kernel"], new["projector/kernel"]]
    assert len({np.asarray(one).tobytes() for one in rounded}) == 4


def test_steps_below_bfloat16s_are_taken_on_average():
    """A thousand steps of a thousandth of a bfloat16's own step: rounded to nearest, none would be taken."""
    params = {"text/norm/scale": jnp.ones(4096, jnp.bfloat16)}
    gradient = {"text/norm/scale": -jnp.ones(4096, jnp.bfloat16)}
    optimizer, rate = optim.Optimizer("sgd"), 2.0**-7 / 1000

    def body(number, params):
        key = jax.random.PRNGKey(number)
        update = optim.Update(jnp.float32(rate), jnp.zeros(()), number + 1, jnp.ones(()), jnp.bool_(True), key)
        return optimizer.update(update, gradient, optimizer.init(params), params)[0]

    done = jax.jit(lambda params: jax.lax.fori_loop(0, 1000, body, params))(params)["text/norm/scale"]
    steps = (np.asarray(done.astype(jnp.float32)) - 1) * 2**7
    assert abs(steps.mean() - 1) < 5 / np.sqrt(4096) and 0.8 < steps.std() < 1.2


STACK = (16, 1024, 1056)  # 69 MB in float32: large enough to be updated layer by layer


@pytest.mark.parametrize(("name", "states"), [("adamw", 8), ("adamw8bit", 2.04), ("sgd", 0)])
def test_memory_is_what_is_kept_and_little_beside_it(name, states):
    """By the compiler's own account, of two rolls: bytes of states a weight, and what the update holds beside them.

    Not of weights in bfloat16: the CPU's compiler makes float32 copies of them.
    """
    rolls, size = 2, int(np.prod(STACK)) + 8192 * 2560
    shapes = {"text/layers/mlp/up/kernel": STACK, "text/embed/embedding": (8192, 2560)}
    params = {path: jax.ShapeDtypeStruct((rolls, *shape), jnp.float32) for path, shape in shapes.items()}
    optimizer = optim.Optimizer(name, 1.0, stacks=("text/layers",))
    update = optim.Update(
        jnp.float32(0.1), jnp.float32(0.1), jnp.int32(1), jnp.float32(1), jnp.bool_(True), jax.random.PRNGKey(0)
    )
    one = lambda params, gradients, state: optimizer.update(update, gradients, state, params)
    state = jax.eval_shape(jax.vmap(optimizer.init), params)
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert kept / (rolls * size) == pytest.approx(states, rel=0.01)
    compiled = jax.jit(jax.vmap(one), donate_argnums=(0, 2)).lower(params, params, state).compile()
    beside = compiled.memory_analysis().temp_size_in_bytes / (4 * rolls * size)
    assert beside < 0.4, f"{beside:.2f} of a float32 copy of what is trained"
