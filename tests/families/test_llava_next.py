"""LLaVA-NeXT beside stored answers of transformers 5.23, and beside transformers itself where that is installed."""

import json

import numpy as np
import pytest
from causal import answers, batch_of, check_gradients, close, everything, in_0_to_255, in_file_names, prompts, tiles_of
from safetensors.numpy import load_file, save_file

from rolltune.errors import UserError
from rolltune.families import llava_next
from rolltune.models import forward
from rolltune.models.forward import Network
from rolltune.weights.hf import published_names, read_hf
from rolltune.weights.names import flatten, load_tree

FAMILY = llava_next.FAMILY


def load(folder):
    entries = json.loads((folder / "config.json").read_text())
    lazy = read_hf(folder)
    config = FAMILY.config(entries, {name: tensor.shape for name, tensor in lazy.items()}, str(folder))
    return config, load_tree(lazy, FAMILY.tensors(config, lazy), np.float32)


@pytest.fixture
def model(oracle):
    return load(oracle("llava_next/hf_published"))


@pytest.fixture
def told(oracle):
    with np.load(oracle("llava_next/expected.npz")) as file:
        return dict(file)


def batch_in(config, told, image_token):
    """The oracle's rows, of one picture each."""
    ids = np.where(told["in/input_ids"] == image_token, -1, told["in/input_ids"])
    sizes = [tuple(size) for size in told["in/image_sizes"].tolist()]
    counts = [llava_next.tile_count(config, size) for size in sizes]
    assert counts == told["in/num_patches"].tolist()
    pixels = [tiles[:count] for tiles, count in zip(in_0_to_255(told["in/pixel_values"]), counts, strict=True)]
    slots = [llava_next.slots(config, size) for size in sizes]
    return batch_of(ids, told["in/attention_mask"], told["in/labels"], slots, tiles_of(pixels))


def test_all_layouts_load_as_one_model_and_go_out_as_published(oracle, model):
    config, params = model
    for layout in ("hf", "hf_internal"):
        other, tree = load(oracle(f"llava_next/{layout}"))
        assert other == config
        for path, leaf in flatten(tree).items():
            np.testing.assert_array_equal(leaf, flatten(params)[path], err_msg=f"{layout} {path}")
    written, lazy = in_file_names(params, FAMILY.tensors(config, ())), read_hf(oracle("llava_next/hf_published"))
    assert written.keys() == lazy.keys()
    for name, tensor in lazy.items():
        np.testing.assert_array_equal(written[name].reshape(-1), tensor.read(0, written[name].size), err_msg=name)


def test_what_old_files_carry_beside_the_weights_is_left_out(oracle, model, tmp_path):
    tensors = load_file(oracle("llava_next/hf_published") / "model.safetensors")
    tensors["vision_tower.vision_model.embeddings.position_ids"] = np.arange(10)[None]
    tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(6, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((oracle("llava_next/hf_published") / "config.json").read_text())
    assert flatten(load(tmp_path)[1]).keys() == flatten(model[1]).keys()


def test_features_logits_loss_and_gradients_equal_those_of_transformers(model, told):
    config, params = model
    batch, net = batch_in(config, told, 100), Network(FAMILY, config)
    rows = np.asarray(forward.feature_rows(net, params, batch.tiles, batch.aspect))
    tower = told["out/clip_hidden_m2_image0"][:, 1:]
    close(rows[0, : tower[..., 0].size], tower.reshape(-1, tower.shape[-1]))
    logits, loss, gradients = everything(net, params, batch)
    seen = told["in/attention_mask"] == 1
    close(logits[seen], told["out/logits"][seen])
    close(loss, told["out/loss"])
    expected = {name[5:]: value for name, value in told.items() if name.startswith("grad/")}
    check_gradients(in_file_names(gradients, FAMILY.tensors(config, ())), expected)


def test_greedy_answers_equal_those_of_transformers(model, told):
    config, params = model
    asked = prompts(batch_in(config, told, 100), told["in/prompt_len"])
    np.testing.assert_array_equal(answers(Network(FAMILY, config), params, asked, 8), told["out/generated"])


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("", "vision_feature_layer", -1),
        ("", "vision_feature_select_strategy", "full"),
        ("", "projector_hidden_act", "relu"),
        ("", "image_grid_pinpoints", [[42, 80]]),
        ("text_config", "model_type", "qwen2"),
        ("text_config", "sliding_window", 0),
        ("text_config", "attention_bias", True),
        ("vision_config", "hidden_act", "gelu"),
        ("vision_config", "hidden_size", 0),
        ("preprocessor_config", "image_mean", [0.5, 0.5, 0.5]),
        ("preprocessor_config", "image_grid_pinpoints", [[42, 84]]),
    ],
)
def test_another_model_is_refused_by_the_entry_that_makes_it_one(oracle, part, name, value):
    entries = json.loads((oracle("llava_next/hf_published") / "config.json").read_text())
    (entries.setdefault(part, {}) if part else entries)[name] = value
    with pytest.raises(UserError, match=rf"(?s)config.json:.*{part}.*{name}"):
        FAMILY.config(entries, {}, "config.json")


