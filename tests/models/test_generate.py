"""Greedy answers with cached keys and values are those of running the whole text again for each token."""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_families import FAMILIES, name_of

from rolltune import trees
from rolltune.batch import NOTHING
from rolltune.models import attention, decoder, forward, generate
from rolltune.models import layers as nn
from rolltune.models.layers import LoRA

STEPS = 5
PROMPTS = (("a b", [1]), ("abcdef", [2]), ("no picture", []))


@pytest.fixture(scope="module", params=FAMILIES, ids=name_of)
def small(request):
    """The family with weights so large that an answer does not say the prompt's last token again and again."""

    def make_params():
        flat = trees.flatten(request.param.params)
        loud = lambda path: trees.stack_of(path, request.param.model.stacks) and path.endswith("/kernel")
        return trees.unflatten({path: 3 * leaf if loud(path) else leaf for path, leaf in flat.items()})

    return dataclasses.replace(request.param, make_params=make_params)


@pytest.fixture(scope="module")
def recomputed(small):
    """The answer to each prompt by its row alone, all of it run again for each token."""
    logits = jax.jit(lambda params, batch: forward.logits(
        small.net, params, forward.hidden(small.net, params, batch, NOTHING, at=batch.predict)
    ))  # fmt: skip
    found = []
    for prompt, shown in PROMPTS:
        row, said = small.row(prompt, shown=shown), []
        for _ in range(STEPS):
            now = going_on(small, row, said)
            room = small.room(24, 1, pictures=max(1, len(shown)))
            said.append(int(np.argmax(logits(small.ready, small.batch(now, room=room))[0, 0])))
        found.append(said)
    return found


def going_on(small, row, said):
    """The row with these tokens after its prompt; what is asked for is the token after them."""
    count, start = len(said), len(row.tokens)
    positions = np.arange(start, start + count)
    after = {
        "tokens": said,
        "positions": positions,
        "blocks": positions - start + 1 if small.family.template.prefix_lm else positions,
        "segments": np.ones(count),
        "slots": np.full(count, -1),
    }
    longer = {name: np.concatenate([getattr(row, name), own]).astype(np.int32) for name, own in after.items()}
    seen = np.concatenate([row.seen, np.repeat(row.seen[-1:], count, 0)])
    asked = {"predict": np.array([start + count - 1]), "targets": np.zeros(1, int), "candidates": np.zeros(1, int)}
    return row._replace(**longer, **asked, seen=seen)


@pytest.fixture(scope="module")
def written(small):
    """`written(first, listed, stops)`: the answers to all prompts in one batch, layers arranged so."""
    batch = small.batch(*[small.row(prompt, shown=shown) for prompt, shown in PROMPTS], size=4)

    def write(first=0, listed=False, stops=(-1,), feed=None):
        params = trees.unflatten(trees.flatten(small.params))
        params = trees.arrange(params, small.model.stacks, first, listed)
        run = jax.jit(lambda params, batch: generate.generate(small.net, params, batch, NOTHING, STEPS, stops))
        return np.asarray(run(params, batch))

    return write


@pytest.mark.parametrize(("first", "listed"), [(0, False), (1, True)])  # an odd one: windows alternate
def test_decoding_with_a_cache_equals_decoding_without(written, recomputed, first, listed):
    found = written(first, listed)
    assert found[:3].tolist() == recomputed and found[3].tolist() == recomputed[2]
    assert len({token for said in recomputed for token in said}) > 5 and len({said[-1] for said in recomputed}) == 3


def test_an_answer_ends_at_the_first_of_its_stops(written, recomputed):
    stops = (63, recomputed[0][2], recomputed[1][3])
    for said, found in zip(recomputed, written(stops=stops), strict=False):
        end = next((place for place, token in enumerate(said) if token in stops), STEPS)
        assert found.tolist() == said[:end] + [63] * (STEPS - end)


