"""What a score may depend on, and what it may not; and that every short cut gives what the long way gives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_families import FAMILIES, log_probs, name_of
from small_model import CONFIG, NET, make_batch, make_params, make_row

from rolltune import trees
from rolltune.batch import NOTHING
from rolltune.models import decoder, forward
from rolltune.models import layers as nn
from rolltune.quantize import quantize_tree

near = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module", params=FAMILIES, ids=name_of)
def small(request):
    return request.param


def score(small, *rows, size=2, room=None) -> list[np.ndarray]:
    """Log-probabilities of the targets of each row; one shape for all calls, so that one program serves them."""
    batch = small.batch(*rows, size=size, room=room or small.room())
    found = np.asarray(log_probs(small.net, small.ready, batch, NOTHING))
    return [found[n, : len(row.targets)] for n, row in enumerate(rows)]


def test_a_token_changes_nothing_before_it(small):
    row = small.row("a b", "abcdef")
    (whole,), begin = score(small, row), row.targets.tolist().index(4)
    for place in range(6):
        changed = "abcdef"[:place] + "Z" + "abcdef"[place + 1 :]
        (found,) = score(small, small.row("a b", changed))
        np.testing.assert_array_equal(found[: begin + place], whole[: begin + place])
        assert np.all(found[begin + place :] != whole[begin + place :])  # the token itself and all after it


def test_the_prompt_and_the_picture_change_every_score(small):
    (whole,) = score(small, small.row("a b", "abcdef"))
    for prompt, shown in (("b b", [0]), ("a c", [0]), ("a b", [2]), ("a b", [1])):
        (found,) = score(small, small.row(prompt, "abcdef", shown=shown))
        assert np.all(found != whole), (prompt, shown)


def test_the_prompt_never_sees_the_answer(small):
    rows = [small.row("a b", answer, "xy") for answer in ("abc", "Zbc", "aZc")]
    run = jax.jit(lambda batch: forward.hidden(small.net, small.ready, batch, NOTHING))
    states = [np.asarray(run(small.batch(row))) for row in rows]
    prompt = int(np.sum(rows[0].segments == 0))
    for other in states[1:]:
        np.testing.assert_array_equal(other[0, :prompt], states[0][0, :prompt])
        assert np.abs(other[0, prompt:] - states[0][0, prompt:]).max() > 1e-3


def test_padding_and_neighbours_never_matter(small):
    row, other = small.row("a b", "abc", shown=[1]), small.row("a long one", "Z", shown=[2])
    without = small.row("no picture", "Zeb", shown=[])
    (alone,) = score(small, row)
    for rows in ((row, other), (row, row), (row, without)):
        near(score(small, *rows)[0], alone)
    near(score(small, other, row)[1], alone)
    near(score(small, row, size=3, room=small.room(40, 12, pictures=2))[0], alone)
    near(score(small, without, row)[0], score(small, without)[0])


def test_candidates_together_equal_candidates_alone(small):
    answers = ("yes", "no", "Zeb")
    row, room = small.row("a b", *answers), small.room(32, 16)
    (together,) = score(small, row, room=room)
    for number, answer in enumerate(answers):
        (alone,) = score(small, small.row("a b", answer), room=room)
        near(together[row.candidates == number], alone)


def test_a_list_of_layers_and_remat_equal_the_scan(small):
    stacks = small.model.stacks
    batch = small.batch(small.row("a b", "abc"), small.row("c", "de", shown=[1]))
    flat = trees.flatten(small.params)
    arranged = lambda listed: trees.arrange(trees.unflatten(flat), stacks, listed=listed)

    @functools.partial(jax.jit, static_argnums=1)
    def run(params, remat):
        net = dataclasses.replace(small.net, remat=remat)
        loss = lambda params: -jnp.sum(forward.log_probs(net, params, batch, NOTHING) * batch.weights)
        return jax.value_and_grad(loss)(params)

    def stacked(slopes):
        """Gradients of a list of layers, in their stacks."""
        layers = slopes["text"]["layers"]
        if not isinstance(layers, list):
            return trees.flatten(slopes)
        rest = trees.flatten(slopes | {"text": {k: v for k, v in slopes["text"].items() if k != "layers"}})
        for name, numbers in stacks.items():
            own = [trees.flatten(layers[number]) for number in numbers]
            rest |= {f"{name}/{path}": jnp.stack([one[path] for one in own]) for path in own[0]}
        return rest

    value, gradients = run(arranged(False), False)
    gradients = stacked(gradients)
    for listed, remat in ((False, True), (True, False), (True, "attention"), (False, "attention")):
        found, slopes = run(arranged(listed), remat)
        near(found, value)
        slopes = stacked(slopes)
        assert slopes.keys() == gradients.keys()
        for path, b in gradients.items():
            np.testing.assert_allclose(slopes[path], b, rtol=1e-4, atol=1e-4 * np.abs(b).max() + 1e-6, err_msg=path)


def test_bfloat16_stays_near_float32(small):
    batch = small.batch(small.row("a b", "abc"))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small.ready)
    net = dataclasses.replace(small.net, config=dataclasses.replace(small.config, dtype="bfloat16"))
    found = log_probs(net, half, batch, NOTHING)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, log_probs(small.net, small.ready, batch, NOTHING), atol=0.15)


def test_a_tower_in_eight_bits_sees_nearly_the_same(small):
    if not small.family.towers:
        pytest.skip("reads text only")
    batch, rules = small.batch(small.row("a b", "abc", shown=[1])), [(r".*layers/.*/kernel", "int8"), (".*", "keep")]
    part = {name: small.ready[name] for name in small.family.towers}
    packed = small.ready | quantize_tree(jax.tree.map(lambda leaf: leaf, part), rules)
    exact = log_probs(small.net, small.ready, batch, NOTHING)
    off = np.abs(log_probs(small.net, packed, batch, NOTHING) - exact).max()
    assert 0 < off < 0.05 * np.abs(exact).max()


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
    monkeypatch.setattr(
        decoder, "HEAD_LOGITS_AT_ONCE", 4 * CONFIG.text.vocab
    )  # 21 targets: the last chunk is filled up
    (_, found), slopes = run()
    near(found, whole)
    jax.tree.map(near, slopes, gradients)
    logits = decoder.logits(CONFIG.text, params["text"], x)
    expected = jax.nn.log_softmax(logits)[np.arange(3)[:, None], places, targets]
    near(whole, expected)


def test_logits_are_made_once_where_their_table_is_frozen(monkeypatch):
    monkeypatch.setattr(decoder, "HEAD_LOGITS_AT_ONCE", 4 * CONFIG.text.vocab)
    text, targets = make_params()["text"], np.zeros((3, 7), int)

    def loss(x, head):
        return jnp.sum(decoder.target_log_probs(CONFIG.text, text | {"embed": {"embedding": head}}, x, targets))

    x, head = jnp.ones((3, 7, 32)), text["embed"]["embedding"]
    loops = lambda of: jax.jit(jax.grad(loss, of)).lower(x, head).compile().as_text().count(" while(")
    assert loops(0) == 1  # over the chunks, whose slopes are made with them
    assert loops((0, 1)) > 1


def equations(jaxpr):
    for one in jaxpr.eqns:
        yield one
        for inner in one.params.values():
            if (own := getattr(inner, "jaxpr", inner)) is not inner or hasattr(inner, "eqns"):
                yield from equations(own)


def test_a_checkpoint_keeps_adapters_in_the_dtype_of_products():
    text, rank = dataclasses.replace(CONFIG.text, layers=decoder.LAST + 1), 3
    config = dataclasses.replace(CONFIG, text=text)
    layers = trees.arrange(make_params(config), NET.family.stacks(config), listed=True)["text"]["layers"]
    lora = lambda w: nn.LoRA(w, jnp.ones((w.shape[0], rank)), jnp.ones((rank, w.shape[1])))
    layers = jax.tree.map(lambda w: lora(w) if w.ndim == 2 else w, layers)
    here = decoder.context(text, *[np.zeros((1, 5), int)] * 3)
    x = jnp.ones((1, 5, text.width), jnp.bfloat16)
    run = lambda layers: jnp.sum(decoder.run(text, layers, x, here, remat=True)[0].astype(jnp.float32))
    found = [one for one in equations(jax.make_jaxpr(jax.grad(run))(layers).jaxpr) if "remat" in one.primitive.name]
    kinds = {one.aval.dtype for each in found for one in each.invars if rank in one.aval.shape}
    assert kinds == {jnp.dtype(jnp.bfloat16)}


def test_a_layer_of_a_list_is_traced_once_for_all(monkeypatch):
    config = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, layers=6))
    net = dataclasses.replace(NET, config=config)
    params = trees.arrange(make_params(config), net.family.stacks(config), listed=True)
    traced, real = [], decoder.layer
    monkeypatch.setattr(decoder, "layer", lambda *args: traced.append(1) or real(*args))
    batch = make_batch(make_row("a b", "cd"))
    jax.jit(jax.grad(lambda params: jnp.sum(forward.log_probs(net, params, batch, NOTHING)))).lower(params)
    assert len(traced) == 2  # five whole layers alike, and the last one, which works out what is predicted only
