"""PaliGemma 1 and 2 beside their public references: stored answers of transformers 5.23 and of big_vision itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import Letters

from rolltune import base
from rolltune.batch import Batch, Source
from rolltune.families import paligemma, paligemma_names
from rolltune.models import forward, generate
from rolltune.models.forward import Network
from rolltune.training.step import StepConfig, targets_loss
from rolltune.weights.names import flatten, to_file

FAMILIES = ["paligemma1", "paligemma2", "paligemma2_sliding"]
LAYOUTS = ["hf_published", "hf", "hf_internal", "bv_f32.npz"]
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


@pytest.fixture
def load(oracle, monkeypatch, tmp_path):
    """`load("paligemma1/hf", rows)`: the model and its parameters, as a person's run opens it.

    The oracles come without a tokenizer; one of so many `rows` stands in. Hugging Face's files pad 288 rows to 320.
    """

    def opened(name: str, rows: int):
        stand_in = Letters()
        stand_in.size = rows
        monkeypatch.setattr(base.text, "load", lambda path: stand_in)
        monkeypatch.setattr(base.text, "check", lambda *given: None)
        monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path))
        return base.load(str(oracle(name)), tokenizer="any", dtype="float32")

    return opened


@pytest.fixture
def answers(oracle):
    def read(name: str) -> dict:
        with np.load(oracle(name)) as file:
            return dict(file)

    return read


def batch_of(images, tokens, rising, seen, targets) -> Batch:
    """Rows of one answer each, the first `images` tokens a picture's; `targets` [B, T], -1 where none is."""
    b, t = tokens.shape
    place = np.tile(np.arange(t, dtype=np.int32), (b, 1))
    nothing = lambda *shape, kind=np.int32: np.zeros((b, *shape), kind)
    return Batch(
        tokens=np.where(place < images, 0, tokens).astype(np.int32),
        positions=place,
        blocks=np.cumsum(rising * seen, 1).astype(np.int32),
        segments=np.where(seen == 1, 0, -1).astype(np.int32),
        slots=np.where(place < images, place + images * np.arange(b, dtype=np.int32)[:, None], -1),
        predict=place[:, :-1],
        targets=np.maximum(targets[:, 1:], 0).astype(np.int32),
        candidates=nothing(t - 1),
        weights=(targets[:, 1:] >= 0).astype(np.float32),
        label=nothing(),
        valid=np.ones(b, bool),
        keys=nothing(0),
        seen=nothing(0, 2),
        tiles=nothing(0, 1, 1, 3, kind=np.uint8),
        aspect=nothing(0),
    )


def hf_batch(told: dict) -> Batch:
    return batch_of(16, *(told[f"in/{n}"] for n in ("input_ids", "token_type_ids", "attention_mask", "labels")))


def hf_pixels(told: dict) -> np.ndarray:
    return (told["in/pixel_values"].transpose(0, 2, 3, 1) + 1) * 127.5


def rows_of(net: Network, params: dict, pixels) -> jax.Array:
    """Each picture's rows past the projector, [B, P, D]."""
    rows = forward.feature_rows(net, params, pixels[:, None], np.zeros((len(pixels), 1), np.int32))
    return paligemma.project(net.config, params, rows)


def source_of(rows: jax.Array) -> Source:
    return Source(rows.reshape(-1, rows.shape[-1]))


def network(config) -> Network:
    return Network(paligemma.FAMILY, config, projected=True)


@functools.partial(jax.jit, static_argnums=0)
def everything(config, params, batch, pixels):
    """(image features, logits, losses (token mean, example mean), gradients of both with a leading axis of 2)."""
    net = network(config)

    def losses(params):
        rows = rows_of(net, params, pixels)
        states = forward.hidden(net, params, batch, source_of(rows))
        lp = forward.log_probs(net, params, batch, source_of(rows))
        kinds = (StepConfig(net, {}, None, None, average=kind) for kind in ("token", "example"))
        sums = [targets_loss(kind, lp, batch) for kind in kinds]
        found = jnp.stack([loss / weight for loss, weight in sums])
        return found, (rows, forward.logits(net, params, states), found)

    gradients, (rows, logits, found) = jax.jacrev(losses, has_aux=True)(params)
    return rows, logits, found, gradients


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params, batch, pixels):
    net = network(config)
    source = source_of(rows_of(net, params, pixels))
    return forward.logits(net, params, forward.hidden(net, params, batch, source))


