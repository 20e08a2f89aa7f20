"""Exports of every family beside PEFT and transformers themselves: the same logits, pictures included."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest
from causal import batch_of
from small_families import LLAMA_NAMES, PHI, random_params
from small_model import Letters

from rolltune import adapters, base, trees
from rolltune.adapters import CLASSES
from rolltune.batch import NOTHING
from rolltune.families import phi3_vision
from rolltune.jobs.export import Options, export
from rolltune.models import forward
from rolltune.models.forward import Network
from rolltune.recipe import Recipe
from rolltune.weights.card import RollCard
from rolltune.weights.hf import read_hf, write_hf
from rolltune.weights.names import to_file
from rolltune.weights.roll_file import load_roll, nested_lora, save_roll

torch = pytest.importorskip("torch", reason="torch is not installed: CONTRIBUTING.md says how")
transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers 5 is not installed")
peft = pytest.importorskip("peft", minversion="0.18", reason="peft is not installed (pip install --no-deps peft)")

VOCAB, IMAGE = 96, 90  # the id that stands for a picture's places
TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
TEXT |= dict(vocab_size=VOCAB, head_dim=8, pad_token_id=0, bos_token_id=2, eos_token_id=1)
TOWER = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28)
TOWER |= dict(patch_size=14, projection_dim=16)
SEEN = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def paligemma(kind, **more):
    text = {**TEXT, "model_type": kind, "num_image_tokens": 4, "use_bidirectional_attention": True, **more}
    tower = {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False, "projection_dim": 32}
    config = dict(text_config=text, vision_config=tower, image_token_index=IMAGE, projection_dim=32, hidden_size=32)
    return transformers.PaliGemmaForConditionalGeneration(transformers.PaliGemmaConfig(**config, pad_token_id=0))


def llava():
    config = transformers.LlavaNextConfig(
        text_config={**TEXT, "model_type": "mistral", "sliding_window": None},
        vision_config={**TOWER, "model_type": "clip_vision_model"},
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        image_token_index=IMAGE,
    )
    return transformers.LlavaNextForConditionalGeneration(config)


def mllama():
    text = {**TEXT, "num_hidden_layers": 5, "cross_attention_layers": [1, 3]}
    text["rope_parameters"] = {
        **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "high_freq_factor": 4.0},
        **{"low_freq_factor": 1.0, "original_max_position_embeddings": 8192},
    }
    text.pop("head_dim")
    tower = dict(hidden_size=16, intermediate_size=24, attention_heads=2, patch_size=14, image_size=28)
    tower |= dict(num_hidden_layers=3, num_global_layers=1, intermediate_layers_indices=[1], vision_output_dim=32)
    ratios = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    config = transformers.MllamaConfig(
        text_config=text, vision_config=tower | {"supported_aspect_ratios": ratios}, image_token_index=VOCAB
    )
    return transformers.MllamaForConditionalGeneration(config)


def phi3(folder):
    """The decoder alone, as transformers has it: the model of pictures is code that is published with the weights."""
    own = {name: tensor for name, tensor in loaded(folder).items() if "vision_embed_tokens" not in name}
    scaling = {"rope_type": "longrope", "rope_theta": PHI["rope_theta"], **PHI["rope_scaling"]}
    scaling |= {"original_max_position_embeddings": PHI["original_max_position_embeddings"], "type": "longrope"}
    sizes = {name: value for name, value in PHI.items() if not isinstance(value, dict)}
    config = transformers.Phi3Config(**sizes, rope_parameters=scaling, pad_token_id=0, bos_token_id=2, eos_token_id=1)
    model = transformers.Phi3ForCausalLM(config)
    model.load_state_dict(own)
    return model.eval()


def loaded(folder):
    return {
        name: torch.tensor(tensor.read(0, int(np.prod(tensor.shape))).reshape(tensor.shape))
        for name, tensor in read_hf(folder).items()
    }


def of_text(auto, config, **more):
    return lambda: auto(config(**TEXT, **more))


LLAMA = transformers.LlamaConfig
GEMMA2 = transformers.Gemma2Config
CAPS = dict(sliding_window=5, attn_logit_softcapping=4.0, final_logit_softcapping=3.0, query_pre_attn_scalar=16)
MADE = {  # a model of transformers, and the special tokens that the family's text format needs
    "paligemma": (lambda: paligemma("gemma"), ()),
    "paligemma2": (lambda: paligemma("gemma2", **CAPS), ()),
    "llava": (llava, ()),
    "mllama": (mllama, LLAMA_NAMES),
    "phi3": (None, ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>", "</s>")),
    "llama": (of_text(transformers.LlamaForCausalLM, LLAMA), LLAMA_NAMES),
    "mistral": (of_text(transformers.MistralForCausalLM, transformers.MistralConfig, sliding_window=None), ()),
    "gemma2": (of_text(transformers.Gemma2ForCausalLM, GEMMA2, **CAPS), ("<start_of_turn>", "<end_of_turn>")),
    "gemma2 with a head": (of_text(transformers.Gemma2ForCausalLM, GEMMA2, **CAPS), ()),
}
METHOD = {name: "rules" for name in ("paligemma2", "mllama", "llava", "phi3")}
WITH_HEAD = ((r"text/(layers/.*|head)/kernel", "lora"), (".*", "frozen"))
RULES = {  # more than the decoder's layers; and one kind alone, whose MLPs differ from the others' by their numbers
    "paligemma2": (("text/layers/.*/kernel", "lora"), ("vision/layers/.*/kernel", "lora"), ("projector/kernel", "lora"),
                   (".*", "frozen")),
    "mllama": (("text/cross/mlp/.*", "lora"), ("text/(layers/attn/q|head)/kernel", "lora"), (".*", "frozen")),
    "llava": WITH_HEAD,
    "phi3": WITH_HEAD,
}  # fmt: skip


@pytest.fixture(params=MADE)
def made(request, tmp_path, monkeypatch):
    """(name, folder of the base, a roll on it with random factors, its card's recipe)."""
    torch.manual_seed(0)
    make, specials = MADE[request.param]
    folder = tmp_path / "base"
    if make is None:
        config = phi3_vision.FAMILY.config(PHI, {}, "phi")
        params = random_params(phi3_vision.FAMILY, config)
        write_hf(folder, to_file(params, phi3_vision.tensors(config)), PHI | {"model_type": "phi3_v"})
    else:
        model = make().float()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    tokenizer = Letters(*specials)
    tokenizer.path, tokenizer.size = folder / "tokenizer.model", VOCAB
    tokenizer.path.write_bytes(b"letters")
    monkeypatch.setattr(base.text, "load", lambda path: tokenizer)
    monkeypatch.setattr(base.text, "check", lambda *given: None)
    classify = request.param.endswith("a head")
    recipe = Recipe(
        model=str(folder), tokenizer=str(tokenizer.path), rank=3, alpha=7.0, rslora=True, first_layer=1,
        task="classify" if classify else "choose", dtype="float32", evaluate_batch=2,
        num_crops=2 if request.param == "phi3" else 0,
        method=METHOD.get(request.param, "lora"), rules=RULES.get(request.param, ()),
    )  # fmt: skip
    if request.param == "paligemma2":  # what lies below the decoder is trained
        recipe = dataclasses.replace(recipe, first_layer=0)
    opened = base.open_model(str(folder), str(tokenizer.path), "float32")
    draw = np.random.default_rng(0)
    noise = lambda *shape: draw.standard_normal(shape).astype(np.float32) * 0.3
    tree = {}
    rules = recipe.rules or adapters.METHODS["lora"]
    shapes = {path: tuple(leaf.shape) for path, leaf in opened.shapes().items()}
    for path, word in adapters.trainability(rules, list(shapes)).items():
        cut = trees.cut_of(path, opened.model.stacks, recipe.first_layer)
        *stack, i, o = (shapes[path][0] - cut, *shapes[path][1:]) if word == "lora" else (0, 0)
        if word == "lora":
            tree |= {f"{path}/a": noise(*stack, i, 3), f"{path}/b": noise(*stack, 3, o)}
    if classify:
        tree[CLASSES] = noise(32, 2)
    card = RollCard(
        base.load(str(folder), str(tokenizer.path), "float32")[0].base, recipe.method, dataclasses.asdict(recipe),
        "is it?", ["no", "yes"], {"positive": "yes"},
    )  # fmt: skip
    save_roll(tmp_path / "roll.npz", trees.unflatten(tree), card)
    return request.param, folder, tmp_path / "roll.npz", recipe


def theirs(name, folder):
    if name == "phi3":
        return phi3(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    [named] = config.architectures
    if name.endswith("a head"):
        named, config.num_labels = "Gemma2ForSequenceClassification", 2
    model = getattr(transformers, named).from_pretrained(folder, config=config, dtype=torch.float32)
    model.set_attn_implementation("eager")
    return model.eval()


def logits(model, name, ids):
    given = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), len(ids[0]), dtype=torch.long)}
    if name.startswith("paligemma"):
        given["token_type_ids"] = torch.ones_like(given["input_ids"])
    with torch.no_grad():
        plain = model(**given).logits.numpy()
        if name.startswith("paligemma"):
            places = torch.full((1, 4), IMAGE)
            given = {
                k: torch.cat([v[:1, :4] * 0 + (places if k == "input_ids" else 1), v[:1]], 1) for k, v in given.items()
            }
            return plain, model(**given, pixel_values=SEEN).logits.numpy()
        if name == "mllama":
            tiles = SEEN[None, None].expand(1, 1, 4, 3, 28, 28)
            given = {k: v[:1] for k, v in given.items()} | {"pixel_values": tiles}
            given |= {
                "aspect_ratio_ids": torch.tensor([[6]]),
                "aspect_ratio_mask": torch.ones(1, 1, 4, dtype=torch.long),
            }
            given["cross_attention_mask"] = torch.ones(1, len(ids[0]), 1, 4, dtype=torch.long)
            return plain, model(**given).logits.numpy()
    return plain, plain


