"""What a run needs, by the compiler; how many rolls fit: never more than the free memory holds."""

import dataclasses
import json
import shutil

import pytest

from rolltune import base, memory
from rolltune.data.batches import joint_batch
from rolltune.free_memory import HEADROOM, free_bytes
from rolltune.jobs.learn import Asked, prepare
from rolltune.memory import Need
from rolltune.programs import Program
from rolltune.recipe import Recipe
from rolltune.training import setup
from rolltune.training.dataset import Wanted, read_data
from rolltune.training.loop import new_state
from rolltune.training.outline import NoTokenizer, Stated, outline, stated_data


def test_rolls_fill_the_free_memory_and_no_more(drawn_ads, tmp_path, monkeypatch):
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(drawn_ads, tmp_path, dirs_exist_ok=True)
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    few = [row for row in rows if row["suffix"] == "yes"][:2] + [row for row in rows if row["suffix"] == "no"][:2]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    recipe = Recipe()
    data = read_data({"train": tmp_path / "few.jsonl"}, Wanted("auto"), lambda text: None)
    run = prepare(recipe, data, Asked(1)).run
    one, two = memory.step_bytes(run, 1), memory.step_bytes(run, 2)
    assert one < two < 3 * one
    assert 0.8 < HEADROOM < 1
    room = (one + 4.5 * (two - one)) / HEADROOM
    monkeypatch.setattr(memory, "free_bytes", lambda: room)
    assert memory.fit_rolls(run)[0] == 5
    monkeypatch.setattr(memory, "free_bytes", lambda: one // 2)
    assert memory.fit_rolls(run)[0] == 1  # one is always tried: the device's own message is clearer than ours


@pytest.mark.skipif(free_bytes() is not None, reason="this device says how much memory it has")
def test_a_device_that_does_not_say_gets_four():
    assert memory.fit_rolls(None)[0] == 4


def made_of(folder, layers: int):
    config = {
        **{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": layers},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "rms_norm_eps": 1e-5},
    }
    (folder / "config.json").write_text(json.dumps(config))
    recipe = Recipe(model=str(folder), rank=4, dtype="bfloat16", answers=("a", "b"))
    opened = base.open_model(recipe.model, "", recipe.dtype, recipe.packing, recipe.num_crops, NoTokenizer)
    return outline(opened, recipe, *stated_data(opened.model, recipe, Stated(64, 8, rows=4)))


@pytest.mark.parametrize("listed", [False, True])
def test_few_layers_say_what_all_of_them_need(tmp_path, monkeypatch, listed):
    """As a GPU has them in a list, and as a CPU scans them."""
    monkeypatch.setattr("rolltune.training.outline.is_gpu", lambda: listed)
    monkeypatch.setattr(memory, "EXACT_DEPTH", 8)
    made = made_of(tmp_path, 14)
    assert memory.depths_for(made) == (4, 8)
    short, whole = memory.needs_of(made, 1), memory.needs_of(made, 1, exact=True)
    assert [need.part for need in short] == [need.part for need in whole]
    for guess, known in zip(short, whole, strict=True):
        assert guess.total == pytest.approx(known.total, rel=0.02 if listed else 0.04), known.part
    step = {need.part: need for need in short}["training step"]
    assert step.activations > 0 and step.trained > 0 and step.optimizer > step.trained


def test_what_few_layers_hide_is_looked_for_in_more(tmp_path, monkeypatch):
    """Logits that need more than a few layers' inputs do, and less than those of all."""
    monkeypatch.setattr("rolltune.training.outline.is_gpu", lambda: True)
    made, compiled = made_of(tmp_path, 40), []
    one = memory.input_bytes(made, 1) / 0.9

    def measure(jitted, args, *more):
        compiled.append(len(args[0]["text"]["layers"]))
        return Program(round(max(20, 5 + compiled[-1]) * one), 0, 0)

    monkeypatch.setattr(memory, "measure", measure)
    monkeypatch.setattr(memory, "at_once", lambda jobs: [job() for job in jobs])
    step = {need.part: need for need in memory.needs_of(made, 1)}["training step"]
    assert step.activations + step.temporary >= 45 * one and max(compiled) == 32


def test_a_model_of_few_layers_is_compiled_whole(tmp_path):
    made = made_of(tmp_path, 3)
    assert memory.depths_for(made) == (1, 3)
    one, two = memory.needs_of(made, 1), memory.needs_of(made, 2)
    assert [need.total for need in one] == [need.total for need in memory.needs_of(made, 1, exact=True)]
    grown = {need.part for need, more in zip(one, two, strict=True) if more.total > need.total}
    assert grown == {"training step", "evaluation"}


def test_rolls_are_as_many_as_the_tightest_part_allows():
    one = [Need("loading", weights=10), Need("step", weights=8, trained=1), Need("score", weights=8, trained=3)]
    two = [Need("loading", weights=10), Need("step", weights=8, trained=2), Need("score", weights=8, trained=6)]
    assert memory.most_rolls(one, two, 20) == 4  # 8 + 3 * 4
    assert memory.most_rolls(one, two, 10.5) == 0  # the first is evaluated in 11
    assert memory.most_rolls(one[:1], two[:1], 10, most=9) == 9


WHOLE = 11179776 + 123520 + 5125760  # tower, projector and text of the built-in model in float32
MATRIX = "vision/layers/attn/q/kernel"


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        (
            {"first_layer": 2, "answers": ("a", "b")},
            [
                ("loading", WHOLE, 0, 0, 0, 0, 0, 0),
                ("image features", WHOLE, 0, 0, 0, 4, 1300 + 301056, 20),  # eight tiles of 112 pixels, a byte a value
                ("lower states", WHOLE - 11179776, 5 * 64 * 1024 * 4, 0, 0, 4, 1300 + 6159, 20),
                ("training step", 3014400, 524800, 3 * 45824, 275064, 4, 1300 + 10014, 20),
                ("evaluation", 3014400, 524800, 3 * 45824, 275064, 4, 1300 + 6159, 20),
            ],
        ),
        (
            {"task": "write", "answer_tokens": 4, "method": "full", "rate": 1e-5},
            [
                ("loading", WHOLE, 0, 0, 0, 0, 0, 0),
                ("weights to train", WHOLE, 0, WHOLE, 0, 0, 0, 0),
                ("training step", 0, 0, 4 * WHOLE, 6 * WHOLE + 120, 4, 1300 + 235830, 20),  # all rolls, and a start
                ("evaluation", 0, 0, 4 * WHOLE, 6 * WHOLE + 120, 4, 1300 + 117915, 20),
                ("writing answers", 0, 0, 4 * WHOLE, 6 * WHOLE + 120, 4, 1300 + 117723, 20),
            ],
        ),
        (
            {"method": "rules", "rules": ((MATRIX, "lora"), (".*", "frozen")), "answers": ("a", "b")},
            [
                ("loading", WHOLE, 0, 0, 0, 0, 0, 0),
                ("training step", WHOLE, 0, 3 * 18432, 2 * 3 * 18432 + 120, 4, 1300 + 235830, 20),
                ("evaluation", WHOLE, 0, 3 * 18432, 2 * 3 * 18432 + 120, 4, 1300 + 119067, 20),
            ],
        ),
    ],
    ids=["states", "whole", "tower"],
)
def test_each_part_of_a_run_holds_what_its_trees_weigh(recipe, parts, monkeypatch):
    """Three rolls on five rows of 64 picture tokens and 16 words; each program as if it set the same aside."""
    opened = base.open_model("tiny", "", "float32", (), 0, NoTokenizer)
    recipe = Recipe(batch=2, evaluate_batch=3, dtype="float32", rank=2, **recipe)
    made = outline(opened, recipe, *stated_data(opened.model, recipe, Stated(16, 4, ((64, 64),), rows=5)))
    monkeypatch.setattr(memory, "measure", lambda *given: Program(1000, 20, 300, 4))
    assert memory.needs_of(made, 3, exact=True) == [Need(*part) for part in parts]