def test_the_published_config_leaves_out_what_is_default():
    """As llava-hf/llava-v1.6-mistral-7b-hf's: 7,566,747,648 parameters."""
    text = dict(model_type="mistral", intermediate_size=14336, max_position_embeddings=32768, num_key_value_heads=8)
    text |= dict(rms_norm_eps=1e-5, rope_theta=1e6, sliding_window=None, vocab_size=32064)
    tower = dict(model_type="clip_vision_model", hidden_size=1024, image_size=336, intermediate_size=4096)
    tower |= dict(num_attention_heads=16, num_hidden_layers=24, patch_size=14, projection_dim=768, vocab_size=32000)
    entries = dict(model_type="llava_next", image_token_index=32000, text_config=text, vision_config=tower)
    config = FAMILY.config(entries, {}, "config.json")
    assert sum(np.prod(row.ours) for row in FAMILY.tensors(config, ())) == 7_566_747_648
    assert (config.text.rope.theta, config.text.norm_eps, config.grid) == (1e6, 1e-5, 24)
    assert config.canvases == ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # of LlavaNextConfig
    bare = FAMILY.config({**entries, "text_config": {}}, {}, "config.json").text  # a Llama, as the library has it
    assert (bare.kv_heads, bare.mlp, bare.norm_eps) == (32, 11008, 1e-6)


def test_it_answers_as_transformers_does_at_random_sizes(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: CONTRIBUTING.md says how")
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed")
    draw = np.random.default_rng()
    seed = int(draw.integers(1 << 16))
    print("seed", seed)  # shown where the test fails
    draw = np.random.default_rng(seed)
    torch.manual_seed(seed)
    heads = int(draw.choice([2, 4]))
    text = dict(model_type=str(draw.choice(["llama", "mistral"])), hidden_size=32, num_hidden_layers=2, vocab_size=96)
    text |= dict(intermediate_size=int(draw.integers(20, 60)), num_attention_heads=heads)
    text |= dict(sliding_window=int(draw.integers(3, 30)) if text["model_type"] == "mistral" else None)
    text |= dict(num_key_value_heads=int(draw.choice([1, 2])), rms_norm_eps=1e-5)
    tower = dict(model_type="clip_vision_model", hidden_size=16, intermediate_size=24, num_hidden_layers=3)
    tower |= dict(num_attention_heads=2, image_size=28, patch_size=7)
    entries = transformers.LlavaNextConfig(
        text_config=text,
        vision_config=tower,
        image_token_index=90,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
    )
    theirs = transformers.LlavaNextForConditionalGeneration(entries).float().eval()
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "saved")
    config, params = load(tmp_path / "saved")

    sizes = [tuple(map(int, draw.integers(5, 100, 2))) for _ in range(2)]
    slots = [llava_next.slots(config, size) for size in sizes]
    counts = [llava_next.tile_count(config, size) for size in sizes]
    pixels = draw.standard_normal((2, max(counts), 3, 28, 28)).astype(np.float32)
    longest = max(map(len, slots)) + 12
    ids, seen, labels = np.full((2, longest), 3), np.zeros((2, longest), int), np.full((2, longest), -100)
    for row, own in enumerate(slots):
        length = len(own) + 8 + row
        ids[row, :length] = [1, 5, *[90] * len(own), *draw.integers(4, 80, length - len(own) - 2)]
        seen[row, :length] = 1
        labels[row, length - 4 : length] = ids[row, length - 4 : length]
    tensors = dict(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(seen), labels=torch.tensor(labels),
        pixel_values=torch.tensor(pixels), image_sizes=torch.tensor(sizes),
    )  # fmt: skip
    out = theirs(**tensors)
    out.loss.backward()

    tiles = tiles_of([part[:count] for part, count in zip(in_0_to_255(pixels), counts, strict=True)])
    batch, net = batch_of(np.where(ids == 90, -1, ids), seen, labels, slots, tiles), Network(FAMILY, config)
    logits, loss, gradients = everything(net, params, batch)
    close(logits[seen == 1], out.logits.detach().numpy()[seen == 1])
    close(loss, out.loss.item())
    parameters = dict(theirs.named_parameters())
    expected = {new: parameters[name].grad for name, new in published_names(parameters).items()}
    expected = {name: slope.numpy() for name, slope in expected.items() if slope is not None}
    check_gradients(in_file_names(gradients, FAMILY.tensors(config, ())), expected)

    asked = {name: tensors[name][:1] for name in ("pixel_values", "image_sizes")}
    length = len(slots[0]) + 4
    with torch.no_grad():
        ids = tensors["input_ids"][:1, :length]
        generated = theirs.generate(input_ids=ids, **asked, max_new_tokens=6, do_sample=False, eos_token_id=95)
    found = answers(net, params, prompts(batch, [length, length]), 6, (95,))[0].tolist()
    expected = generated[0, length:].tolist()
    assert found[: len(expected)] == expected
