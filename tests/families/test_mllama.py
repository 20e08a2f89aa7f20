"""Llama 3.2 Vision beside what its references answered: Meta's way, and transformers' old and new ones."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal import answers, batch_of, check_gradients, everything, in_file_names
from PIL import Image

from rolltune import trees
from rolltune.batch import NOTHING, Source
from rolltune.data.examples import Turn
from rolltune.errors import UserError
from rolltune.families import mllama, mllama_vision
from rolltune.models import forward
from rolltune.models.forward import Network
from rolltune.text import tokenizer
from rolltune.text.encode import Picture, encode
from rolltune.weights.hf import read_hf
from rolltune.weights.names import flatten, load_tree

FAMILY = mllama.FAMILY
NORMALIZED = dataclasses.replace(FAMILY, normalize=lambda config, tiles, aspect: tiles)  # as the references' tiles are
VARIANTS = {  # what the files hold, and the switches that stand for it
    "meta": {},
    "hf_orig": {"empty_rows_attend": True},
    "hf5": {"empty_rows_attend": True, "kept_outputs": True},
}
PUBLISHED = {  # as of meta-llama/Llama-3.2-11B-Vision-Instruct
    "model_type": "mllama",
    "image_token_index": 128256,
    "text_config": {
        "model_type": "mllama_text_model",
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "dropout": 0,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "vocab_size": 128256,
    },
    "vision_config": {
        "model_type": "mllama_vision_model",
        "attention_heads": 16,
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "image_size": 560,
        "intermediate_layers_indices": [3, 7, 15, 23, 30],
        "intermediate_size": 5120,
        "max_num_tiles": 4,
        "norm_eps": 1e-05,
        "num_channels": 3,
        "num_global_layers": 8,
        "num_hidden_layers": 32,
        "patch_size": 14,
        "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        "vision_output_dim": 7680,
    },
    "preprocessor_config": {
        "do_pad": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_image_tiles": 4,
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 560, "width": 560},
    },
}


def load(folder):
    entries, lazy = json.loads((folder / "config.json").read_text()), read_hf(folder)
    config = FAMILY.config(entries, {name: tensor.shape for name, tensor in lazy.items()}, str(folder))
    return config, jax.tree.map(jnp.asarray, load_tree(lazy, FAMILY.tensors(config, lazy)))


@pytest.fixture
def model(oracle):
    return load(oracle("mllama/hf_published"))


@pytest.fixture
def told(oracle):
    return lambda variant: dict(np.load(oracle(f"mllama/expected_{variant}.npz")))


def network(config, empty_rows_attend=False, kept_outputs=False):
    text = dataclasses.replace(config.text, empty_rows_attend=empty_rows_attend)
    tower = dataclasses.replace(config.vision, kept_outputs=kept_outputs)
    return Network(NORMALIZED, dataclasses.replace(config, text=text, vision=tower))


def arranged(config, params, first=0):
    return trees.arrange(dict(params), config.stacks, first)


def batch_in(config, told):
    """The references' rows with their tiles, of which two pictures have room in each row."""
    batch = batch_of(*(told[f"in/{name}"] for name in ("input_ids", "attention_mask", "labels")))
    aspect, mask = told["in/aspect_ratio_ids"].astype(np.int32), told["in/cross_attention_mask"]
    keys, seen = zip(*(keys_of(config, *row) for row in zip(aspect, mask, strict=True)), strict=True)
    tiles = told["in/pixel_values"].reshape(len(aspect), 8, 3, 28, 28).transpose(0, 1, 3, 4, 2)
    return batch._replace(keys=np.stack(keys), seen=np.stack(seen), tiles=tiles, aspect=aspect)


def keys_of(config, aspect, mask):
    """One row's keys, and what each token sees of them. Those of tiles that no picture fills stand behind the others,
    seen by transformers' tokens that see no picture, or as padding."""
    filled = np.arange(4) < mllama_vision.FILLED[aspect][:, None]  # [I, 4]
    tiles = np.arange(filled.size * config.vision.patches, dtype=np.int32).reshape(*filled.shape, -1)
    unfilled = tiles[~filled].reshape(-1)
    keys = np.concatenate([tiles[filled].reshape(-1), unfilled if config.text.empty_rows_attend else 0 * unfilled - 1])
    seen = np.zeros((len(mask), 2), np.int32)
    for token, own in zip(seen, mask, strict=True):
        places = np.flatnonzero(np.isin(keys, tiles[own == 1]))
        assert (np.diff(places) == 1).all()
        if len(places):
            token[:] = places[0], places[-1] + 1
    return keys, seen


