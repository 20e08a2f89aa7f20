"""Going on with a roll: its own recipe, changed by what was typed and by nothing else."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rolltune import base, trees
from rolltune.errors import UserError
from rolltune.jobs.second_pass import Earlier, roll_to_continue, second_pass
from rolltune.recipe import Recipe
from rolltune.weights.roll_file import Base, RollCard, save_roll
from rolltune.weights.whole import ENDING


def saved(folder, **changes):
    recipe = dataclasses.asdict(Recipe()) | {"task": "choose"} | changes
    card = RollCard(Base("tiny", "ab"), "lora", recipe, "ok?", ["a", "b"], {"positive": "a"})
    save_roll(folder / "first.npz", {"text": {"norm": np.ones(2, np.float32)}}, card)
    return str(folder / "first.npz")


def again(path, typed, **changes):
    said = []
    asked = SimpleNamespace(second=path, name="second", stated=frozenset(typed))
    return second_pass(asked, Recipe(**{**changes, **typed}), said.append)[1], " ".join(said)


def test_the_rolls_own_recipe_counts_and_what_was_typed(tmp_path):
    path = saved(tmp_path, optimizer="sgd", rate=0.03, dropout=0.1, steps=16)
    new, said = again(path, {"steps": 8}, dropout=0.5)
    assert (new.optimizer, new.dropout, new.steps, new.prompt, new.answers) == ("sgd", 0.1, 8, "ok?", ("a", "b"))
    assert new.rate == pytest.approx(0.003) and "steps 16 -> 8" in said and "a tenth of its rate: 0.003" in said
    new, said = again(path, {"rate": 0.5, "prompt": "so?"})
    assert (new.rate, new.prompt, new.steps) == (0.5, "so?", 16) and "at lr 0.5" in said and "->" not in said
    asked = SimpleNamespace(second=None, name="second", stated=frozenset())
    assert second_pass(asked, new, lambda text: None) == (None, new)


def test_what_was_learned_before_is_known_and_counted():
    card = RollCard(Base("tiny", "ab"), "lora", {}, "", [], {"passes": 3, "learned": ["p1", "t2"]})
    earlier = Earlier(None, card, Recipe(), {})
    assert earlier.passes == 3 and earlier.learned == {"p1", "t2"}
    bare = dataclasses.replace(earlier, card=dataclasses.replace(card, metrics={}))
    assert bare.passes == 1 and bare.learned == frozenset()


def test_only_a_roll_of_which_nothing_is_missing_is_gone_on_with():
    model, params = base.load("tiny", "", "float32")
    card, recipe = RollCard(model.base, "attention", {}, "ok?", ["a", "b"]), Recipe(task="choose", method="attention")
    check = lambda name: Earlier(Path(name), card, recipe, {}).check(model, trees.shapes(params))
    with pytest.raises(UserError, match=r"first\.npz: its arrays are not those of its recipe: .*q/kernel is missing"):
        check("first.npz")
    check(f"first{ENDING}")  # in a model as a whole nothing is beside the weights


def test_what_was_typed_has_to_fit_the_rolls_recipe(tmp_path):
    with pytest.raises(UserError, match=r"warmup: 4\.0; expected less than the 2 steps"):
        again(saved(tmp_path, steps=16, warmup=4.0), {"steps": 2})


def test_a_recipe_that_none_can_have_names_the_roll(tmp_path):
    with pytest.raises(UserError, match=r"first\.npz: rank"):
        again(saved(tmp_path, rank=0), {})


def test_without_a_name_the_roll_of_the_same_name_is_gone_on_with_or_else_the_latest_best(tmp_path):
    with pytest.raises(UserError, match="there is no roll"):
        roll_to_continue("", "new", tmp_path)
    for age, name in enumerate(("old", "late", "early.rank2", "early.step9", "early.roll1.step9", "early.whole")):
        (tmp_path / f"{name}.npz").touch()
        os.utime(tmp_path / f"{name}.npz", (1000 + age, 1000 + age))
    assert roll_to_continue("", "new", tmp_path) == tmp_path / "late.npz"
    assert roll_to_continue("", "old", tmp_path) == tmp_path / "old.npz"
    assert roll_to_continue("early.rank2", "old", tmp_path) == tmp_path / "early.rank2.npz"


@pytest.mark.parametrize("typed", [{"rank": 4}, {"first_layer": 2}])
def test_what_the_rolls_arrays_are_made_for_stays(tmp_path, typed):
    with pytest.raises(UserError, match=rf"{next(iter(typed))}: .*first\.npz has"):
        again(saved(tmp_path), typed)
