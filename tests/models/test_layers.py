"""Operations that have their own gradients equal what autodiff makes of the plain formula."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune.models import attention
from rolltune.models import layers as nn
from rolltune.quantize import decode, quantized


def draw(number: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(number), shape)


def plain_rms_norm(x, scale):
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * (1 + scale)


def plain_llama_norm(x, scale):
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale


def plain_gated(gate, up, w):
    return (0.5 * gate * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (gate + 0.044715 * gate**3))) * up) @ w


def plain_silu(gate, up, w):
    return (gate / (1 + jnp.exp(-gate)) * up) @ w


def gelu_gated(gate, up, w):
    return nn.gated_product([gate, up], w, "gelu")


def plain_attention(q, k, v):
    """Two heads of queries on one of keys, causal, with a soft cap."""
    logits = 2.0 * jnp.tanh(0.3 * jnp.einsum("btnh,bsh->bnts", q, k[:, :, 0]) / 2.0)
    weights = jax.nn.softmax(jnp.where(causal(q.shape[1]), logits, -1e30), -1)
    return jnp.einsum("bnts,bsh->btnh", weights, v[:, :, 0])


def causal(t: int) -> jax.Array:
    return jnp.tril(jnp.ones((t, t), bool))


@pytest.mark.parametrize(
    ("ours", "plain", "shapes"),
    [
        (lambda x, s: nn.rms_norm(x, s, 1e-6), plain_rms_norm, [(3, 5, 8), (8,)]),
        (lambda x, s: nn.rms_norm(x, s, 1e-6, False), plain_llama_norm, [(3, 5, 8), (8,)]),
        (gelu_gated, plain_gated, [(3, 5, 8), (3, 5, 8), (8, 4)]),
        (lambda gate, up, w: nn.gated_product([gate, up], w, "silu"), plain_silu, [(3, 5, 8), (3, 5, 8), (8, 4)]),
        (
            lambda q, k, v: attention.attend(q, k, v, causal(5)[None], 0.3, 2.0),
            plain_attention,
            [(1, 5, 2, 6), *[(1, 5, 1, 6)] * 2],
        ),
        (nn.tied_logits, lambda x, table: x @ table.T, [(3, 5, 8), (11, 8)]),
        (
            lambda x, w, a, b: nn.logits(x, nn.LoRA(w, a, b)),
            lambda x, w, a, b: x @ (w + a @ b),
            [(3, 5, 8), (8, 11), (8, 2), (2, 11)],
        ),
    ],
)
def test_values_and_gradients_equal_the_plain_formula(ours, plain, shapes):
    inputs = [3 * draw(n, *shape) for n, shape in enumerate(shapes)]
    expected, back = jax.vjp(plain, *inputs)
    found, our_back = jax.vjp(ours, *inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    dy = draw(9, *expected.shape)
    for mine, theirs in zip(our_back(dy), back(dy), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_table_in_float16_is_not_copied_and_its_small_gradients_are_not_lost():
    x, table, dy = draw(0, 3, 64), draw(1, 400, 64).astype(jnp.float16), 1e-8 * draw(2, 3, 400)
    expected, back = jax.vjp(lambda x: x @ table.astype(jnp.float32).T, x)
    found, our_back = jax.vjp(lambda x: nn.tied_logits(x, table), x)
    np.testing.assert_allclose(found, expected, atol=0.02)
    (mine,), (theirs,) = our_back(dy), back(dy)
    np.testing.assert_allclose(mine, theirs, atol=0.02 * np.abs(theirs).max())
    wide = [str(x.aval) for e in jax.make_jaxpr(nn.tied_logits.fun)(x, table).eqns for x in e.outvars]
    assert not any("float32[400,64]" in one for one in wide)


def test_one_row_of_logits_is_no_vector():
    """Of a bfloat16 vector's float32 product XLA makes a float32 copy of the table on a GPU."""
    x, table = draw(0, 1, 1, 8), draw(1, 11, 8)
    np.testing.assert_allclose(nn.tied_logits(x, table), x @ table.T, rtol=1e-5, atol=1e-5)
    products = [e for e in jax.make_jaxpr(nn.tied_logits.fun)(x, table).eqns if e.primitive.name == "dot_general"]
    assert [one.outvars[0].aval.shape for one in products] == [(2, 11)]


def test_gradients_take_the_dtype_of_what_they_belong_to():
    x, scale = draw(0, 2, 8).astype(jnp.bfloat16), draw(1, 8)
    gated = lambda x, s: gelu_gated(x, x, s[:, None])
    for run in (lambda x, s: nn.rms_norm(x, s, 1e-6), gated, lambda x, s: nn.tied_logits(x, s[None])):
        dx, dscale = jax.grad(lambda x, s, run=run: jnp.sum(run(x, s).astype(jnp.float32)), (0, 1))(x, scale)
        assert (dx.dtype, dscale.dtype) == (jnp.bfloat16, jnp.float32)


def lora(number: int, out: int, rank: int, **more) -> nn.LoRA:
    return nn.LoRA(draw(number, 8, out), draw(number + 1, 8, rank), draw(number + 2, rank, out), **more)


def test_products_with_several_adapters_equal_separate_ones():
    x = draw(0, 2, 3, 8)
    weights = [lora(10, 4, 2), draw(5, 8, 6), lora(20, 5, 3), lora(30, 4, 1, key=jax.random.key(7), dropout=0.5)]
    together = nn.products(x, weights)
    for w, found in zip(weights, together, strict=True):
        np.testing.assert_allclose(found, nn.product(x, w), rtol=1e-5, atol=1e-5)
    for w, found in list(zip(weights, together, strict=True))[:3:2]:
        np.testing.assert_allclose(found, x @ (w.base + w.a @ w.b), rtol=1e-4, atol=1e-4)


