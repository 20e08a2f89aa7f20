"""The benchmark of learning: what guessing gets, what seeds give, and that a GGUF file's model comes out as it was."""

import importlib.util
import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from rolltune import base
from rolltune.text import templates, tokenizer
from rolltune.weights.hf import write_hf

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def opened(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def learning():
    return opened("learning")


@pytest.fixture(scope="module")
def from_gguf():
    return opened("from_gguf")


def test_guessing_is_the_commonest_answer_of_the_training_rows_and_their_shares(learning):
    found = learning.guessing(["a"] * 6 + ["b"] * 2, ["a", "b", "b", "c"])
    assert found["majority"] == 1 / 4
    assert found["base-rate"] == pytest.approx(-(math.log(6 / 8) + 2 * math.log(2 / 8) + math.log(1 / 8)) / 4)


def test_a_mean_has_the_interval_of_student_s_t(learning):
    assert learning.mean_text([0.5, None]) == "0.5" and learning.mean_text([None]) == ""
    assert learning.mean_text([0.4, 0.6]) == "0.500 (-0.771 to 1.771)"  # 0.1 * 12.706 each way
    roll = lambda seed, figure: {"seed": seed, "test": {"accuracy": figure}}
    plain, more = {"rolls": [roll(0, 0.5), roll(1, 0.6)]}, {"rolls": [roll(1, 0.7), roll(0, 0.6), roll(2, 0.0)]}
    assert learning.gain(plain, more, "accuracy") == "0.100 (0.100 to 0.100)"


def test_what_belongs_together_stays_together(learning, tmp_path):
    rows = [{"prefix": "q", "suffix": "true", "images": [f"dev/boxes/dev-12-{n}-0-box0.png"]} for n in (0, 3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    joined = learning.joined([tmp_path / "a.jsonl"], "files/nlvr1", learning.sentence)
    assert [row["group"] for row in joined] == ["dev-12"] * 2
    assert joined[1]["images"] == ["files/nlvr1/dev/boxes/dev-12-3-0-box0.png"]
    assert learning.question({"prefix": "Which?\n\nPrompt:\nx\n\nAnswer A:\ny"}) == "Which?\n\nPrompt:\nx"


def test_rows_of_queries_come_back_into_transformers_order(from_gguf):
    matrix = np.arange(24 * 5).reshape(24, 5)
    for heads in (1, 3):  # as llama.cpp's convert_hf_to_gguf.py mixes them
        mixed = matrix.reshape(heads, 2, -1, 5).swapaxes(1, 2).reshape(matrix.shape)
        np.testing.assert_array_equal(from_gguf.halves_apart(mixed, heads), matrix)


def test_a_model_out_of_a_gguf_file_loads_and_is_asked_in_its_own_format(from_gguf, tmp_path):
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names = [*specials, *BYTES, "ab", "Ġa"]
    entries = {
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.embedding_length": 8,
        "llama.feed_forward_length": 12,
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
        "llama.rope.freq_base": 1e5,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.merges": ["a b", "Ġ a"],
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(names) - 3),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
    }
    shapes = {"attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8), "attn_output": (8, 8), "ffn_gate": (12, 8)}
    shapes |= {"ffn_up": (12, 8), "ffn_down": (8, 12), "attn_norm": (8,), "ffn_norm": (8,)}
    held = {f"blk.0.{part}.weight": shape for part, shape in shapes.items()}
    held |= {"token_embd.weight": (len(names), 8), "output_norm.weight": (8,)}
    tensors = {from_gguf.published_name(name): np.ones(shape, ml_dtypes.bfloat16) for name, shape in held.items()}
    write_hf(tmp_path / "made", tensors, from_gguf.config_of(entries, tied=True))
    from_gguf.write_tokenizer(tmp_path / "made", entries)
    model, params = base.load(str(tmp_path / "made"), dtype="float32")
    assert model.family.template is templates.CHATML and model.config.text.norm_eps == 1e-5
    assert params["text"]["embed"]["embedding"].shape == (len(names), 8)
    opened = tokenizer.load(tmp_path / "made/tokenizer.json")
    assert (opened.bos, opened.eos, opened.special("<|endoftext|>")) == (1, 2, 0)
    said = opened.encode("ab a 12é <|im_end|>")
    assert said[:2] == [names.index("ab"), names.index("Ġa")] and not {0, 1, 2} & set(said)
    assert opened.decode(said) == "ab a 12é <|im_end|>"
    assert sum(names[number] in "12" for number in said) == 2  # a digit is a token of its own
