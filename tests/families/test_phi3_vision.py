"""Phi-3-vision beside stored answers of its published code (in transformers 5.23, which was compared with that)."""

import dataclasses
import json
import math

import numpy as np
import pytest
from causal import answers, batch_of, check_gradients, close, everything, in_0_to_255, in_file_names, prompts, tiles_of

from rolltune.errors import UserError
from rolltune.families import phi3_vision
from rolltune.models import forward
from rolltune.models.forward import Network
from rolltune.text import tokenizer as text
from rolltune.weights.checkpoint import open_checkpoint
from rolltune.weights.hf import read_hf
from rolltune.weights.names import load_tree

FAMILY = phi3_vision.FAMILY
GROUPS = ((0,), (1, 2))  # the pictures of each row


@pytest.fixture
def entries(oracle):
    """The oracle's config.json. Its tower is tiny, which the published one has no entry for."""
    found = json.loads((oracle("phi3v/hf") / "config.json").read_text())
    return {**found, "vision_config": found["tiny_clip_vision_config"]}


@pytest.fixture
def model(oracle, entries):
    lazy = read_hf(oracle("phi3v/hf"))
    config = FAMILY.config(entries, {}, "config.json")
    return config, load_tree(lazy, FAMILY.tensors(config, lazy), np.float32)


@pytest.fixture
def told(oracle):
    with np.load(oracle("phi3v/expected.npz")) as file:
        return dict(file)


def batch_in(config, told):
    """The oracle's rows: one picture, and two in a row with text between. Sizes are those of the padded canvases."""
    pixels, slots = in_0_to_255(told["in/pixel_values"]), []
    kept, rows = [], config.grid**2
    for height, width in told["in/image_sizes"].tolist():
        crops = height * width // config.vision.image_size**2
        own = dataclasses.replace(config, num_crops=crops)  # then the canvas is its own
        slots.append(phi3_vision.slots(own, (height, width)))
        kept.append(pixels[len(kept), : phi3_vision.tile_count(own, (height, width))])
    assert list(map(len, slots)) == told["in/num_image_tokens"].tolist()
    tiles, placed = [], []
    for group in GROUPS:
        tiles.append(np.concatenate([kept[picture] for picture in group]))
        before, parts = 0, []
        for picture in group:  # rows of a second picture follow the first one's, learned vectors are the same
            parts.append(np.where(slots[picture] >= 2, slots[picture] + before, slots[picture]))
            before += len(kept[picture]) * rows
        placed.append(np.concatenate(parts))
    return batch_of(told["in/input_ids"], told["in/attention_mask"], told["in/labels"], placed, tiles_of(tiles))


def changing_at(config, length):
    rope = dataclasses.replace(config.text.rope, original_max=length)
    return dataclasses.replace(config, text=dataclasses.replace(config.text, rope=rope))


def test_what_stands_for_a_picture_equals_the_original(model, told):
    config, params = model
    batch, net = batch_in(config, told), Network(FAMILY, config)
    rows = forward.PictureRows(forward.feature_rows(net, params, batch.tiles, batch.aspect), True, False)
    embedded = np.asarray(forward.embed(net, params, batch, rows))
    picture = told["in/input_ids"]
    for row, group in enumerate(GROUPS):
        expected = np.concatenate([told[f"out/image_embeds_{picture}"] for picture in group])
        close(embedded[row][picture[row] < 0], expected)


def test_logits_loss_and_gradients_equal_the_original_with_long_factors(model, told):
    # The original chooses by the longest row of a call: here every row is to be a long one.
    config, params = model
    batch, net = batch_in(config, told), Network(FAMILY, changing_at(config, 8))
    logits, loss, gradients = everything(net, params, batch)
    seen = told["in/attention_mask"] == 1
    close(logits[seen], told["out/logits"][seen])
    close(loss, told["out/loss"])
    expected = {name[5:]: value for name, value in told.items() if name.startswith("grad/")}
    check_gradients(in_file_names(gradients, FAMILY.tensors(config, ())), expected)


def test_a_short_row_has_short_factors_whatever_its_neighbours_are(model, told):
    config, params = model
    batch, length = batch_in(config, told), told["out/logits_row0_short_factor"].shape[1]
    assert config.text.rope.original_max == 48 < batch.tokens.shape[1]
    logits, *_ = everything(Network(FAMILY, config), params, batch)
    close(logits[0, :length], told["out/logits_row0_short_factor"][0])
    assert np.abs(logits[0, :length] - told["out/logits"][0, :length]).max() > 0.01
    close(logits[1], told["out/logits"][1])


def test_greedy_answers_equal_the_original(model, told):
    config, params = model
    length = int(told["in/prompt_len_row0"])
    asked = prompts(batch_in(config, told), [length, length])
    found = answers(Network(FAMILY, config), params, asked, 8)
    np.testing.assert_array_equal(found[0], told["out/generated_row0"])


def test_it_goes_out_as_it_came_in(oracle, model):
    config, params = model
    written, lazy = in_file_names(params, FAMILY.tensors(config, ())), read_hf(oracle("phi3v/hf"))
    assert written.keys() == lazy.keys()
    for name, tensor in lazy.items():
        assert written[name].shape == tensor.shape
        np.testing.assert_array_equal(written[name].reshape(-1), tensor.read(0, written[name].size), err_msg=name)


def test_the_published_config_is_read_whole(oracle):
    entries = json.loads(oracle("phi3v/phi35_vision_config.json").read_text())
    config = FAMILY.config(entries, {}, "config.json")
    assert sum(np.prod(row.ours) for row in FAMILY.tensors(config, ())) == 4_146_621_440
    rope = config.text.rope
    assert (rope.kind, rope.original_max, len(rope.short), rope.long[-1]) == ("su", 4096, 48, 64.83999633789062)
    assert math.isclose(rope.amplitude, 1.1902380714, rel_tol=1e-9)
    assert (config.num_crops, config.grid, config.feature_width) == (4, 12, 4096)


def test_the_number_of_crops_is_that_of_the_folder(oracle, entries, tmp_path):
    (tmp_path / "model.safetensors").symlink_to(oracle("phi3v/hf") / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(entries))
    read = lambda: FAMILY.config(open_checkpoint(tmp_path).config, {}, "config.json").num_crops
    assert read() == 4
    (tmp_path / "preprocessor_config.json").write_text(
        '{"num_crops": 16, "image_mean": [0.48145466, 0.4578275, 0.40821073]}'
    )
    assert read() == 16


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("", "hidden_act", "gelu"),
        ("", "sliding_window", 100),
        ("", "tie_word_embeddings", True),
        ("", "resid_pdrop", 0.1),
        ("embd_layer", "hd_transform_order", "glb_sub"),
        ("img_processor", "layer_idx", -1),
        ("rope_scaling", "long_factor", [1.0]),
        ("rope_scaling", "type", "yarn"),
        ("rope_scaling", "short_mscale", 1.2),
    ],
)
def test_another_model_is_refused_by_the_entry_that_makes_it_one(entries, part, name, value):
    if part:
        entries[part] = {**entries[part], name: value}
    else:
        entries[name] = value
    with pytest.raises(UserError, match=rf"(?s)config.json:.*{part}.*{name}"):
        FAMILY.config(entries, {}, "config.json")


def test_the_published_tokenizer_is_known(shared):
    opened = text.load(shared("tokenizers/phi3_vision/tokenizer.json"))
    text.check(opened, 32064, FAMILY.special_ids, "the weights")
