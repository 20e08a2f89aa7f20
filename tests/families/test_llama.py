"""Llama and Mistral beside transformers itself, where that and torch are installed: random sizes and weights."""

import json

import numpy as np
import pytest
from causal import answers, batch_of, check_gradients, close, everything, in_file_names, prompts

from rolltune.errors import UserError
from rolltune.families import llama
from rolltune.models.forward import Network
from rolltune.weights.hf import read_hf
from rolltune.weights.names import load_tree


@pytest.mark.parametrize("stretched", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("kind", "window"), [("llama", None), ("mistral", None), ("mistral", 7)])
def test_it_answers_as_transformers_does_at_random_sizes(tmp_path, kind, window, tied, stretched):
    """Rows are 40 tokens, more than the window, which answers that are written begin beyond, too."""
    torch = pytest.importorskip("torch", reason="torch is not installed: CONTRIBUTING.md says how")
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed")
    draw = np.random.default_rng()
    seed = int(draw.integers(1 << 16))
    print("seed", seed)  # shown where the test fails
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    sizes = dict(hidden_size=32, num_hidden_layers=2, vocab_size=96, num_attention_heads=int(draw.choice([2, 4])))
    sizes |= dict(intermediate_size=int(draw.integers(20, 60)), num_key_value_heads=int(draw.choice([1, 2])))
    rope = dict(rope_theta=500.0)
    if stretched:
        rope |= dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
        rope |= dict(original_max_position_embeddings=64)
    sizes |= {"sliding_window": window} if kind == "mistral" else {}
    made = {"llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig}[kind]
    entries = made(**sizes, rope_parameters=rope, tie_word_embeddings=tied, max_position_embeddings=512)
    theirs = transformers.AutoModelForCausalLM.from_config(entries, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "saved")

    family = {"llama": llama.FAMILY, "mistral": llama.MISTRAL}[kind]
    lazy = read_hf(tmp_path / "saved")
    config = family.config(json.loads((tmp_path / "saved/config.json").read_text()), {}, "config.json")
    table = family.tensors(config, lazy)
    params = load_tree(lazy, table, np.float32)
    assert ("head" in params["text"], config.text.rope.kind) == (not tied, "llama3" if stretched else "plain")
    assert (config.text.sliding_window, config.text.all_slide) == (window, window is not None)

    ids, seen = draw.integers(3, 96, (2, 40)), np.ones((2, 40), int)
    seen[1, 31:] = 0
    labels = np.where(seen == 1, ids, -100)
    labels[:, :20] = -100
    tensors = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(seen), labels=torch.tensor(labels))
    out = theirs(**tensors)
    out.loss.backward()
    batch, net = batch_of(ids, seen, labels), Network(family, config)
    logits, loss, gradients = everything(net, params, batch)
    close(logits[seen == 1], out.logits.detach().numpy()[seen == 1])
    close(loss, out.loss.item())
    expected = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    check_gradients(in_file_names(gradients, table), expected)

    with torch.no_grad():
        generated = theirs.generate(torch.tensor(ids[:, :20]), max_new_tokens=6, do_sample=False, eos_token_id=None)
    found = answers(net, params, prompts(batch, [20, 20]), 6)
    np.testing.assert_array_equal(found, generated[:, 20:])


def test_entries_that_are_left_out_have_the_library_s_defaults():
    config = llama.FAMILY.config({"model_type": "llama", "vocab_size": 32000}, {}, "config.json")
    text = config.text
    assert sum(np.prod(row.ours) for row in llama.FAMILY.tensors(config, ())) == 6_738_415_616  # Llama 2 7B
    assert (text.kv_heads, text.head_dim, text.norm_eps, text.rope.theta) == (32, 128, 1e-6, 10000.0)
    text = llama.MISTRAL.config({"model_type": "mistral", "sliding_window": None}, {}, "config.json").text
    assert (text.heads, text.kv_heads, text.mlp, text.sliding_window) == (32, 8, 14336, None)
    assert llama.MISTRAL.config({"model_type": "mistral"}, {}, "config.json").text.sliding_window == 4096  # of v0.1


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0"),
        ({"model_type": "llama", "sliding_window": 64, "max_position_embeddings": 128}, "sliding_window is 64"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias is True"),
        ({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "original_max"),
        ({"model_type": "llama", "num_key_value_heads": 5}, "num_key_value_heads"),
        ({"model_type": "llama", "vocab_size": "many"}, "vocab_size is 'many'"),
    ],
)
def test_another_model_is_refused_by_the_entry_that_makes_it_one(entries, named):
    with pytest.raises(UserError, match=rf"(?s)config.json.*{named}"):
        llama.FAMILY.config(entries, {}, "config.json")
