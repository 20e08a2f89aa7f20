"""PaliGemma beside transformers itself, where that and torch are installed: random sizes and weights every time."""

import jax
import numpy as np
import pytest
from small_model import Letters
from test_paligemma import batch_of, everything, in_file_names, network, rows_of, source_of

from rolltune import base
from rolltune.families import paligemma_names
from rolltune.models import generate
from rolltune.weights.hf import published_names

torch = pytest.importorskip("torch", reason="torch is not installed: CONTRIBUTING.md says how")
transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed")
IMAGE = 70  # the id that stands for the picture's places


@pytest.fixture(params=["gemma", "gemma2"])
def theirs(request):
    draw = np.random.default_rng()
    seed = int(draw.integers(1 << 16))
    print("seed", seed)  # shown where the test fails
    torch.manual_seed(seed)
    text = {
        **dict(model_type=request.param, hidden_size=32, intermediate_size=int(draw.integers(20, 60))),
        **dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=int(draw.choice([1, 2, 4]))),
        **dict(head_dim=8, vocab_size=72, num_image_tokens=4, use_bidirectional_attention=True),
    }
    if request.param == "gemma2":
        text |= dict(sliding_window=5, attn_logit_softcapping=4.0, final_logit_softcapping=3.0)
        text |= dict(query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention"])
    vision = {
        **dict(model_type="siglip_vision_model", hidden_size=16, intermediate_size=24, num_hidden_layers=2),
        **dict(num_attention_heads=2, image_size=28, patch_size=14, projection_dim=32, vision_use_head=False),
    }
    config = transformers.PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
        pad_token_id=0,
    )
    model = transformers.PaliGemmaForConditionalGeneration(config).float().eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_logits_loss_gradients_and_answers_equal_those_of_transformers(theirs, monkeypatch, tmp_path):
    theirs.save_pretrained(tmp_path / "saved")
    every_row = Letters()
    every_row.size = theirs.config.text_config.vocab_size
    monkeypatch.setattr(base.text, "load", lambda path: every_row)
    monkeypatch.setattr(base.text, "check", lambda *given: None)
    model, params = base.load(str(tmp_path / "saved"), tokenizer="any", dtype="float32")

    prompt, length = 9, 14
    ids = np.array([[IMAGE] * 4 + [2, *range(10 + 9 * n, 19 + 9 * n)] for n in range(2)])
    types = np.tile(np.arange(length) >= prompt, (2, 1)).astype(int)
    seen = np.ones_like(ids)
    seen[1, -2:] = 0
    labels = np.where((types == 1) & (seen == 1), ids, -100)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 28, 28, 3)).astype(np.float32)
    tensors = dict(
        input_ids=torch.tensor(ids), token_type_ids=torch.tensor(types), attention_mask=torch.tensor(seen),
        pixel_values=torch.tensor(image.transpose(0, 3, 1, 2)), labels=torch.tensor(labels),
    )  # fmt: skip
    out = theirs(**tensors)
    out.loss.backward()

    batch, pixels = batch_of(4, ids, types, seen, labels), (image + 1) * 127.5
    _, logits, losses, gradients = everything(model.config, params, batch, pixels)
    valid = seen == 1
    np.testing.assert_allclose(np.asarray(logits)[valid], out.logits.detach().numpy()[valid], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(losses[0], out.loss.item(), rtol=1e-4)
    ours = in_file_names(jax.tree.map(lambda g: g[0], gradients), paligemma_names.hf_rows(model.config))
    parameters = dict(theirs.named_parameters())
    published = {new: parameters[name] for name, new in published_names(parameters).items()}
    for name, gradient in ours.items():
        expected = published[name].grad.numpy()
        slack = 1e-4 * np.abs(expected).max() + 1e-7  # the gradient of a key bias is zero but for rounding
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=slack, err_msg=name)
    assert ours.keys() == published.keys()

    asked = {name: tensors[name][:, :prompt] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        generated = theirs.generate(**asked, pixel_values=tensors["pixel_values"], max_new_tokens=6, do_sample=False)
    cut = batch_of(4, ids[:, :prompt], types[:, :prompt], seen[:, :prompt], labels[:, :prompt])
    net = network(model.config)
    found = generate.generate(net, params, cut, source_of(rows_of(net, params, pixels)), 6, (-1,))
    for row, expected in zip(np.asarray(found).tolist(), generated[:, prompt:].tolist(), strict=True):
        upto = expected.index(1) if 1 in expected else len(expected)  # theirs pads after the end
        assert row[:upto] == expected[:upto]