def test_peft_and_transformers_give_the_same_logits(made, tmp_path):
    name, folder, roll, recipe = made
    said = []
    for form in ("peft", "hf"):
        assert export(roll, Options(form, tmp_path / form), said.append) == 0
    ids = np.random.default_rng(1).integers(3, 70, (2, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT only warns of names that it does not find
        for about in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=about)
        adapted = peft.PeftModel.from_pretrained(theirs(name, folder), tmp_path / "peft").eval()
    untouched, seen_untouched = logits(theirs(name, folder), name, ids)
    found, seen = logits(adapted, name, ids)
    assert np.abs(found - untouched).max() > 0.05 and np.abs(seen - seen_untouched).max() > 0.05

    # What it is named, and nothing else: layers below the first, towers, layers of another kind.
    modules = {module.rsplit(".lora_A", 1)[0] for module, _ in adapted.named_modules() if module.endswith("lora_A")}
    listed = json.loads((tmp_path / "peft/adapter_config.json").read_text())["target_modules"]
    assert modules == {f"base_model.model.{one}" for one in listed}

    if recipe.num_crops:  # whoever loads the merged folder cuts pictures as the roll was trained
        assert base.open_model(str(tmp_path / "hf"), str(folder / "tokenizer.model")).model.config.num_crops == 2

    merged, seen_merged = logits(theirs(name, tmp_path / "hf"), name, ids)
    np.testing.assert_allclose(merged, found, atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(seen_merged, seen, atol=2e-5, rtol=1e-4)
    moved = next(line for line in said if "log-probability" in line)
    assert float(moved.split(" is ")[1].split(" ")[0]) < 1e-4

    model, params = base.load(str(folder), str(folder / "tokenizer.model"), "float32")
    trained = nested_lora(trees.flatten(load_roll(roll).tree))
    own = adapters.merge(params, trained, model.stacks, recipe.scale, recipe.first_layer)
    batch = batch_of(ids, np.ones_like(ids), np.full_like(ids, -100))
    net = Network(model.family, model.config)
    arranged = trees.arrange(own, model.stacks)
    states = jax.jit(lambda tree: forward.hidden(net, tree, batch, NOTHING))(arranged)
    ours = np.asarray(forward.logits(net, arranged, states))
    ours = ours[:, -1] if CLASSES in trained else ours[..., : found.shape[-1]]
    np.testing.assert_allclose(ours, found[..., : ours.shape[-1]], atol=1e-4, rtol=1e-4)
