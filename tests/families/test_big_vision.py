"""PaliGemma beside big_vision's own Flax model, where that can be imported (the image of docker-build.sh --big-vision).

Both read the same npz; logits and the gradient of the loss must agree. The stored outputs of tests/oracle show the same
on every machine; this one shows that big_vision still agrees with them, and that it loads what we save.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune.batch import NOTHING, Batch
from rolltune.families import paligemma, paligemma_names
from rolltune.models import decoder, forward, vision
from rolltune.models.forward import Network
from rolltune.weights.checkpoint import open_checkpoint
from rolltune.weights.names import flatten, load_tree, nest, to_file
from rolltune.weights.npz import write_npz

pytest.importorskip("big_vision", reason="big_vision is not installed: ./bin/docker-build.sh cpu --big-vision has it")
ml_collections = pytest.importorskip("ml_collections")
SIZE, PATCH, IMAGE_TOKENS, TEXT, PROMPT, VOCAB = 56, 14, 16, 9, 4, 96
OURS = paligemma.Config(
    vision.Config(image_size=SIZE, patch=PATCH, width=32, layers=2, heads=4, mlp=48),
    decoder.Config(vocab=VOCAB, width=40, layers=3, heads=4, kv_heads=1, head_dim=16, mlp=64),
)

NET = Network(paligemma.FAMILY, OURS)


@pytest.fixture
def theirs(monkeypatch):
    """big_vision's model of the sizes of OURS; its table of Gemma's sizes has only the published ones."""
    from big_vision.models.ppp import gemma
    from big_vision.models.proj.paligemma import paligemma as reference

    text = OURS.text
    sizes = {
        **dict(variant="tiny", width=text.width, depth=text.layers, mlp_dim=text.mlp, num_heads=text.heads),
        **dict(num_kv_heads=text.kv_heads, head_dim=text.head_dim, norm_eps=1e-6, vocab_size=text.vocab),
        **dict(scan=True, remat_policy="nothing_saveable"),
    }
    monkeypatch.setattr(gemma, "get_config", lambda variant: ml_collections.ConfigDict(sizes))
    tower = OURS.vision
    image = {
        **dict(width=tower.width, depth=tower.layers, mlp_dim=tower.mlp, num_heads=tower.heads, scan=True),
        **dict(patch_size=(PATCH, PATCH), pool_type="none", head_zeroinit=False),
    }
    return reference.Model(llm={"variant": "tiny"}, img=image, llm_model="proj.paligemma.gemma_bv")


@pytest.fixture
def inputs():
    draw = np.random.default_rng(0)
    tokens = draw.integers(3, VOCAB, (2, TEXT)).astype(np.int32)
    pixels = draw.integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    rising = (np.arange(TEXT) >= PROMPT).astype(np.int32)
    return tokens, pixels, np.tile(rising, (2, 1))


def batch_of(tokens, pixels, rising) -> Batch:
    """The same rows as our batch: text token t predicts t + 1, from the last of the prompt on."""
    b, length = len(tokens), IMAGE_TOKENS + TEXT
    blocks = np.pad(np.cumsum(rising, 1), ((0, 0), (IMAGE_TOKENS, 0)))
    predict = np.arange(IMAGE_TOKENS + PROMPT - 1, length - 1)
    place = np.tile(np.arange(length), (b, 1))
    nothing = lambda *shape: np.zeros((b, *shape), np.int32)
    return Batch(
        tokens=np.pad(tokens, ((0, 0), (IMAGE_TOKENS, 0))),
        positions=place,
        blocks=blocks,
        segments=nothing(length),
        slots=np.where(place < IMAGE_TOKENS, place, -1),
        predict=np.tile(predict, (b, 1)),
        targets=tokens[:, PROMPT:],
        candidates=nothing(len(predict)),
        weights=np.ones((b, len(predict)), np.float32),
        label=nothing(),
        valid=np.ones(b, bool),
        keys=nothing(0),
        seen=nothing(0, 2),
        tiles=pixels[:, None],
        aspect=nothing(1),
    )


def test_logits_and_gradients_equal_those_of_big_vision(theirs, inputs, tmp_path):
    tokens, pixels, rising = inputs
    image = pixels.astype(np.float32) / 127.5 - 1
    start = theirs.init(jax.random.key(0), image, tokens, rising)["params"]
    names = {"params/" + name: np.asarray(leaf) for name, leaf in flatten(start).items()}
    draw = np.random.default_rng(1)  # their zeros and ones would hide a bias or a scale put in the wrong place
    names = {name: leaf + 0.05 * draw.standard_normal(leaf.shape).astype(np.float32) for name, leaf in names.items()}
    write_npz(tmp_path / "theirs.npz", names)

    lazy = open_checkpoint(tmp_path / "theirs.npz").tensors
    table = paligemma_names.rows_for(lazy, OURS)
    params = load_tree(lazy, table)
    batch = batch_of(tokens, pixels, rising)

    def our_loss(params):
        return -jnp.mean(forward.log_probs(NET, params, batch, NOTHING))

    def their_loss(params):
        logits, _ = theirs.apply({"params": params}, image, tokens, rising)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], -1)[..., 0]
        return -jnp.mean(chosen[:, PROMPT - 1 :])

    tree = nest((name.removeprefix("params/"), leaf) for name, leaf in names.items())
    logits, _ = theirs.apply({"params": tree}, image, tokens, rising)
    states = forward.hidden(NET, params, batch, NOTHING)[:, IMAGE_TOKENS:]
    np.testing.assert_allclose(forward.logits(NET, params, states), logits, atol=1e-4, rtol=1e-4)

    our_value, ours = jax.value_and_grad(our_loss)(params)
    their_value, gradients = jax.value_and_grad(their_loss)(tree)
    np.testing.assert_allclose(our_value, their_value, atol=1e-5)
    write_npz(tmp_path / "ours.npz", to_file(ours, table))  # in their names and shapes
    saved = np.load(tmp_path / "ours.npz")
    for name, expected in flatten(gradients).items():
        np.testing.assert_allclose(saved[name], expected, atol=1e-4, rtol=1e-3, err_msg=name)
