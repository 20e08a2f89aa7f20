"""What a score may depend on, and what it may not; and that every short cut gives what the long way gives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import CONFIG, CONFIG2, make_batch, make_params, make_row, picture

from rolltune import adapters
from rolltune.families import paligemma
from rolltune.models import decoder

near = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


@functools.partial(jax.jit, static_argnums=(0, 4))
def log_probs(config, params, batch, table=None, remat=False):
    return paligemma.log_probs(config, params, batch, table, remat=remat)


@pytest.fixture(scope="module", params=[CONFIG, CONFIG2], ids=["one", "two"])
def model(request):
    return request.param, make_params(request.param)


def score(model, *rows, tokens=24, targets=8, size=2) -> np.ndarray:
    """Log-probabilities of the targets of each row; one shape for all calls, so that one program serves them."""
    found = np.asarray(log_probs(*model, make_batch(*rows, tokens=tokens, targets=targets, size=size)))
    return [found[n, : len(row.targets)] for n, row in enumerate(rows)]


def test_a_token_changes_nothing_before_it(model):
    (whole,) = score(model, make_row("a b", "abcdef"))
    for place in range(6):
        changed = "abcdef"[:place] + "Z" + "abcdef"[place + 1 :]
        (found,) = score(model, make_row("a b", changed))
        np.testing.assert_array_equal(found[:place], whole[:place])
        assert np.all(found[place:] != whole[place:])  # the token itself and all after it


def test_the_prompt_and_the_picture_change_every_score(model):
    (whole,) = score(model, make_row("a b", "abcdef"))
    for other in (make_row("b b", "abcdef"), make_row("a c", "abcdef"), make_row("a b", "abcdef", number=1)):
        (found,) = score(model, other)
        assert np.all(found != whole)


def test_the_prompt_never_sees_the_answer(model):
    config, params = model
    states = [
        paligemma.hidden(config, params, make_batch(make_row("a b", answer, "xy"))) for answer in ("abc", "Zbc", "aZc")
    ]
    prompt = 4 + 1 + 3 + 1
    for other in states[1:]:
        np.testing.assert_array_equal(other[0, :prompt], states[0][0, :prompt])


def test_padding_and_neighbours_never_matter(model):
    row, other = make_row("a b", "abc", number=1), make_row("a long one", "Z", number=2)
    (alone,) = score(model, row)
    for rows in ((row, other), (row, row)):
        near(score(model, *rows)[0], alone)
    near(score(model, other, row)[1], alone)
    near(score(model, row, tokens=40, targets=12, size=3)[0], alone)


def test_candidates_together_equal_candidates_alone(model):
    answers = ("yes", "no", "Zeb")
    row = make_row("a b", *answers)
    (together,) = score(model, row, tokens=24, targets=12)
    for number, answer in enumerate(answers):
        (alone,) = score(model, make_row("a b", answer), targets=12)
        near(together[row.candidates == number], alone)


def test_a_list_of_layers_and_remat_equal_the_scan(model):
    config, params = model
    batch = make_batch(make_row("a b", "abc"), make_row("c", "de", number=1))
    listed = adapters.unstack_layers(dict(params, text=dict(params["text"])))
    stack = lambda layers: jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    @functools.partial(jax.jit, static_argnums=1)
    def run(params, remat):
        loss = lambda params: (
            -jnp.sum(paligemma.log_probs(config, params, batch, remat=remat) * batch.weights * batch.valid[:, None])
        )
        return jax.value_and_grad(loss)(params)

    value, gradients = run(params, False)
    for other, remat in ((params, True), (listed, False)):
        found, slopes = run(other, remat)
        near(found, value)
        if other is listed:
            slopes["text"]["layers"] = stack(slopes["text"]["layers"])
        for (path, a), b in zip(jax.tree.leaves_with_path(slopes), jax.tree.leaves(gradients), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max() + 1e-6, err_msg=str(path))


def test_chunks_of_targets_equal_all_at_once(monkeypatch):
    params, x = make_params(), jax.random.normal(jax.random.key(0), (3, 9, 32))
    draw = np.random.default_rng(0)
    places, targets = draw.integers(0, 9, (3, 7)), draw.integers(0, 64, (3, 7))

    def loss(x, head):
        text = params["text"] | {"embed": {"embedding": head}}
        found = decoder.target_log_probs(CONFIG.text, text, decoder.places(x, places), targets)
        return jnp.sum(found * jnp.arange(1, 8)), found

    run = lambda: jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, params["text"]["embed"]["embedding"])
    (_, whole), gradients = run()
    monkeypatch.setattr(decoder, "TARGETS_AT_ONCE", 4)  # 21 targets: the last chunk is filled up
    (_, found), slopes = run()
    near(found, whole)
    jax.tree.map(near, slopes, gradients)
    logits = decoder.logits(CONFIG.text, params["text"], x)
    expected = jax.nn.log_softmax(logits)[np.arange(3)[:, None], places, targets]
    near(whole, expected)


def test_tables_equal_the_way_without_them(model):
    config, params = model
    rows = [make_row("a b", "abc", number=1), make_row("c", "de", number=0)]
    expected = log_probs(config, params, make_batch(*rows))
    pictures = np.concatenate([picture(0), picture(1)])
    pointing = make_batch(*[row._replace(pixels=np.array([n], np.int32)) for row, n in zip(rows, (1, 0), strict=True)])
    near(log_probs(config, params, pointing, paligemma.Pixels(pictures)), expected)
    features = paligemma.image_features(config, params, pictures[:, None])
    without = {name: part for name, part in params.items() if name != "vision"}
    near(log_probs(config, without, pointing, paligemma.Features(features)), expected)
    for first in (1, 2):
        split = adapters.split_layers(params, first)
        near(log_probs(config, split, make_batch(*rows)), expected)
        states = paligemma.lower_states(config, split, make_batch(*rows, tokens=32))
        upper = split | {"text": {name: part for name, part in split["text"].items() if name != "lower"}}
        table = paligemma.States(states[::-1])  # longer than the batch, in another order
        near(log_probs(config, upper, pointing, table), expected)


def test_a_layer_of_a_list_is_traced_once_for_all(monkeypatch):
    config = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, layers=6))
    params = adapters.unstack_layers(make_params(config))
    traced, real = [], decoder.layer
    monkeypatch.setattr(decoder, "layer", lambda *args: traced.append(1) or real(*args))
    total = lambda params: jnp.sum(paligemma.log_probs(config, params, make_batch(make_row("a b", "cd"))))
    jax.jit(jax.grad(total)).lower(params)
    assert len(traced) == 2  # five whole layers alike, and the last one, which works out what is predicted only


def test_rows_with_and_without_pictures_stand_side_by_side():
    params = make_params()
    pictures = np.concatenate([picture(0), picture(1)])
    rows = [make_row("a b", "cd", pixels=some) for some in (pictures, pictures[::-1], pictures[:1], pictures[:0])]
    alone = [np.asarray(log_probs(CONFIG, params, make_batch(row)))[0, :3] for row in rows]
    assert len({found[0] for found in alone}) == 4
    together = log_probs(CONFIG, params, make_batch(*rows))
    near(together[:, :3], alone)
    table = paligemma.Features(paligemma.image_features(CONFIG, params, pictures[:, None]))
    places = [[0, 1], [1, 0], [0], []]
    pointing = [row._replace(pixels=np.array(n, np.int32)) for row, n in zip(rows, places, strict=True)]
    near(log_probs(CONFIG, params, make_batch(*pointing), table), together)
    near(log_probs(CONFIG, params, make_batch(pointing[3]), table)[0, :3], alone[3])


def test_decoding_with_a_cache_equals_decoding_without(model):
    config, params = model
    rows = [make_row("a b", number=1), make_row("abcdef", number=2)]
    batch = make_batch(*rows)
    found = np.asarray(jax.jit(functools.partial(paligemma.generate, config, steps=5, eos=1))(params, batch))
    logits = jax.jit(lambda params, some: paligemma.logits(config, params, paligemma.hidden(config, params, some)))
    for number, prompt in ((0, "a b"), (1, "abcdef")):
        said: list[int] = []
        for token in found[number]:
            row = make_row(prompt, "a" * (len(said) + 1), number=number + 1)
            tokens = row.tokens.copy()
            tokens[len(tokens) - len(said) - 1 : len(tokens) - 1] = said
            best = int(jnp.argmax(logits(params, make_batch(row._replace(tokens=tokens)))[0, row.predict[-2]]))
            assert token == best
            if best == 1:
                break
            said.append(best)


def test_bfloat16_stays_near_float32(model):
    config, params = model
    batch = make_batch(make_row("a b", "abc"))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    found = log_probs(dataclasses.replace(config, dtype="bfloat16"), half, batch)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, log_probs(config, params, batch), atol=0.15)
