"""An outline has the shapes of what setting up makes, for every family and way to train."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from small_families import FAMILIES, name_of

from rolltune import base, memory
from rolltune.data.batches import joint_batch
from rolltune.recipe import Recipe
from rolltune.tiny.ads import write_sample_ads
from rolltune.training import outline as outlining
from rolltune.training import setup
from rolltune.training.dataset import Wanted, read_data
from rolltune.training.loop import new_state
from rolltune.training.outline import NoTokenizer, Stated, outline, stated_data


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ads")
    write_sample_ads(folder, seed=0)
    rows = (folder / "data.jsonl").read_text().splitlines()[:12]
    (folder / "few.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "few.jsonl"


def described(tree):
    return jax.tree.map(lambda leaf: (tuple(leaf.shape), np.dtype(leaf.dtype)), tree)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"method": "attention", "optimizer": "sgd", "dtype": "bfloat16"},
        {"first_layer": 2, "task": "write", "accumulate": 2},
        {"first_layer": 1, "table_gib": 0.0},
        {"method": "rules", "rules": (("vision/.*", "full"), (".*", "frozen")), "task": "classify"},
        {"quantize": "int8", "table_gib": 0.0},
    ],
    ids=["lora", "attention", "states", "disk", "tower", "int8"],
)
def test_an_outline_has_the_shapes_of_what_setting_up_makes(few, changed, monkeypatch, tmp_path):
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path))
    recipe = Recipe(**changed)
    data = read_data({"train": few}, Wanted(recipe.task), lambda text: None)
    opened = setup.open_model(recipe)
    made = outline(opened, recipe, data, setup.encode(opened.model, recipe, data))
    model, params = setup.load(recipe)
    assert described(made.params) == described(params)
    inputs = setup.encode(model, recipe, data)
    cached = setup.cache(model, params, made.plan, recipe, data, inputs)
    assert described(made.cached.base) == described(cached.base)
    assert made.cached.network == cached.network and described(made.cached.start.full) == described(cached.start.full)
    loaders = setup.loaders(recipe, cached.training, data, None)
    run, _ = setup.compile(model, made.plan, recipe, data, cached, loaders, 2)
    state = new_state(run, 2)
    batch, source = joint_batch([loaders(slot.draw) for slot in state.slots], [0, 0], recipe.accumulate)
    ours, _ = outlining.programs(made)
    base_, source_, rolls, batch_ = memory.step_args(ours, made.cached.training, 2, recipe.batch)
    assert described(rolls) == described(state.rolls)
    largest = cached.training.shapes[-1] == cached.training.shape_for(
        [row for slot in state.slots for row in loaders(slot.draw).rows(0)[0]]
    )
    if largest:
        assert described(batch_) == described(batch) and described(source_) == described(source)
    assert described(base_) == described(run.base)


@pytest.mark.parametrize("small", FAMILIES, ids=name_of)
def test_stated_rows_are_as_long_as_is_said(small):
    said = Stated(20, 6, small.sizes[:1] * 2, rows=3)
    data, inputs = stated_data(small.model, Recipe(task="write"), said)
    row = inputs.training[0]
    places = inputs.pictures.places[row.pictures[0]]
    assert len(row.tokens) == 20 + 2 * len(places.slots) and len(row.targets) == 6 and len(inputs.training) == 3
    assert len(row.keys) == 2 * len(places.keys) and sum(row.counts) == 2 * len(places.used)
    numbers = np.concatenate([row.slots, row.keys]) - small.family.learned_count
    assert set(range(sum(row.counts))) == set(numbers[numbers >= 0].tolist())
    assert len(inputs.prompts[0].tokens) == len(row.tokens) - 6 and data.task.kind == "write"
    choices, chosen = stated_data(small.model, Recipe(answers=("a", "b", "c")), said)
    assert choices.task.answers == ("a", "b", "c") and len(chosen.scoring[0].targets) == 18 and not chosen.prompts


def test_a_folder_with_a_config_alone_serves(tmp_path):
    config = {
        **{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "rms_norm_eps": 1e-5},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = Recipe(model=str(tmp_path / "config.json"), quantize="nf4", rank=4)
    opened = base.open_model(recipe.model, "", "bfloat16", recipe.packing, recipe.num_crops, NoTokenizer)
    shapes = opened.shapes()
    assert shapes["text/layers/mlp/up/kernel"].packed.shape == (6, 128, 32)
    data, inputs = stated_data(opened.model, recipe, Stated(16, 4))
    made = outline(opened, recipe, data, inputs)
    shorter = outlining.cut_depth(made, 2)
    assert made.depth == 6 and shorter.depth == 2
    assert shorter.cached.start.lora["text/layers/mlp/up/kernel"] == (2, 64, 128)
    full = outlining.cut_depth(dataclasses.replace(made), 6)
    assert described(full.cached.base) == described(made.cached.base)