def of_row(batch, row):
    """That row alone, as one without a picture has it."""
    one = jax.tree.map(lambda x: x[row : row + 1], batch)
    return one._replace(keys=one.keys[:, :0], tiles=one.tiles[:, :0], aspect=one.aspect[:, :0])


def logits_of(net, params, batch, source=NOTHING):
    """Of all places, [B, T, V]."""
    run = jax.jit(lambda params, batch, source: forward.logits(net, params, forward.hidden(net, params, batch, source)))
    return np.asarray(run(params, batch, source))


close = lambda ours, theirs, atol=1e-5, name="": np.testing.assert_allclose(ours, theirs, 0, atol, err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_logits_loss_and_gradients_equal_the_references(model, told, variant):
    told, (config, params), net = told(variant), model, network(model[0], **VARIANTS[variant])
    batch = batch_in(net.config, told)
    rows = jax.jit(lambda params: forward.feature_rows(net, params, batch.tiles, batch.aspect))(params)
    for ours, name in ((rows, "vision_features"), (FAMILY.project(config, params, rows), "projected")):
        close(ours.reshape(told[f"out/{name}"].shape), told[f"out/{name}"], name=name)
    logits, loss, gradients = everything(net, arranged(config, params), batch)
    valid = batch.segments == 0
    close(logits[valid], told["out/logits"][valid])
    close(loss, told["out/loss"])
    text = dict(gradients["text"])
    layers = text.pop("layers")
    for stack, numbers in config.stacks.items():
        text[stack.removeprefix("text/")] = jax.tree.map(lambda *x: np.stack(x), *(layers[n] for n in numbers))
    expected = {name.removeprefix("grad/"): value for name, value in told.items() if name.startswith("grad/")}
    assert len(expected) == 19
    check_gradients(in_file_names(gradients | {"text": text}, FAMILY.tensors(config, ())), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_answers_equal_the_references(model, told, variant):
    told, (config, params), net = told(variant), model, network(model[0], **VARIANTS[variant])
    found = answers(net, arranged(config, params), batch_in(net.config, told), 8)
    np.testing.assert_array_equal(found, told["out/generated"])


def test_a_row_without_a_picture_does_not_depend_on_its_neighbours(model, told):
    (config, params), told, net = model, told("meta"), network(model[0])
    params = arranged(config, params)
    batch = batch_in(config, told)
    batch.keys[0], batch.seen[0], batch.aspect[0] = -1, 0, 0
    valid = batch.segments[0] == 0
    both = logits_of(net, params, batch)
    close(both[0][valid], logits_of(net, params, of_row(batch, 0))[0][valid], 1e-6)
    close(both[1], told["out/logits"][1])
    assert np.abs(both[0] - told["out/logits"][0])[valid].max() > 0.1
    np.testing.assert_array_equal(answers(net, params, batch, 4)[:1], answers(net, params, of_row(batch, 0), 4))


def test_text_alone_equals_the_references(model, told):
    (config, params), told, net = model, told("meta"), network(model[0])
    ids = np.full((2, 6), 9)  # what they were asked
    found = logits_of(net, arranged(config, params), batch_of(ids, ids == 9, ids))
    close(found, told["out/text_only_logits"])


@pytest.mark.parametrize("projected", [False, True])
def test_kept_rows_serve_as_the_tower_does(model, told, projected):
    """The rows of a table, its keys numbered through: of features, or of what the projector makes of them."""
    (config, params), told, net = model, told("meta"), network(model[0])
    batch = batch_in(config, told)
    rows = forward.feature_rows(net, params, batch.tiles, batch.aspect)
    table = FAMILY.project(config, params, rows) if projected else rows
    source = Source(table.reshape(-1, table.shape[-1]))
    of_table = np.where(batch.keys < 0, -1, batch.keys + np.arange(2)[:, None] * rows.shape[1])
    kept = batch._replace(keys=of_table, tiles=batch.tiles[:, :0])
    net = dataclasses.replace(net, projected=projected)
    found = logits_of(net, arranged(config, {**params, "vision": {}}), kept, source)
    valid = batch.segments == 0
    close(found[valid], told["out/logits"][valid])


@pytest.mark.parametrize("first", [2, 5])
def test_kept_states_of_lower_layers_serve_as_the_layers_do(model, told, first):
    """Below a layer with cross-attention, the table holds states for the slots and picture rows for the keys."""
    (config, params), told, net = model, told("meta"), network(model[0])
    batch, params = batch_in(config, told), arranged(config, params, first)
    states = forward.lower_states(net, params, batch, NOTHING)
    rows = FAMILY.project(config, params, forward.feature_rows(net, params, batch.tiles, batch.aspect))
    count = batch.tokens.size
    slots = np.arange(count, dtype=np.int32).reshape(batch.tokens.shape)
    keys = np.where(batch.keys < 0, -1, batch.keys + count + np.arange(2)[:, None] * rows.shape[1])
    source = Source(jnp.concatenate([x.reshape(-1, config.text.width) for x in (states, rows)]))
    kept = batch._replace(slots=slots, keys=keys, tiles=batch.tiles[:, :0])
    del params["text"]["lower"]
    found = logits_of(dataclasses.replace(net, projected=True, first=first), params, kept, source)
    valid = batch.segments == 0
    close(found[valid], told["out/logits"][valid])


def test_attention_in_parts_equals_attention_at_once(model, told, monkeypatch):
    (config, params), told = model, told("meta")
    batch = batch_in(config, told)

    def found():
        value = lambda p: jnp.sum(jnp.sin(mllama_vision.run(config.vision, p, batch.tiles, batch.aspect, "float32")))
        jaxpr = str(jax.make_jaxpr(jax.grad(value))(params["vision"]))
        return jaxpr.count("scan["), jax.jit(jax.value_and_grad(value))(params["vision"])

    scans, whole = found()
    monkeypatch.setattr(mllama_vision, "LOGITS_AT_ONCE", 1 << 14)
    more_scans, parts = found()
    assert more_scans > scans
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-3), whole, parts)


