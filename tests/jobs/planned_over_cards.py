"""What each of several cards needs that share a base, on virtual devices: run by test_shared_base.py."""

import dataclasses
import json
import shutil

import jax
import pytest

from rolltune import base, memory, sharding
from rolltune.data.batches import evaluation_batches, joint_batch
from rolltune.errors import UserError
from rolltune.free_memory import CONTEXT, HEADROOM
from rolltune.jobs import laying, learn
from rolltune.jobs import plan_memory as planning
from rolltune.jobs.laying import groups_for
from rolltune.memory import Need, needs_of
from rolltune.recipe import Recipe
from rolltune.training import rolls as tickets
from rolltune.training import setup
from rolltune.training.dataset import Wanted, read_data
from rolltune.training.loop import new_state
from rolltune.training.outline import NoTokenizer, Stated, outline, stated_data


def write_config(folder, layers=2):
    config = {
        **{"model_type": "llama", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": layers},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "rms_norm_eps": 1e-5},
    }
    (folder / "config.json").write_text(json.dumps(config))


def made_of(folder, recipe, count, layers=2):
    """The outline of a small decoder whose base so many cards share; with 1 it is whole."""
    write_config(folder, layers)
    recipe = dataclasses.replace(recipe, model=str(folder), dtype="float32", answers=("a", "b"), sharding="fsdp")
    opened = base.open_model(recipe.model, "", recipe.dtype, recipe.packing, recipe.num_crops, NoTokenizer)
    places = groups_for(recipe, opened, 1, lambda: False, lambda text: None, sharding.cards_here()[:count])
    return outline(opened, recipe, *stated_data(opened.model, recipe, Stated(64, 8, rows=4)), places)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_each_card_holds_its_part_and_works_on_its_rows(tmp_path, method):
    recipe = Recipe(method=method, rank=4, batch=8, evaluate_batch=8)
    whole, halves = (needs_of(made_of(tmp_path, recipe, count), 1, exact=True) for count in (1, 4))
    assert [need.part for need in whole] == [need.part for need in halves]
    before, after = ({need.part: need for need in needs}["training step"] for needs in (whole, halves))
    if method == "lora":
        assert before.weights / 4 < after.weights < before.weights / 3.8  # norms are whole
        assert (after.trained, after.optimizer) == (before.trained, before.optimizer)  # adapters are, too
    else:
        assert before.trained / 4 < after.trained < before.trained / 3.8
        assert before.optimizer / 4 < after.optimizer < before.optimizer / 3.8
    assert after.activations + after.temporary < (before.activations + before.temporary) / 2
    for need, other in zip(halves, whole, strict=True):
        assert need.total < other.total, need.part


def test_few_layers_say_what_all_of_a_cut_model_need(tmp_path, monkeypatch):
    """With layers in a list, as a GPU has them."""
    monkeypatch.setattr("rolltune.training.outline.is_gpu", lambda: True)
    monkeypatch.setattr(memory, "EXACT_DEPTH", 1)
    monkeypatch.setattr(memory, "LEAST_DEPTH", 2)
    made = made_of(tmp_path, Recipe(rank=4, batch=4, evaluate_batch=4), 2, layers=6)
    assert memory.depths_for(made) == (2, 4)
    for guess, known in zip(needs_of(made, 2), needs_of(made, 2, exact=True), strict=True):
        assert guess.total == pytest.approx(known.total, rel=0.04), guess.part


@pytest.fixture
def few(drawn_ads, tmp_path, monkeypatch):
    """Eight of the sample ads, read; and a cache of their own."""
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(drawn_ads, tmp_path, dirs_exist_ok=True)
    rows = (tmp_path / "data.jsonl").read_text().splitlines()[:8]
    (tmp_path / "few.jsonl").write_text("\n".join(rows) + "\n")
    return read_data({"train": tmp_path / "few.jsonl"}, Wanted("auto"), lambda text: None)


def test_the_steps_that_are_planned_are_those_that_run(few):
    """Two rolls on two groups of two cards: what the check compiles is what runs, and lies there as it does."""
    recipe = Recipe(evaluate_batch=3, batch=3, sharding="fsdp", sharding_group=2)
    ready = learn.prepare(recipe, few, learn.Asked(2, slots=2))
    opened = setup.open_model(recipe)
    places = groups_for(recipe, opened, 2, lambda: False, lambda text: None)
    made = outline(opened, recipe, few, setup.encode(opened.model, recipe, few), places)
    place_of = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding.spec), tree)
    assert place_of(made.cached.base) == place_of(ready.run.base)
    state = new_state(ready.run, 2)
    batch, source = joint_batch([ready.run.loader(slot.draw) for slot in state.slots], [0, 0], 1, 2, 2)
    real = ready.run.step.lower(ready.run.base, source, state.rolls, batch).as_text()
    wanted = memory.step_of(made, 1)
    assert wanted.jitted.lower(*wanted.args).as_text() == real


