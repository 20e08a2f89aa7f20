"""Adapters in PEFT's layout: what is written means the same change, and comes back from names of any generation."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_families import FAMILIES, name_of

from rolltune.adapters import CLASSES
from rolltune.errors import UserError
from rolltune.weights.peft import CONFIG, TENSORS, Scaling, read_adapter, scaling_of, write_adapter

DRAW = np.random.default_rng(0)
SMALL = {small.name: small for small in FAMILIES}


def factors(row, start=0, rank=2):
    stack = (row.layers - start,) if row.layers else ()
    noise = lambda *shape: DRAW.standard_normal(shape).astype(np.float32)
    return {"a": noise(*stack, row.shape[0], rank), "b": noise(*stack, rank, row.shape[1])}


def table_of(small):
    return small.family.tensors(small.config, ())


@pytest.mark.parametrize("small", FAMILIES, ids=name_of)
def test_what_is_written_is_the_change_and_comes_back(small, tmp_path):
    rows = {row.path: row for row in table_of(small)}
    paths = [path for path in rows if (path.startswith("text/") and "/mlp/" in path) or path.endswith("attn/o/kernel")]
    trained = {path: factors(rows[path], 1 if path.startswith("text/layers") else 0) for path in paths}
    starts = {path: 1 for path in paths if path.startswith("text/layers")}
    written = write_adapter(tmp_path, trained, table_of(small), starts, Scaling(2, 4.0, True), "somebody/base")
    tensors = load_file(tmp_path / TENSORS)
    assert tensors.keys() == written.keys() and not any(".layers.0." in n for n in tensors if "language_model" in n)
    path = "text/layers/mlp/down/kernel"
    number = rows[path].name(1).split("layers.")[1].split(".")[0]
    module = next(name for name in tensors if f".layers.{number}.mlp.down_proj.lora_A" in name and "vision" not in name)
    change = tensors[module.replace("lora_A", "lora_B")] @ tensors[module]
    np.testing.assert_allclose(change, (trained[path]["a"][0] @ trained[path]["b"][0]).T, rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (2, 4.0, True)
    assert len(config["target_modules"]) == len(set(config["target_modules"])) == len(tensors) // 2
    again, scaling = read_adapter(tmp_path, table_of(small))
    assert scaling == Scaling(2, 4.0, True) and again.keys() == trained.keys()
    for path, leaf in trained.items():
        for side, array in leaf.items():
            start = starts.get(path, 0)
            np.testing.assert_array_equal(again[path][side][start:], array)
            assert not start or not again[path][side][:start].any()


def test_settings_left_out_are_peft_s_own_and_others_are_refused(tmp_path):
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    for more, expected in (
        ({}, Scaling(2, 4.0, False)),
        ({"use_rslora": None, "bias": "none"}, Scaling(2, 4.0, False)),
        ({"use_rslora": False, "r": 1}, Scaling(1, 4.0, False)),
        ({"use_rslora": True, "lora_alpha": 0.5}, Scaling(2, 0.5, True)),
    ):
        (tmp_path / CONFIG).write_text(json.dumps(plain | more))
        assert scaling_of(tmp_path) == (expected, "None")
    wrong = {"r": (0, True, 2.0, None), "lora_alpha": (0, True, "4", None, float("inf")), "peft_type": ("LOHA", None)}
    wrong |= {"use_dora": (True,), "bias": ("all",), "rank_pattern": ({"a": 4},), "alpha_pattern": ({"a": 4},)}
    for name, values in wrong.items():
        for value in values:
            (tmp_path / CONFIG).write_text(json.dumps(plain | {name: value}))
            with pytest.raises(UserError, match=rf"{CONFIG}: {name} is "):
                scaling_of(tmp_path)


def test_names_of_every_generation_are_read(tmp_path):
    small = SMALL["paligemma"]
    rows = {row.path: row for row in table_of(small)}
    paths = ("text/layers/attn/q/kernel", "vision/layers/mlp/up/kernel")
    trained = {path: factors(rows[path]) for path in paths}
    write_adapter(tmp_path, trained, table_of(small), {}, Scaling(2, 4.0, False), "somebody/base")
    newest = load_file(tmp_path / TENSORS)
    words, tower = ("model.language_model.", "language_model.model."), "vision_tower.vision_model."
    before_4_52, before_5 = (words, ("model.vision_tower.", tower)), (("model.vision_tower.", f"model.{tower}"),)
    for changes in (before_4_52, before_5):
        renamed = {}
        for name, tensor in newest.items():
            inner = name.removeprefix("base_model.model.")
            for new, old in changes:
                inner = inner.replace(new, old) if inner.startswith(new) else inner
            renamed[f"base_model.model.{inner}"] = tensor
        assert renamed.keys() != newest.keys()
        save_file(renamed, tmp_path / TENSORS)
        again, _ = read_adapter(tmp_path, table_of(small))
        for path, leaf in trained.items():
            np.testing.assert_array_equal(again[path]["a"], leaf["a"])


def test_what_pefts_layout_cannot_hold_is_refused(tmp_path):
    small = SMALL["paligemma"]
    rows = {row.path: row for row in table_of(small)}
    write = lambda trained: write_adapter(tmp_path, trained, table_of(small), {}, Scaling(2, 4.0, False), "x")
    pair = factors(rows["text/layers/attn/q/kernel"])
    with pytest.raises(UserError, match="no linear layer of its own"):
        write({"text/embed/embedding": pair})
    with pytest.raises(UserError, match="no weight of the published model"):
        write({"text/nowhere": pair})
    with pytest.raises(UserError, match=r"trained itself, not by LoRA.*--to hf"):
        write({"text/norm/scale": np.ones(32, np.float32)})
    with pytest.raises(UserError, match="no LoRA factor"):
        write({CLASSES: np.ones((32, 2), np.float32)})


def test_a_head_of_classes_goes_along_and_comes_back(tmp_path):
    small = SMALL["paligemma"]
    path = "text/layers/attn/q/kernel"
    row = next(row for row in table_of(small) if row.path == path)
    head = DRAW.standard_normal((32, 3)).astype(np.float32)
    write_adapter(tmp_path, {path: factors(row), CLASSES: head}, table_of(small), {}, Scaling(2, 4.0, False), "x")
    config, tensors = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / TENSORS)
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    np.testing.assert_array_equal(tensors["base_model.model.score.weight"], head.T)
    tensors["base_model.model.score.modules_to_save.weight"] = tensors.pop("base_model.model.score.weight")
    for name in ("score.weight", "score.modules_to_save.weight"):
        again, _ = read_adapter(tmp_path, table_of(small))
        np.testing.assert_array_equal(again[CLASSES], head, err_msg=name)
        save_file(tensors, tmp_path / TENSORS)  # as later versions of PEFT name it
    write_adapter(tmp_path, {path: factors(row)}, table_of(small), {}, Scaling(2, 4.0, False), "x")
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("CAUSAL_LM", None)


def test_half_an_adapter_and_one_of_another_rank_are_named(tmp_path):
    small = SMALL["paligemma"]
    path = "text/layers/attn/q/kernel"
    row = next(row for row in table_of(small) if row.path == path)
    write_adapter(tmp_path, {path: factors(row)}, table_of(small), {}, Scaling(2, 4.0, False), "x")
    good = load_file(tmp_path / TENSORS)
    lost = next(name for name in good if name.endswith("lora_B.weight"))
    save_file({name: tensor for name, tensor in good.items() if name != lost}, tmp_path / TENSORS)
    with pytest.raises(UserError, match=f"{path}: one factor of two"):
        read_adapter(tmp_path, table_of(small))
    save_file(good | {lost: np.zeros((good[lost].shape[0], 3), np.float32)}, tmp_path / TENSORS)
    with pytest.raises(UserError, match=r"lora_B\.weight \[32, 3\]: expected \[32, 2\]"):
        read_adapter(tmp_path, table_of(small))
    save_file({}, tmp_path / TENSORS)
    with pytest.raises(UserError, match="no factors at all"):
        read_adapter(tmp_path, table_of(small))


@pytest.mark.parametrize(
    "entry",
    [
        {"use_dora": True},
        {"peft_type": "LOHA"},
        {"r": 0},
        {"r": True},
        {"lora_alpha": 0},
        {"bias": "all"},
        {"rank_pattern": {"q": 3}},
    ],
)
def test_adapters_that_are_more_than_plain_lora_are_refused(entry, tmp_path):
    small = SMALL["paligemma"]
    rows = {row.path: row for row in table_of(small)}
    pair = factors(rows["text/layers/attn/q/kernel"])
    trained = {"text/layers/attn/q/kernel": pair}
    write_adapter(tmp_path, trained, table_of(small), {}, Scaling(2, 4.0, False), "x")
    kept = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(kept | entry))
    with pytest.raises(UserError, match=next(iter(entry))):
        read_adapter(tmp_path, table_of(small))


def test_tensors_of_another_model_are_all_named(tmp_path):
    small, other = SMALL["paligemma"], SMALL["phi3"]
    rows = {row.path: row for row in table_of(other)}
    trained = {"text/layers/attn/qkv/kernel": factors(rows["text/layers/attn/qkv/kernel"])}
    write_adapter(tmp_path, trained, table_of(other), {}, Scaling(2, 4.0, False), "x")
    with pytest.raises(UserError, match=r"no adapter of this model(.|\n)*layers\.\{0\.\.2\}\.self_attn\.qkv_proj"):
        read_adapter(tmp_path, table_of(small))
