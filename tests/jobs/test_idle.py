"""Whatever a person states and counts for nothing in a run is said, and nothing else is."""

import dataclasses

import pytest

from rolltune import recipe as recipes
from rolltune.evaluation.tasks import CHOOSE, CLASSIFY, WRITE
from rolltune.jobs.idle import Drawn, idle, idle_flags, idle_question
from rolltune.jobs.learn import Options
from rolltune.recipe import Recipe
from rolltune.recipe_file import EXAMPLES
from rolltune.weights.card import Base, RollCard

ONE, EIGHT = Drawn(1, 1), Drawn(8, 8)


@pytest.mark.parametrize(
    ("stated", "task", "drawn", "why"),
    [
        ({"length_normalized": True}, WRITE, ONE, "no allowed answers are scored (task write)"),
        ({"length_normalized": True}, CLASSIFY, ONE, "no allowed answers are scored (task classify)"),
        ({"answer_tokens": 8}, CHOOSE, ONE, "nothing is written"),
        ({"answers": ("a", "b")}, WRITE, ONE, "any answer can be written"),
        ({"positive": "yes"}, WRITE, ONE, "written answers have no positive one"),
        ({"truncate": "right"}, CHOOSE, ONE, "only a classifier's text is cut"),
        ({"rank": 4, "method": "full"}, CHOOSE, ONE, "no adapter is trained (method full)"),
        ({"dropout": 0.1, "method": "attention"}, CHOOSE, ONE, "no adapter is trained"),
        ({"alphas": (1.0,), "method": "full"}, CHOOSE, ONE, "no adapter is trained"),
        ({"trained_dtype": "bfloat16"}, CHOOSE, ONE, "adapters alone are trained"),
        ({"steps": 8, "epochs": 2.0}, CHOOSE, ONE, "epochs are given"),
        ({"rate": 0.1, "rates": (0.1, 0.2)}, CHOOSE, EIGHT, "rates are given"),
        ({"rate": 0.1, "rate_range": (0.1, 0.2)}, CHOOSE, EIGHT, "each roll draws its own"),
        ({"rate_range": (0.1, 0.2), "rates": (0.1, 0.2)}, CHOOSE, EIGHT, "rates are given"),
        ({"alpha": 2.0, "alphas": (1.0,)}, CHOOSE, EIGHT, "alphas are given"),
        ({"weight_decay": 2.0, "weight_decays": (1.0,)}, CHOOSE, EIGHT, "weight_decays are given"),
        ({"rates": (0.1, 0.2, 0.3)}, CHOOSE, ONE, "one roll is trained, and so the last 2 of its 3 values"),
        ({"views": 8}, CHOOSE, ONE, "pictures are shown as they are"),
        ({"save_every": 512}, CHOOSE, ONE, "the training has 512 steps"),
        ({"keep_last": 2}, CHOOSE, ONE, "no states are kept on the way"),
        ({"evaluate_every": 600}, CHOOSE, ONE, "the training has 512 steps"),
        ({"keep_best": True}, CHOOSE, ONE, "nothing is evaluated on the way"),
        ({"keep_share": 0.3}, CHOOSE, EIGHT, "there are no rungs"),
        ({"keep_share": 0.3, "rungs": (0.5,)}, CHOOSE, ONE, "one roll is trained at a time"),
        ({"redraws": 2}, CHOOSE, ONE, "one roll is trained at a time"),
        ({"redraw_factor": 0.9, "redraws": 0}, CHOOSE, EIGHT, "no roll is drawn again"),
        ({"draws": 8}, CHOOSE, EIGHT, "8 rolls are trained at once"),
    ],
)
def test_what_counts_for_nothing_is_said_with_the_reason(stated, task, drawn, why):
    recipe = dataclasses.replace(Recipe(), **stated)
    recipes.check(recipe)
    name = next(iter(stated))
    told = idle(recipe, stated, task, drawn)
    assert len(told) == 1 and told[0].startswith(f"{name} counts for nothing: {why}")
    assert idle(recipe, set(stated) - {name}, task, drawn) == []  # nobody stated it: a default, or a roll's own


def test_what_counts_is_not_said():
    useful = {"rates": (0.1, 0.2), "keep_share": 0.3, "rungs": (0.5,), "keep_best": True, "redraws": 2, "draws": 16}
    useful |= {"save_every": 64, "keep_last": 2, "evaluate_every": 32, "augment": ("crop",), "views": 2, "rank": 4}
    recipe = dataclasses.replace(Recipe(), **useful)
    assert idle(recipe, useful, CHOOSE, EIGHT) == []
    assert idle(recipe, useful, CHOOSE, Drawn(0, 0)) == []  # how many rolls fit is found out later
    assert idle(dataclasses.replace(Recipe(), answer_tokens=8), {"answer_tokens"}, WRITE, ONE) == []
    whole = dataclasses.replace(Recipe(), method="full", trained_dtype="bfloat16")
    assert idle(whole, {"method", "trained_dtype"}, CHOOSE, ONE) == []


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_no_example_recipe_states_what_counts_for_nothing(file):
    recipe, stated = recipes.load(file), recipes.stated(file)
    task = recipe.task if recipe.task != "auto" else WRITE if "answer_tokens" in stated else CHOOSE
    assert idle(recipe, stated, task, Drawn(0, 0)) == []


@pytest.mark.parametrize(
    ("asked", "recipe", "drawn", "told"),
    [
        ({"resume": True, "overwrite": True}, {}, ONE, "--overwrite replaces an earlier run's rolls; the interrupted"),
        ({"keep": "all"}, {}, ONE, "--keep all counts for nothing: one roll is trained"),
        ({"state_every": "512"}, {}, ONE, "--state-every 512 counts for nothing: the training has 512 steps"),
        ({"reading": {"question": "is it?"}}, {"prompt": "so?"}, ONE, "--question counts for nothing: the prompt"),
        ({"keep": "all", "overwrite": True, "state_every": "511"}, {}, EIGHT, ""),
        ({"reading": {"question": "is it?"}, "resume": True, "state_every": "600,10m"}, {}, EIGHT, ""),
    ],
)
def test_flags_that_count_for_nothing_are_said(asked, recipe, drawn, told):
    options = Options("set1", "mine", **asked)
    steps = int(options.state_every.partition(",")[0] or 0)
    found = idle_flags(options, dataclasses.replace(Recipe(), **recipe), drawn, steps)
    assert len(found) == bool(told) and all(text.startswith(told) for text in found)


def test_a_question_beside_rolls_that_have_their_own_is_said():
    own, none = (RollCard(Base("tiny", "ab"), "lora", {}, prompt) for prompt in ("is it?", ""))
    assert idle_question({"question": "so?"}, [own]) == [
        "--question counts for nothing: 'is it?' is asked, as the roll was trained"
    ]
    assert idle_question({"question": "so?"}, [own, none]) == idle_question({"question": None}, [own]) == []
