"""Gemma 2 beside stored answers of transformers 5.23, and beside transformers itself where that is installed."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal import answers, batch_of, check_gradients, close, everything, in_file_names, prompts

from rolltune.batch import NOTHING
from rolltune.errors import UserError
from rolltune.families import gemma2
from rolltune.models import decoder, forward
from rolltune.models.forward import Network
from rolltune.weights.hf import read_hf
from rolltune.weights.names import flatten, load_tree

FAMILY = gemma2.FAMILY


def load(folder):
    entries = json.loads((folder / "config.json").read_text())
    lazy = read_hf(folder)
    config = FAMILY.config(entries, {name: tensor.shape for name, tensor in lazy.items()}, str(folder))
    return config, load_tree(lazy, FAMILY.tensors(config, lazy), np.float32)


def without_head(params):
    """The language model that a classifier was made of."""
    return params | {"text": {name: part for name, part in params["text"].items() if name != "classes"}}


@pytest.fixture
def model(oracle):
    return load(oracle("gemma2_cls/hf_published"))


@pytest.fixture
def told(oracle):
    with np.load(oracle("gemma2_cls/expected.npz")) as file:
        return dict(file)


def last_tokens(ids, seen, labels):
    """A batch that asks the last real token of each row for its class; rows may be padded on either side."""
    batch = batch_of(ids, seen, np.full_like(ids, -100))
    last = (np.arange(ids.shape[1]) * seen).argmax(1)[:, None]
    return batch._replace(
        predict=last.astype(np.int32),
        targets=labels[:, None].astype(np.int32),
        candidates=np.zeros_like(last, np.int32),
        weights=np.ones(last.shape, np.float32),
    )


def classified(net, params, batch):
    """(logits of the classes, mean loss, its gradients)."""

    def loss(params):
        states = forward.hidden(net, params, batch, NOTHING, at=batch.predict)
        found = decoder.target_log_probs(net.text, params["text"], states, batch.targets)
        return -jnp.mean(found), forward.logits(net, params, states)[:, 0]

    (mean, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return np.asarray(logits), float(mean), gradients


def test_all_layouts_load_as_one_model_and_go_out_as_published(oracle, model, tmp_path):
    config, params = model
    for layout in ("hf", "hf_internal"):
        other, tree = load(oracle(f"gemma2_cls/{layout}"))
        assert other == config
        for path, leaf in flatten(tree).items():
            np.testing.assert_array_equal(leaf, flatten(params)[path], err_msg=f"{layout} {path}")
    written, lazy = in_file_names(params, FAMILY.tensors(config, ())), read_hf(oracle("gemma2_cls/hf_published"))
    assert written.keys() == lazy.keys()
    for name, tensor in lazy.items():
        np.testing.assert_array_equal(written[name].reshape(-1), tensor.read(0, written[name].size), err_msg=name)


def test_classes_and_their_gradients_equal_those_of_transformers(model, told):
    config, params = model
    batch = last_tokens(told["in/input_ids"], told["in/attention_mask"], told["in/labels"])
    logits, loss, gradients = classified(Network(FAMILY, config), params, batch)
    close(logits, told["out/logits"])
    close(loss, told["out/loss"])
    expected = {name[5:]: value for name, value in told.items() if name.startswith("grad/")}
    found = in_file_names(gradients, FAMILY.tensors(config, ()))
    found["model.embed_tokens.weight"][0] = 0  # transformers gives the padding token's row none
    check_gradients(found, expected)


def test_the_language_model_below_the_head_equals_that_of_transformers(model, told):
    config, params = model
    net, ids = Network(FAMILY, config), told["in/lm_input_ids"]
    batch = batch_of(ids, np.ones_like(ids), ids)
    logits, loss, _ = everything(net, without_head(params), batch)
    close(logits, told["out/lm_logits"])
    close(loss, told["out/lm_loss"])
    found = answers(net, without_head(params), prompts(batch, [ids.shape[1]]), 8)
    np.testing.assert_array_equal(found, told["out/lm_generated"])


def test_the_published_configs_have_the_published_sizes():
    """Of google/gemma-2-9b, whose files have both names of the window."""
    entries = dict(model_type="gemma2", hidden_size=3584, num_hidden_layers=42, num_attention_heads=16)
    entries |= dict(num_key_value_heads=8, head_dim=256, intermediate_size=14336, query_pre_attn_scalar=256)
    entries |= dict(attn_logit_softcapping=50.0, final_logit_softcapping=30.0, rope_theta=10000.0, vocab_size=256000)
    entries |= dict(sliding_window=4096, sliding_window_size=4096, hidden_act="gelu_pytorch_tanh")
    config = FAMILY.config(entries, {"score.weight": (3, 3584)}, "config.json")
    assert sum(np.prod(row.ours) for row in FAMILY.tensors(config)) == 9_241_716_736
    second = FAMILY.config({"model_type": "gemma2"}, {}, "config.json")  # all that the 2B model has is default
    assert sum(np.prod(row.ours) for row in FAMILY.tensors(second)) == 2_614_341_888
    text = dict(attn_softcap=50.0, final_softcap=30.0, sliding_window=4096, query_scale=1 / 16, norm_eps=1e-6)
    assert {name: getattr(second.text, name) for name in text} == text


def test_caps_and_windows_may_be_none():
    entries = {"model_type": "gemma2", "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    entries |= {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    text = FAMILY.config(entries, {}, "config.json").text
    assert (text.attn_softcap, text.final_softcap, text.sliding_window) == (None, None, None)
    assert FAMILY.config({"sliding_window": None}, {}, "config.json").text.sliding_window is None


def test_queries_are_scaled_by_their_own_entry_and_not_by_the_width_of_a_head():
    scale = lambda **entries: FAMILY.config({"head_dim": 64, **entries}, {}, "config.json").text.attn_scale
    assert scale() == 1 / 16 and scale(query_pre_attn_scalar=144) == 1 / 12


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"problem_type": "regression"}, "problem_type is 'regression'"),
        ({"attn_logit_softcapping": -5}, "attn_logit_softcapping is -5"),
        ({"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
        ({"sliding_window": 8, "sliding_window_size": 4}, "sliding_window_size is 4"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"query_pre_attn_scalar": "many"}, "query_pre_attn_scalar is 'many'"),
    ],
)
def test_another_model_is_refused_by_the_entry_that_makes_it_one(entries, named):
    with pytest.raises(UserError, match=rf"(?s)config.json.*{named}"):
        FAMILY.config({"model_type": "gemma2", **entries}, {}, "config.json")


def test_it_answers_as_transformers_does_at_random_sizes(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: CONTRIBUTING.md says how")
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed")
    draw = np.random.default_rng()
    seed = int(draw.integers(1 << 16))
    print("seed", seed)  # shown where the test fails
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    classes = int(draw.integers(2, 6))
    entries = transformers.Gemma2Config(
        hidden_size=32, num_hidden_layers=int(draw.integers(2, 5)), vocab_size=96, num_attention_heads=4,
        num_key_value_heads=int(draw.choice([1, 2, 4])), head_dim=int(draw.choice([8, 12])),
        intermediate_size=int(draw.integers(20, 60)), sliding_window=int(draw.integers(3, 30)),
        query_pre_attn_scalar=int(draw.integers(5, 30)), attn_logit_softcapping=float(draw.choice([2.0, 20.0])),
        final_logit_softcapping=float(draw.choice([2.0, 20.0])), num_labels=classes, attn_implementation="eager",
    )  # fmt: skip

    def made(kind):
        theirs = kind(entries).float().eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        theirs.save_pretrained(tmp_path / "saved")
        return theirs, *load(tmp_path / "saved")

    def check(found, theirs, out, config):
        out.loss.backward()
        expected = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
        found = in_file_names(found, FAMILY.tensors(config, ()))
        if "score.weight" in expected:  # the padding token has no gradient there, but through a tied head
            found["model.embed_tokens.weight"][0] = 0
        check_gradients(found, expected)

    ids, seen = draw.integers(3, 96, (2, 40)), np.ones((2, 40), int)
    seen[1, 31:] = 0
    ids[seen == 0] = 0
    theirs, config, params = made(transformers.Gemma2ForCausalLM)
    assert config.classes == 0
    labels = np.where(seen == 1, ids, -100)
    labels[:, :20] = -100
    out = theirs(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(seen), labels=torch.tensor(labels)
    )  # fmt: skip
    batch, net = batch_of(ids, seen, labels), Network(FAMILY, config)
    logits, loss, gradients = everything(net, params, batch)
    close(logits[seen == 1], out.logits.detach().numpy()[seen == 1])
    close(loss, out.loss.item())
    check(gradients, theirs, out, config)
    with torch.no_grad():
        generated = theirs.generate(torch.tensor(ids[:, :20]), max_new_tokens=6, do_sample=False, eos_token_id=None)
    np.testing.assert_array_equal(answers(net, params, prompts(batch, [20, 20]), 6), generated[:, 20:])

    theirs, config, params = made(transformers.Gemma2ForSequenceClassification)
    assert config.classes == classes
    right = draw.integers(0, classes, 2)
    out = theirs(input_ids=torch.tensor(ids), attention_mask=torch.tensor(seen), labels=torch.tensor(right))
    logits, loss, gradients = classified(Network(FAMILY, config), params, last_tokens(ids, seen, right))
    close(logits, out.logits.detach().numpy())
    close(loss, out.loss.item())
    check(gradients, theirs, out, config)
