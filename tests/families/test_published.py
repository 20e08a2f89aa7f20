"""Entries of config.json that several families have: their defaults, and what is refused at its edges."""

import math

import pytest

from rolltune.errors import UserError
from rolltune.families import paligemma_config, published
from rolltune.models import vision
from rolltune.models.attention import Rope

LABELS = {str(n): f"LABEL_{n}" for n in range(3)}


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        ({"0": "tie ", "1": "a", "2": "b"}, 3, ("tie", "a", "b")),
        ({"0": "tie", "1": "a"}, 0, ()),  # a model without a head has transformers' two labels all the same
        (None, 3, ()),
        (LABELS, 3, ()),  # the library's numbers, which name nothing
        (LABELS, 2, ()),
        ({**LABELS, "2": "b"}, 3, ("LABEL_0", "LABEL_1", "b")),
    ],
)
def test_the_outputs_of_a_head_have_the_names_that_a_person_gave(labels, classes, names):
    assert published.class_names({"id2label": labels}, classes, "config.json") == names


@pytest.mark.parametrize("labels", [{"0": "a", "1": " a"}, {"0": "a", "1": ""}, {"0": "a", "1": 7}, {"0": "a"}])
def test_names_that_name_no_class_once_are_refused(labels):
    with pytest.raises(UserError, match=r"config\.json: id2label is .* has 2 outputs: expected .* 0 to 1"):
        published.class_names({"id2label": labels}, 2, "config.json")


@pytest.mark.parametrize(
    ("entries", "kind", "window"),
    [
        ({}, "mistral", 4096),  # transformers' default
        ({"sliding_window": 8, "max_position_embeddings": 8}, "mistral", None),  # as far as there is text
        ({"sliding_window": 7, "max_position_embeddings": 8}, "mistral", 7),
        ({"sliding_window": None}, "mistral", None),
        ({"sliding_window": 8, "max_position_embeddings": 8}, "llama", None),
    ],
)
def test_all_layers_see_as_far_back_as_the_window(entries, kind, window):
    config = published.llama_text(entries, kind, "config.json")
    assert (config.sliding_window, config.all_slide) == (window, window is not None)
    with pytest.raises(UserError, match=r"config\.json: sliding_window is 7, shorter than .*\(8\)"):
        published.llama_text({"sliding_window": 7, "max_position_embeddings": 8}, "llama", "config.json")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, r"6 heads .* can't share 4 key heads"),
        ({"hidden_size": 96, "num_attention_heads": 32}, r"of 3 \(head_dim\)"),
        ({"hidden_size": 0}, "hidden_size is 0, expected a positive integer"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": 2**24 + 1}, "vocab_size is 16777217"),
        ({"num_hidden_layers": 1025}, "num_hidden_layers is 1025"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and only 'silu' is known"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0, expected a positive number"),
        ({"rope_scaling": {"type": "yarn"}}, "of type 'yarn'; known are"),
        ({"rope_scaling": {"type": "default", "factor": 2.0}}, "of type 'default' has factor"),
        ({"rope_scaling": 8}, "rope_scaling is 8, expected an object"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ],
)
def test_another_model_than_is_known_is_refused(entries, message):
    with pytest.raises(UserError, match=message):
        published.llama_text(entries, "llama", "config.json")
    edge = published.llama_text({"vocab_size": 2**24, "num_hidden_layers": 1024}, "llama", "config.json")
    assert (edge.vocab, edge.layers, edge.kv_heads, edge.head_dim) == (2**24, 1024, 32, 128)  # and the defaults


def test_rotations_are_read_where_they_stand():
    su = {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}
    both = {"max_position_embeddings": 4096, "original_max_position_embeddings": 1024}
    made = published.rope({**both, "rope_theta": 500.0, "rope_scaling": su}, 4, "config.json")
    stretched = math.sqrt(1 + math.log(4) / math.log(1024))
    assert made == Rope(500.0, "su", 1024, short=(1.0, 1.5), long=(2.0, 3.0), amplitude=stretched)
    alike = published.rope({**both, "max_position_embeddings": 1024, "rope_scaling": su}, 4, "config.json")
    assert alike.amplitude == 1.0 and alike.theta == 10000.0
    assert published.rope({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0}}, 4, "config.json") == Rope(7.0)
    for factor in ([1.0], [1.0, 1.5, 2.0], None):
        with pytest.raises(UserError, match=r"short_factor is .* expected a list of 2 numbers"):
            published.rope({**both, "rope_scaling": {**su, "short_factor": factor}}, 4, "config.json")


SIGLIP = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True}
CLIP = {"image_mean": list(vision.CLIP_MEAN), "image_std": list(vision.CLIP_STD)}
BOTH = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, "resample": 3}


@pytest.mark.parametrize(
    ("own", "allow"),
    [
        (SIGLIP, lambda entries: published.allow(entries, paligemma_config.PREPARED, "p.json")),
        (CLIP, lambda entries: published.clip_pictures(entries, "p.json")),
    ],
)
def test_pictures_are_prepared_as_they_are_here_or_refused(own, allow):
    entries = own | BOTH
    allow(entries)
    allow(entries | {"do_convert_rgb": None})
    allow({})
    for name, value in entries.items():
        other = not value if isinstance(value, bool) else [0.4] * 3 if isinstance(value, list) else 2
        with pytest.raises(UserError, match=rf"p\.json:\n  {name} is .*, and only"):
            allow(entries | {name: other})