def test_gate_and_up_side_by_side_give_what_they_give_as_two():
    both, w = draw(0, 3, 5, 16), lora(1, 8, 4)

    def run(parts, w):
        return jnp.sum(jnp.sin(nn.gated_product(parts, w, "silu")))

    (fused,), fused_w = jax.grad(run, (0, 1))([both], w)
    two, two_w = jax.grad(run, (0, 1))(jnp.split(both, 2, -1), w)
    np.testing.assert_allclose(fused, jnp.concatenate(two, -1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(fused_w.a, two_w.a, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(run([both], w), run(jnp.split(both, 2, -1), w), rtol=1e-6)


def test_a_gated_product_with_an_adapter_equals_the_one_with_its_weight_merged():
    gate, up, w = draw(0, 2, 3, 8), draw(1, 2, 3, 8), lora(2, 5, 2)
    merged = lambda gate, up, a, b: plain_gated(gate, up, w.base + a @ b)
    ours = lambda gate, up, a, b: gelu_gated(gate, up, w.replace(a=a, b=b))
    inputs = (gate, up, w.a, w.b)
    expected, back = jax.vjp(merged, *inputs)
    found, our_back = jax.vjp(ours, *inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(our_back(expected), back(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_dropout_drops_inputs_of_the_adapter_alone_and_keeps_their_mean():
    x = jnp.ones((4000, 8))
    w = nn.LoRA(draw(0, 8, 8), jnp.eye(8), jnp.eye(8), jax.random.key(1), 0.25)
    added = np.asarray(nn.product(x, w) - x @ w.base)
    dropped = np.abs(added) < 1e-4
    np.testing.assert_allclose(added[~dropped], 1 / 0.75, rtol=1e-4)
    assert abs(dropped.mean() - 0.25) < 0.01 and abs(added.mean() - 1) < 0.02
    other = nn.product(x, w.replace(key=jax.random.key(2))) - x @ w.base
    assert np.any(np.abs(other - added) > 1)


def test_what_drops_out_is_a_row_s_and_a_place_s_own_whatever_they_are_padded_to():
    x = jnp.ones((3, 6, 8))
    w = nn.LoRA(draw(0, 8, 8), jnp.eye(8), jnp.eye(8), jax.random.key(1), 0.5)
    added = lambda x: np.asarray(nn.product(x, w) - x @ w.base)
    whole = added(x)
    np.testing.assert_array_equal(added(x[:, :4]), whole[:, :4])
    np.testing.assert_array_equal(added(x[:2]), whole[:2])
    rows = whole.reshape(18, 8) > 0.5
    assert len({tuple(row) for row in rows.tolist()}) > 15  # no two places alike but by chance


def test_an_adapter_on_a_quantized_output_matrix_adds_to_what_its_bits_stand_for():
    x, w = draw(0, 3, 64), nn.LoRA(quantized(draw(1, 64, 11), "nf4-double"), draw(2, 64, 2), draw(3, 2, 11))
    expected = x @ (decode(w.base, jnp.float32).T + w.a @ w.b)
    np.testing.assert_allclose(nn.logits(x, w), expected, rtol=1e-4, atol=1e-4)
    # Logits are float32 whatever the states are: bfloat16 would tell only 256 apart between 1 and 2.
    found = nn.logits(x.astype(jnp.bfloat16), lora(10, 300, 2).replace(base=draw(4, 64, 300), a=draw(5, 64, 2)))
    assert found.dtype == jnp.float32 and len(set(found[0].tolist())) > 290


def test_dropout_reaches_the_last_product_of_the_mlp_and_its_gradient():
    gate, up, w = jnp.ones((2, 3, 8)), jnp.ones((2, 3, 8)), lora(2, 5, 2)
    run = lambda w: jax.value_and_grad(lambda a: jnp.sum(gelu_gated(gate, up, w.replace(a=a)) ** 2))(w.a)
    plain = run(w)
    dropped = [run(w.replace(key=jax.random.key(n), dropout=0.5)) for n in range(2)]
    for one, other in ((dropped[0], plain), (dropped[1], plain), dropped):
        assert abs(one[0] - other[0]) > 1e-3 and np.abs(one[1] - other[1]).max() > 1e-3


@pytest.mark.parametrize("over_cards", [False, True])
def test_over_cards_a_layer_s_gradients_come_before_those_below_it(over_cards):
    """XLA would put them off, and keep what they need of every layer; on one card the program stays what it is."""
    p = {"kernel": nn.LoRA(draw(0, 4, 6), draw(1, 4, 2), draw(2, 2, 6), over_cards=over_cards), "bias": draw(3, 6)}

    def summed(x, a, held):
        own = p | {"kernel": dataclasses.replace(p["kernel"], a=a)}
        x, own = nn.in_turn(x, own) if held else (x, own)
        return jnp.sum(jnp.sin(nn.linear(own, x)))

    x, slopes = draw(4, 2, 3, 4), jax.grad(summed, argnums=(0, 1))
    for held, plain in zip(slopes(x, p["kernel"].a, True), slopes(x, p["kernel"].a, False), strict=True):
        np.testing.assert_allclose(held, plain, rtol=1e-5)
    program = str(jax.make_jaxpr(slopes, static_argnums=2)(x, p["kernel"].a, True))
    barriers = [line for line in program.splitlines() if "optimization_barrier" in line]
    assert len(barriers) == over_cards and all("f32[2,3,4]" in line and "f32[4,2]" in line for line in barriers)