def test_what_is_compiled_ahead_for_rolls_over_cards_is_what_runs(few, monkeypatch):
    """Four rolls on four cards with a whole base each: an outline has one, and the check compiled for that alone."""
    recipe = Recipe(evaluate_batch=3, batch=3, steps=2, sharding="rolls")
    ready = learn.prepare(recipe, few, learn.Asked(4, slots=4))
    opened = setup.open_model(recipe)
    made = outline(opened, recipe, few, setup.encode(opened.model, recipe, few))
    run, evaluator, state = ready.run, ready.evaluator, new_state(ready.run, 4)
    batch, source = joint_batch([run.loader(slot.draw) for slot in state.slots], [0] * 4, 1, 4)
    _, scored, table = next(evaluation_batches(evaluator.encoded, 3))
    trained = (state.rolls.trainable, state.rolls.scale)
    program, given = tickets.beginning(
        run.lottery, run.config, run.start, [slot.draw for slot in state.slots], run.mesh
    )
    real = [
        program.lower(*given).as_text(),
        evaluator.score.lower(run.base, table, *trained, scored).as_text(),
        run.step.lower(run.base, source, state.rolls, batch).as_text(),
    ]
    compiled: list[str] = []
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda lowered: compiled.append(lowered.as_text()))
    for _, compile_one in memory.unchecked(made, run.mesh, 4, 4):
        compile_one()
    assert compiled == real


@pytest.mark.parametrize(
    ("word", "size", "mesh", "fit", "told"),
    [
        ("fsdp", 2, {"rolls": 2, "cards": 2}, 6, "3 on each group of 2 cards"),
        ("rolls", 0, {"rolls": 4}, 12, "3 on each of 4 cards"),
    ],
)
def test_as_many_rolls_as_fit_on_each_card_or_group(few, monkeypatch, word, size, mesh, fit, told):
    recipe = Recipe(evaluate_batch=2, batch=2, sharding=word, sharding_group=size)
    run = learn.prepare(recipe, few, learn.Asked(1, slots=1, fill=True)).run
    assert dict(run.mesh.shape) == mesh
    one, two = memory.step_bytes(run, 1), memory.step_bytes(run, 2)
    assert one < two < 3 * one
    monkeypatch.setattr(memory, "free_bytes", lambda: (one + 2.5 * (two - one)) / HEADROOM)
    count, why = memory.fit_rolls(run)
    assert count == fit and told in why


def weighed(made, rolls, *how, **more):
    """In the place of the compiler: a card's part of the weights, less with remat, and a little for each roll."""
    size = memory.size_of(made.params) * (0.9 if made.recipe.remat else 1)
    return [Need("training step", weights=round(size), trained=rolls * memory.size_of(made.params) // 100)]


def test_a_run_that_fits_no_card_whole_is_cut_and_one_that_fits_no_group_is_refused(few, monkeypatch):
    class Loaded(Exception):
        pass

    def load(opened, listed, put=None):
        raise Loaded("cut" if put else "whole")

    for place in (laying, planning):
        monkeypatch.setattr(place, "needs_of", weighed)
    monkeypatch.setattr(learn, "load_opened", load)
    size, said = memory.size_of(setup.open_model(Recipe()).shapes()), []

    def start(share, **changed):
        said.clear()
        monkeypatch.setattr(learn, "free_bytes", lambda: round(size * share))
        learn.prepare(Recipe(batch=4, **changed), few, learn.Asked(1, slots=1), say=said.append)

    with pytest.raises(Loaded, match="whole"):
        start(1.2)
    with pytest.raises(Loaded, match="cut"):
        start(1.0)  # without the headroom
    assert any("are cut over 4 cards" in text for text in said) and any("memory:" in text for text in said)
    with pytest.raises(UserError, match=r"cannot fit.*\n  --config.remat=\w+: .*not enough alone\n.*with --cards"):
        start(0.01)
    with pytest.raises(UserError, match=r"cannot fit.*\n  --config.sharding=fsdp: .*fits\n  --config.remat="):
        start(0.8, sharding="rolls")


def test_a_plan_for_several_cards_offers_to_cut_and_more_cards(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "needs_of", weighed)
    monkeypatch.setattr(planning.gpus, "compiler_here", lambda: False)
    monkeypatch.setenv("COLUMNS", "100")
    write_config(tmp_path)
    size = made_of(tmp_path, Recipe(), 1).opened.shapes()
    said: list[str] = []

    def plan(cards, share, rolls=1, **changed):
        said.clear()
        recipe = Recipe(model=str(tmp_path), batch=4, dtype="float32", **changed)
        budget = round(memory.size_of(size) * share + CONTEXT)
        stated = Stated(32, 8, rows=4)
        status = planning.plan_memory(
            planning.Options(stated=stated, card="h100", cards=cards, budget=budget, rolls=rolls), recipe, said.append
        )
        return status, " ".join(capsys.readouterr().out.split()), "\n".join(said)

    status, shown, told = plan(2, 2, rolls=4, sharding="rolls")
    assert status == 0 and "GiB on each of 2 cards, 4 rolls" in shown and "cut over 2 cards" in shown
    assert "up to 130 rolls at once fit with it" in told  # the first and 64, which are the most, on each
    status, shown, told = plan(4, 0.85)
    assert status == 0 and "sharding=auto: a card that holds the whole base needs" in told
    assert "are cut over 4 cards" in told and "whole base on each card" in shown and "nothing to change" in told
    _, _, told = plan(1, 0.4)
    assert "on 4 such cards that share the base (--cards 4 --config.sharding=fsdp)" in told
    with pytest.raises(UserError, match=r"sharding_group: 3 of 4 cards"):
        plan(4, 2, sharding="fsdp", sharding_group=3)