def in_file_names(tree: dict, rows: list) -> dict[str, np.ndarray]:
    """A tree of gradients in the names and shapes of a file."""
    pieces = to_file(jax.tree.map(np.asarray, tree), rows)
    return {name: np.concatenate(list(one.chunks())).reshape(one.shape) for name, one in pieces.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layouts_load_as_one_model(load, oracle, family):
    oracle(f"{family}/hf_published")
    models = {layout: load(f"{family}/{layout}", 288) for layout in LAYOUTS if oracle(f"{family}/{layout}")}
    first, params = models["hf_published"]
    assert (first.config.text.final_softcap, first.config.resize) == (None if family[-1] == "1" else 3.0, "bicubic")
    published = flatten(params)
    # What no shape in a npz says is as in the published models, and as big_vision trains them.
    softcap = 50.0 if first.config.text.attn_softcap else None
    unsaid = {"attn_softcap": softcap, "final_softcap": None, "sliding_window": None}
    text = dataclasses.replace(first.config.text, **unsaid)
    in_npz = dataclasses.replace(first.config, text=text, resize="bilinear")
    for layout, (model, params) in models.items():
        npz = layout.endswith("npz")
        assert model.config == (in_npz if npz else first.config), layout
        assert model.base.hash == first.base.hash  # the same weights are the same base, however they are stored
        for path, leaf in flatten(params).items():
            np.testing.assert_array_equal(leaf, published[path], err_msg=f"{layout} {path}")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_losses_and_gradients_equal_those_of_transformers(load, answers, family):
    (model, params), told = load(f"{family}/hf_published", 320), answers(f"{family}/expected.npz")
    batch, pixels = hf_batch(told), hf_pixels(told)
    features, logits, losses, gradients = everything(model.config, params, batch, pixels)
    seen = told["in/attention_mask"] == 1
    close(features, told["out/image_embeds"])
    close(np.asarray(logits)[seen], told["out/logits"][seen])
    close(losses, [told["out/loss"], told["out/loss_example_mean"]])
    rows = paligemma_names.hf_rows(model.config)
    for number, kind in enumerate(("grad", "grad_example_mean")):
        ours = in_file_names(jax.tree.map(lambda g, n=number: g[n], gradients), rows)
        names = [name for name in told if name.startswith(f"{kind}/")]
        assert len(names) == 13
        for name in names:
            np.testing.assert_allclose(
                ours[name.partition("/")[2]], told[name], rtol=1e-3, atol=1e-4 * np.abs(told[name]).max(), err_msg=name
            )
    if model.config.text.final_softcap:
        bare = dataclasses.replace(model.config, text=dataclasses.replace(model.config.text, final_softcap=None))
        logits = np.asarray(logits_of(bare, params, batch, pixels))
        close(logits[seen], told["out/logits_no_final_softcap"][seen])


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_equal_those_of_transformers(load, answers, family):
    (model, params), told = load(f"{family}/hf_published", 320), answers(f"{family}/expected.npz")
    batch, lengths = hf_batch(told), told["in/prefix_len"]
    prompts = np.arange(batch.tokens.shape[1]) < lengths[:, None]
    asked = batch._replace(blocks=0 * batch.blocks, segments=np.where(prompts, 0, -1))
    net = network(model.config)
    rows = rows_of(net, params, hf_pixels(told))
    found = jax.jit(lambda params, batch: generate.generate(net, params, batch, source_of(rows), 8, (1,)))(
        params, asked
    )
    np.testing.assert_array_equal(found, told["out/generated"])


def test_the_npz_answers_as_big_vision(load, answers):
    model, params = load("paligemma1/bv_f32.npz", 288)
    told, theirs = answers("paligemma1/expected.npz"), answers("paligemma1/big_vision_out.npz")
    pixels = (told["in/image_hwc"] + 1) * 127.5
    image = model.config.vision.patches
    left = lambda x, fill: np.pad(x, ((0, 0), (image, 0)), constant_values=fill)
    text, rising, lost, seen = (told[f"in/bv_{n}"] for n in ("text", "mask_ar", "mask_loss", "mask_input"))
    targets = left(np.where(lost == 1, text, -1), -1)
    # Padding is seen there, by the end of sequence only, which predicts nothing.
    batch = batch_of(image, left(text, 0), left(rising, 0), np.ones_like(left(seen, 1)), targets)
    features, logits, losses, gradients = everything(model.config, params, batch, pixels)
    close(features, theirs["out/zimg"])
    close(np.asarray(logits)[:, image:][seen == 1], theirs["out/text_logits"][seen == 1])
    close(losses[1], theirs["out/loss"])
    ours = in_file_names(jax.tree.map(lambda g: g[1], gradients), paligemma_names.npz_rows(model.config))
    for name in [name for name in theirs if name.startswith("grad/")]:
        np.testing.assert_allclose(ours[name[5:]], theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)