def test_what_a_program_sets_aside_is_added_to_what_lies_there():
    need = Need("", 1, 2, 4, 8, 16, 32, 64)
    assert need.total == 127
    assert need.beside(Program(100, 200, 300, 400), 5) == Need("", 1, 2, 4, 8, 416, 437, 264)


def test_a_step_s_shapes_are_looked_for_in_all_rows_of_a_joint_batch(tmp_path, monkeypatch):
    made, asked = made_of(tmp_path, 1), []
    recipe = dataclasses.replace(made.recipe, steps=10, batch=4, accumulate=3)
    monkeypatch.setattr(memory, "likely", lambda shapes, needed, rows, batches: asked.append((rows, batches)) or shapes)
    found = [part for part, _ in memory.unchecked(dataclasses.replace(made, recipe=recipe), None, 2, draws=5)]
    assert asked == [(2 * 4 * 3, 3 * 10)]  # five draws fill two slots thrice
    assert found == ["evaluation", "training step"]  # what makes rolls; steps of the one shape, as `likely` says here


def test_the_steps_that_are_planned_are_those_that_run(drawn_ads, tmp_path, monkeypatch):
    """What the check compiles, the compiler's cache has when the run comes to it: no program is compiled twice."""
    shutil.copytree(drawn_ads, tmp_path, dirs_exist_ok=True)
    rows = (tmp_path / "data.jsonl").read_text().splitlines()[:8]
    (tmp_path / "few.jsonl").write_text("\n".join(rows) + "\n")
    recipe = Recipe(evaluate_batch=2)
    data = read_data({"train": tmp_path / "few.jsonl"}, Wanted("auto"), lambda text: None)
    opened = base.open_model("tiny")
    made = outline(opened, recipe, data, setup.encode(opened.model, recipe, data))
    ready = prepare(recipe, data, Asked(1))
    state = new_state(ready.run, 1)
    batch, source = joint_batch([ready.run.loader(state.slots[0].draw)], [0], 1)
    real = ready.run.step.lower(ready.run.base, source, state.rolls, batch).as_text()
    wanted = memory.step_of(made, 1)
    assert wanted.jitted.lower(*wanted.args).as_text() == real