def test_what_is_drawn_follows_the_probabilities_within_the_nucleus():
    shares = np.array([0.5, 0.25, 0.15, 0.1])
    logits = np.tile(np.log(shares), (8000, 1)).astype(np.float32)[:, [2, 0, 3, 1]]
    keys = jax.random.split(jax.random.PRNGKey(random.randrange(2**31)), len(logits))

    def counted(**said):
        ids = np.asarray(generate.drawn(generate.Sampling(**said), logits, keys))
        return np.bincount(ids, minlength=4)[[1, 3, 0, 2]] / len(ids)

    np.testing.assert_allclose(counted(), shares, atol=0.03)
    np.testing.assert_allclose(counted(temperature=0.5), shares**2 / (shares**2).sum(), atol=0.03)
    np.testing.assert_allclose(counted(top_p=0.74), [2 / 3, 1 / 3, 0, 0], atol=0.03)  # the one that crosses it is in
    assert counted(top_p=0.5).tolist() == [1, 0, 0, 0]


def test_what_is_drawn_for_a_row_is_its_own(small):
    sampling, count = generate.Sampling(temperature=2.0, seed=3), len(PROMPTS)
    run = jax.jit(
        lambda params, batch, numbers: generate.generate(
            small.net, params, batch, NOTHING, STEPS, (-1,), None, sampling, numbers
        )
    )
    rows = [small.row(prompt, shown=shown) for prompt, shown in PROMPTS]
    numbers = np.array([7, 2**31 + 5, 9, 0], np.uint32)
    said = lambda order: np.asarray(
        run(small.params, small.batch(*[rows[n] for n in order], size=4), numbers[[*order, *[3] * (4 - len(order))]])
    )
    found = said(range(count))
    assert said([2, 0])[:2].tolist() == found[[2, 0]].tolist()
    alike = small.batch(*[rows[0]] * 3, size=4)
    assert len({tuple(own) for own in np.asarray(run(small.params, alike, numbers)).tolist()[:3]}) == 3


def draw(seed: int, *shape: int):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


WIDTHS = {"k": 4, "o": 8, "q": 8, "v": 4}  # in the order of a tree


def attention_of(adapted: str) -> dict:
    kernels = {name: draw(n, 8, width) for n, (name, width) in enumerate(WIDTHS.items(), 1)}
    adapter = lambda n, width: (draw(9 * n, 8, 2), draw(5 * n, 2, width))
    return {
        name: {"kernel": LoRA(kernels[name], *adapter(n, width)) if name in adapted else kernels[name]}
        for n, (name, width) in enumerate(WIDTHS.items(), 1)
    }


def test_adapters_of_one_input_are_laid_side_by_side_once_whatever_order_a_tree_has_them_in(monkeypatch):
    monkeypatch.setattr(nn, "SMALL", 0)
    attn, x = attention_of("koqv"), draw(0, 2, 3, 8)
    (ready,) = decoder.ready([{"attn": attn}], jnp.float32)
    run = lambda p: lambda x: nn.linears([p[name] for name in "qkv"], x)
    for found, expected in zip(run(ready["attn"])(x), run(attn)(x), strict=True):
        np.testing.assert_array_equal(found, expected)
    joins = lambda p: str(jax.make_jaxpr(run(p))(x)).count("concatenate")
    assert joins(ready["attn"]) == 0 and joins(attn) == 1


@pytest.mark.parametrize("adapted", ["", "qv", "koqv"])
def test_small_queries_keys_and_values_are_written_with_as_one_product(adapted):
    attn, x = attention_of(adapted), draw(0, 2, 3, 8)
    config = decoder.Config(vocab=3, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp=8)
    (ready,) = decoder.ready([{"attn": attn}], jnp.float32)
    assert set(ready["attn"]) == {"qkv", "o"}
    parts = lambda p: decoder._qkv(config, p, x, None, jnp.float32(1))
    for found, expected in zip(parts(ready["attn"]), parts(attn), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


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
