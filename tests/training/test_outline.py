"""An outline has the shapes of what setting up makes, for every family and way to train."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from small_families import FAMILIES, name_of

from rolltune import base, memory
from rolltune.batch import Source
from rolltune.data.batches import Encoded, joint_batch
from rolltune.inputs.disk import Files
from rolltune.inputs.feeds import DiskFeed, TableFeed
from rolltune.recipe import Recipe
from rolltune.training import outline as outlining
from rolltune.training import setup
from rolltune.training.dataset import Wanted, read_data
from rolltune.training.loop import new_state
from rolltune.training.outline import NoTokenizer, Stated, outline, stated_data


@pytest.fixture(scope="module")
def few(drawn_ads, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ads")
    shutil.copytree(drawn_ads, folder, dirs_exist_ok=True)
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
    ours, _ = made.programs
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
    several = dataclasses.replace(made.plan, stacks={"text/layers": (1, 2, 4), "text/cross": (3,)})
    assert dataclasses.replace(made, plan=several).depth == 4
    path = "text/layers/mlp/up/kernel"
    pair = {"a": jax.ShapeDtypeStruct((6, 64, 4), "float32"), "b": jax.ShapeDtypeStruct((6, 4, 128), "float32")}
    start = dataclasses.replace(made.cached.start, lora={}, adapters={path: pair})
    second = dataclasses.replace(made, cached=dataclasses.replace(made.cached, start=start))
    run, _ = second.programs
    rolls = outlining.rolls_of(run, 3)  # of a second pass: what was trained before, and nothing drawn
    assert {path: {side: leaf.shape for side, leaf in pair.items()} for path, pair in rolls.trainable.items()} == {
        path: {"a": (3, 6, 64, 4), "b": (3, 6, 4, 128)}
    }
    cut = outlining.cut_depth(second, 2).cached.start.adapters[path]
    assert (cut["a"].shape, cut["b"].shape) == ((2, 64, 4), (2, 4, 128))


@pytest.mark.parametrize(
    ("stacks", "layers"),
    [
        ({"text/layers": range(18)}, 1),
        ({"text/layers": range(32), "text/cross": range(8)}, 5),
        ({"text/layers": range(4), "text/cross": ()}, 1),
        ({"text/layers": range(7), "text/cross": range(2)}, 4),
        ({}, 1),
    ],
)
def test_so_many_layers_in_a_row_have_some_of_each_kind(stacks, layers):
    assert outlining.period({name: tuple(some) for name, some in stacks.items()}) == layers


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_states_are_outlined_where_the_pictures_rows_lie_with_them(limit):
    """Cross-attention needs both in one table, or both on the disk; other families need the states alone."""
    files = DiskFeed(0, Files({}, {}, 16, np.dtype(np.float32)))
    table = TableFeed(0, Source(jax.ShapeDtypeStruct((40, 32), "float32")), {})
    for small, either in ((FAMILIES[0], True), (FAMILIES[-1], False)):
        rows = [small.row("a b", "c", shown=[n]) for n in range(2)]
        for feed in (files, table):
            encoded = Encoded(rows, feed, (), ["", ""])
            found = outlining.states_of(small.model, encoded, 1, limit)
            assert (found is not None) == (either or (feed is table) == bool(limit)), (small.name, feed)
            if found is not None:
                assert [len(row.keys) for row in found.rows] == [0 if either else len(row.keys) for row in rows]
                assert [len(row.pictures) for row in found.rows] == [1 if either else 2] * 2
            if found is not None and limit:
                beside = 0 if either else 40
                assert found.feed.source.rows.shape[0] == sum(len(row.tokens) for row in rows) + beside
                first = small.family.learned_count
                assert all(row.slots.tolist() == list(range(first, first + len(row.tokens))) for row in found.rows)