def test_what_a_picture_becomes(oracle):
    """Tiles, where they stand in the text and the keys, and normalized pixels as the original processor gives them."""
    config = FAMILY.config(PUBLISHED, {}, "config.json")
    pictures, made = np.load(oracle("preproc/images.npz")), np.load(oracle("preproc/hf_slow_4_45.npz"))
    for name, filled in (("wide", 1), ("huge", 4)):
        image = Image.fromarray(pictures[name])
        size, tiles = (image.height, image.width), FAMILY.picture(config, image)
        assert len(tiles.pixels) == FAMILY.tiles(config, size) == 4
        np.testing.assert_array_equal(FAMILY.keys(config, size), np.arange(filled * 1601))
        np.testing.assert_array_equal(FAMILY.slots(config, size), [-1])
        normalized = FAMILY.normalize(config, tiles.pixels[None], jnp.asarray([[tiles.aspect]]))
        expected = made[f"{name}/mllama/pixel_values"].transpose(0, 2, 3, 1)
        close(normalized[0], expected, 2e-3, name)  # float16
        assert not np.asarray(normalized[0, filled:]).any()
    assert not np.asarray(FAMILY.normalize(config, tiles.pixels[None], jnp.zeros((1, 1), jnp.int32))).any()


def test_all_layouts_load_as_one_model_and_go_out_as_published(oracle, model):
    config, params = model
    for layout in ("hf", "hf_internal"):
        other, tree = load(oracle(f"mllama/{layout}"))
        assert other == config
        for path, leaf in flatten(tree).items():
            np.testing.assert_array_equal(leaf, flatten(params)[path], err_msg=f"{layout} {path}")
    written, lazy = in_file_names(params, FAMILY.tensors(config, ())), read_hf(oracle("mllama/hf_published"))
    assert written.keys() == lazy.keys()
    for name, tensor in lazy.items():
        np.testing.assert_array_equal(written[name].reshape(-1), tensor.read(0, written[name].size), err_msg=name)


