"""Layers that are made ready for many products give what they gave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune.models import decoder, ready
from rolltune.models import layers as nn
from rolltune.quantize import quantized


def draw(number: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(number), shape)


def lora(number: int, out: int, rank: int, **more) -> nn.LoRA:
    return nn.LoRA(draw(number, 8, out), draw(number + 1, 8, rank), draw(number + 2, rank, out), **more)


def test_adapters_made_ready_for_many_products_give_the_same():
    weights = [lora(1, 8, 4), draw(2, 8, 3), lora(3, 8, 5), lora(4, 8, 4).replace(key=jax.random.key(0), dropout=0.5)]
    x = draw(0, 2, 3, 8)
    found = ready.joined(weights, jnp.float32)
    assert found[0].joined.shape == (8, weights[0].a.shape[1] + weights[2].a.shape[1])
    assert found[2].joined is None and found[3].joined is None and found[1] is weights[1]
    for one, other in zip(nn.products(x, found), nn.products(x, weights), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {leaf.dtype for w in ready.joined(weights, jnp.bfloat16)[::2] for leaf in (w.a, w.b)} == {
        jnp.dtype(jnp.bfloat16)
    }


@pytest.mark.parametrize("lead", [(), (3,)], ids=["a layer", "stacked"])
def test_small_matrices_side_by_side_give_what_each_gives(lead):
    more = lambda w: jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]) if lead else x, w)
    weights, x = [more(lora(1, 8, 4)), more(draw(2, 8, 3)), more(lora(3, 8, 5))], draw(0, 2, 3, 8)
    found = ready.side_by_side(weights, jnp.float32)
    assert found.base.shape == (*lead, 8, 19) and found.a.shape == (*lead, 8, weights[0].a.shape[-1] * 2 + 1)
    of = lambda w, n: jax.tree.map(lambda leaf: leaf[n], w) if lead else w
    for n in range(3 if lead else 1):
        expected = jnp.concatenate(nn.products(x, [of(w, n) for w in weights]), -1)
        np.testing.assert_allclose(nn.product(x, of(found, n)), expected, rtol=1e-5, atol=1e-5)


def test_matrices_that_are_large_packed_or_drop_inputs_stay_apart():
    small, large = draw(2, 8, 3), jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16)
    side = lambda *weights: ready.side_by_side(weights, jnp.float32)
    assert side(small, small).shape == (8, 6) and jax.eval_shape(side, small, large) is None
    assert side(small, lora(4, 8, 4).replace(key=jax.random.key(0), dropout=0.5)) is None
    assert side(small, quantized(draw(5, 64, 64), "nf4")) is None


WIDTHS = {"k": 4, "o": 8, "q": 8, "v": 4}  # in the order of a tree


def attention_of(adapted: str) -> dict:
    kernels = {name: draw(n, 8, width) for n, (name, width) in enumerate(WIDTHS.items(), 1)}
    adapter = lambda n, width: (draw(9 * n, 8, 2), draw(5 * n, 2, width))
    return {
        name: {"kernel": nn.LoRA(kernels[name], *adapter(n, width)) if name in adapted else kernels[name]}
        for n, (name, width) in enumerate(WIDTHS.items(), 1)
    }


def test_adapters_of_one_input_are_laid_side_by_side_once_whatever_order_a_tree_has_them_in(monkeypatch):
    monkeypatch.setattr(ready, "SMALL", 0)
    attn, x = attention_of("koqv"), draw(0, 2, 3, 8)
    (made,) = ready.ready([{"attn": attn}], jnp.float32)
    run = lambda p: lambda x: nn.linears([p[name] for name in "qkv"], x)
    for found, expected in zip(run(made["attn"])(x), run(attn)(x), strict=True):
        np.testing.assert_array_equal(found, expected)
    joins = lambda p: str(jax.make_jaxpr(run(p))(x)).count("concatenate")
    assert joins(made["attn"]) == 0 and joins(attn) == 1


@pytest.mark.parametrize("adapted", ["", "qv", "koqv"])
def test_small_queries_keys_and_values_are_written_with_as_one_product(adapted):
    attn, x = attention_of(adapted), draw(0, 2, 3, 8)
    config = decoder.Config(vocab=3, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp=8)
    (made,) = ready.ready([{"attn": attn}], jnp.float32)
    assert set(made["attn"]) == {"qkv", "o"}
    parts = lambda p: decoder._qkv(config, p, x, None, jnp.float32(1))
    for found, expected in zip(parts(made["attn"]), parts(attn), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
