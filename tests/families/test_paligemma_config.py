"""PaliGemma's config.json: entries that change the numbers are read, or their values refused."""

import copy
import json

import pytest

from rolltune.errors import UserError
from rolltune.families import catalogue, paligemma, paligemma_config
from rolltune.models.attention import Rope

CONFIG1 = {
    "model_type": "paligemma",
    "text_config": {
        "model_type": "gemma", "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 1, "intermediate_size": 80, "vocab_size": 320, "head_dim": 16,
    },
    "vision_config": {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 52,
        "image_size": 56, "patch_size": 14,
    },
}  # fmt: skip
CONFIG2 = copy.deepcopy(CONFIG1)
CONFIG2["text_config"]["model_type"] = "gemma2"
TURNS = ["sliding_attention", "full_attention"] * 2
FULL = ["full_attention"] * 4


def read(config: dict, **entries) -> paligemma.Config:
    """Entries are named by their place: text_rope_theta, vision_hidden_act, preprocessor_resample."""
    config = copy.deepcopy(config)
    for name, value in entries.items():
        part, _, entry = name.partition("_")
        config.setdefault(f"{part}_config", {})[entry] = value
    return paligemma.read_config(config, {}, "config.json")


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_entries_that_are_read(kind):
    config = CONFIG1 if kind == "gemma" else CONFIG2
    assert read(config, vision_layer_norm_eps=1e-5).vision.norm_eps == 1e-5
    assert read(config, text_rms_norm_eps=1e-5).text.norm_eps == 1e-5
    for entries in (
        {"text_rope_theta": 5e5},
        {"text_rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"text_rope_theta": 1.0, "text_rope_parameters": {"rope_theta": 5e5}},
    ):
        assert read(config, **entries).text.rope == Rope(5e5)
    scaled = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    stretched = read(config, text_rope_scaling=scaled | {"original_max_position_embeddings": 64})
    assert stretched.text.rope == Rope(1e4, "llama3", 64, 2.0, 1.0, 4.0)
    assert read(config, text_hidden_activation=None, text_attention_bias=False, vision_num_channels=3) == read(config)


def test_entries_of_paligemma_2_that_are_read():
    assert read(CONFIG2).text.sliding_window == 4096
    assert read(CONFIG2, text_sliding_window=8, text_layer_types=TURNS).text.sliding_window == 8
    assert read(CONFIG2, text_sliding_window=8, text_layer_types=FULL).text.sliding_window is None
    assert read(CONFIG2, text_sliding_window=None).text.sliding_window is None
    assert read(CONFIG2, text_attn_logit_softcapping=None, text_final_logit_softcapping=7).text.final_softcap == 7
    assert read(CONFIG2, text_attn_logit_softcapping=None).text.attn_softcap is None
    assert read(CONFIG2, text_query_pre_attn_scalar=64).text.query_scale == 1 / 8
    assert read(CONFIG1, text_hidden_act="gelu", text_layer_types=FULL) == read(CONFIG1)


def test_what_all_published_ones_share_is_said_by_none_of_their_sizes():
    for name, config in paligemma.CONFIGS.items():
        text, later = config.text, name.startswith("paligemma2")
        assert text.norm_eps == config.vision.norm_eps == 1e-6 and text.rope == Rope(1e4) and text.norm == "gemma", name
        assert text.scaled_embedding and not text.all_slide and text.post_norms == later, name
        assert text.attn_softcap == (50 if later else None), name
    assert read(CONFIG1).text.norm_eps == read(CONFIG1).vision.norm_eps == 1e-6


REFUSED = {
    "text_hidden_activation": ("gelu", "silu", ["gelu_pytorch_tanh"]),
    "text_hidden_act": ("silu", "relu"),
    "text_attention_bias": (True,),
    "text_use_bidirectional_attention": (False,),
    "text_layer_types": (["sliding_attention"] * 4, TURNS[::-1], FULL[:3], "full_attention", {}),
    "text_rope_parameters": (
        {"rope_type": "yarn"}, {"full_attention": {"rope_theta": 1e4}}, {"rope_theta": 0}, [1],
        {"partial_rotary_factor": 0.5},
    ),
    "text_rope_scaling": ({"type": "linear", "factor": 2.0}, "linear"),
    "text_rms_norm_eps": (0, "small", None),
    "text_rope_theta": (-1, 10**400, True),
    "text_head_dim": (15, 0, 16.0),
    "text_num_key_value_heads": (3, True),
    "text_num_hidden_layers": (2**70, 100_000),
    "vision_hidden_act": ("gelu", "quick_gelu"),
    "vision_layer_norm_eps": (-1e-6, "1e-6"),
    "vision_num_channels": (1,),
    "vision_num_attention_heads": (5,),
    "vision_image_size": ("56", [56]),
    "preprocessor_resample": (2, "bicubic"),
    "preprocessor_image_mean": ([0.48, 0.45, 0.4],),
    "preprocessor_do_normalize": (False,),
    "preprocessor_size": ({"height": 28, "width": 28}, 56),
}  # fmt: skip


@pytest.mark.parametrize("entry", REFUSED)
def test_entries_whose_value_is_refused(entry):
    for value in REFUSED[entry]:
        for config in (CONFIG1, CONFIG2):
            with pytest.raises(UserError, match=r"config\.json: (text|vision|preprocessor)_config"):
                read(config, **{entry: value})
    if entry != "text_rope_parameters":
        with pytest.raises(UserError, match=entry.partition("_")[2].removesuffix("_scaling")):
            read(CONFIG2, **{entry: REFUSED[entry][0]})


def test_what_is_written_is_read_back():
    for config in (CONFIG1, CONFIG2):
        for entries in ({}, {"text_sliding_window": None, "text_rms_norm_eps": 1e-5, "vision_layer_norm_eps": 1e-5}):
            made = read(config, **entries)
            assert paligemma.read_config(paligemma_config.hf_config(made), {}, "config.json") == made
    scaled = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    made = read(CONFIG1, text_rope_scaling=scaled | {"original_max_position_embeddings": 64})
    with pytest.raises(UserError, match="of kind 'llama3' can't be written"):
        paligemma_config.hf_config(made)


ODD = (None, True, -1, 2**70, 10**400, 0.5, float("nan"), "x", "\ud83d", [], [[]], {}, {"a": []})


@pytest.mark.parametrize(
    "place",
    [
        "paligemma1/hf_published/config.json",
        "paligemma2/hf_published/config.json",
        "llava_next/hf_published/config.json",
        "mllama/hf_published/config.json",
        "phi3v/phi35_vision_config.json",
    ],
)
def test_a_config_of_odd_values_is_advice_or_a_config(oracle, place):
    good = json.loads(oracle(place).read_text())
    family = next(one for one in catalogue.FAMILIES if good["model_type"] in one.model_types)
    family.config(good, {}, "config.json")
    names = [(None, name) for name in good]
    names += [(part, name) for part, inner in good.items() if isinstance(inner, dict) for name in inner]
    for part, name in names:
        for odd in ODD:
            config = copy.deepcopy(good)
            (config if part is None else config[part])[name] = odd
            try:
                family.config(config, {}, "config.json")
            except UserError as error:
                assert "config.json" in str(error), (part, name, odd)