def test_the_published_config():
    config = FAMILY.config(PUBLISHED, {}, "config.json")
    table = FAMILY.tensors(config, ())
    assert sum(np.prod(row.ours) for row in table) == 10_670_220_835
    assert (config.vision.patches, FAMILY.feature_width(config), config.text.rope.factor) == (1601, 7680, 8)
    assert config.stacks["text/cross"] == (3, 8, 13, 18, 23, 28, 33, 38) and config.stacks["text/layers"][3] == 4
    by_path = {row.path: row for row in table}
    assert (config.text.vocab, by_path["text/head/kernel"].shape) == (128264, (4096, 128256))
    assert by_path["text/layers/attn/q/kernel"].name(3) == "language_model.model.layers.4.self_attn.q_proj.weight"
    assert by_path["text/cross/gate_mlp"].name(1) == "language_model.model.layers.8.cross_attn_mlp_gate"
    left_out = {"vocab_size", "cross_attention_layers", "rope_theta", "num_hidden_layers", "num_key_value_heads"}
    text = {name: value for name, value in PUBLISHED["text_config"].items() if name not in left_out}
    assert FAMILY.config({**PUBLISHED, "text_config": text}, {}, "config.json") == config
    other = FAMILY.config({**PUBLISHED, "text_config": text | {"rope_theta": 10000.0}}, {}, "config.json")
    assert (config.text.rope.theta, other.text.rope.theta) == (500000.0, 10000.0)


def test_its_tokenizer_is_known_as_its_own(shared):
    opened = tokenizer.load(shared("tokenizers/mllama_derived/tokenizer.json"))
    config = FAMILY.config(PUBLISHED, {}, "config.json")
    tokenizer.check(opened, config.text.vocab, FAMILY.special_ids, "the weights")
    turns = [Turn("user", "What is this?")]
    pictures = [
        Picture(name, FAMILY.slots(config, size), FAMILY.keys(config, size), 4 * FAMILY.tile_rows(config))
        for name, size in (("wide", (300, 1000)), ("small", (300, 500)))
    ]
    row = encode(FAMILY.template, opened, FAMILY.learned_count, turns, ["A cat"], pictures)
    first, second = np.flatnonzero(row.tokens == 128256)
    np.testing.assert_array_equal(row.keys, [*range(2 * 1601), *range(4 * 1601, 5 * 1601)])
    assert not row.seen[:first].any() and second == first + 1
    np.testing.assert_array_equal(row.seen[first], (0, 2 * 1601))
    np.testing.assert_array_equal(np.unique(row.seen[second:], axis=0), [(0, 3 * 1601)])


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("", "image_token_index", 128000),
        ("", "vision_config", None),
        ("text_config", "tie_word_embeddings", True),
        ("text_config", "dropout", 0.1),
        ("text_config", "hidden_act", "gelu"),
        ("text_config", "cross_attention_layers", [8, 3]),
        ("text_config", "cross_attention_layers", [40]),
        ("vision_config", "hidden_act", "quick_gelu"),
        ("vision_config", "intermediate_layers_indices", [3, 32]),
        ("vision_config", "vision_output_dim", 6400),
        ("vision_config", "max_num_tiles", 6),
        ("vision_config", "supported_aspect_ratios", [[1, 1]]),
        ("vision_config", "image_size", [560, 560]),
        ("vision_config", "patch_size", 13),
        ("preprocessor_config", "size", {"height": 448, "width": 448}),
        ("preprocessor_config", "image_std", [0.5, 0.5, 0.5]),
    ],
)
def test_another_model_is_refused_by_the_entry_that_makes_it_one(part, name, value):
    entries = json.loads(json.dumps(PUBLISHED))
    (entries[part] if part else entries)[name] = value
    with pytest.raises(UserError, match=rf"config.json: (?s:.*){part}(?s:.*){name}"):
        FAMILY.config(entries, {}, "config.json")
