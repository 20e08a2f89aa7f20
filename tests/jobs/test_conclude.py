"""What is written of a roll: the recipe that trains it alone, all that it has learned from, how it ended."""

import dataclasses

import numpy as np
import pytest
from small_model import make_example

from rolltune.errors import UserError
from rolltune.evaluation.metrics import Positive, Prediction, measure
from rolltune.evaluation.tasks import CHOOSE, Task
from rolltune.jobs.cards import decided_by
from rolltune.jobs.conclude import (
    Passes,
    _decided,
    _entry,
    _with_decision,
    card_of,
    own_recipe,
    trained_marks,
    with_decision,
    with_known,
)
from rolltune.recipe import Recipe
from rolltune.training.dataset import Data
from rolltune.training.loop import COLLAPSED, FinishedRoll
from rolltune.training.rolls import Draw
from rolltune.training.step import REASONS, STOPPED
from rolltune.weights.roll_file import Base

DATA = Data(
    [make_example(n, answer=("no", "yes")[n % 2]) for n in range(6)],
    {"train": range(0, 2), "valid": range(2, 4), "test": range(4, 6)},
    {},
    Task(CHOOSE, ("no", "yes")),
    Positive("yes", ""),
    [frozenset({f"p{n}", "shared"}) for n in range(6)],
)
DRAW = Draw(3, 45, 0.02, 16.0, 0.5, fold=1)
BASE = Base("tiny", "ab")


def test_the_recipe_of_a_roll_trains_this_one_alone():
    several = Recipe(seed=42, rates=(0.01, 0.02), alphas=(8.0, 16.0), weight_decays=(0.0, 0.5), rate_range=(0.1, 0.2))
    single = own_recipe(several, DRAW)
    assert (single.seed, single.rate, single.alpha, single.weight_decay) == (45, 0.02, 16.0, 0.5)
    assert (single.rates, single.alphas, single.weight_decays, single.rate_range) == ((), (), (), ())


def test_a_roll_has_learned_from_its_training_rows_or_from_all_folds_but_its_own():
    assert trained_marks(DATA, DRAW, None) == {"p0", "p1", "shared"}
    assert trained_marks(DATA, DRAW, [0, 1, 2, 1]) == {"p0", "p2", "shared"}  # the test split takes no part


def test_a_card_has_what_all_passes_have_learned_from():
    card = card_of(Recipe(), BASE, DATA, DRAW, Passes(2, frozenset({"p9", "p1"})))
    assert card.metrics["learned"] == ["p0", "p1", "p9", "shared"] and card.metrics["passes"] == 2
    assert (card.base, card.seed, card.answers, card.prompt) == (BASE, 45, ["no", "yes"], "is it?")
    assert card_of(Recipe(prompt="so?"), BASE, DATA, DRAW, Passes(1)).prompt == "so?"
    other = [dataclasses.replace(one, turns=make_example(0, "or so?").turns) for one in DATA.examples[:1]]
    mixed = dataclasses.replace(DATA, examples=[*other, *DATA.examples[1:]])
    assert card_of(Recipe(), BASE, mixed, DRAW, Passes(1)).prompt == ""  # each row has its own


def test_a_card_counts_the_judging_rows_that_any_pass_has_learned_from():
    data = dataclasses.replace(DATA, marks=[frozenset({f"p{n}"}) for n in (0, 1, 2, 1, 4, 9)])
    figures = measure(Prediction((), ("no", "yes"), np.zeros(0, int), np.zeros((0, 2))), "yes")
    passes = Passes(2, frozenset({"p9"}))  # an earlier one learned from what is the last test row here
    entry = dataclasses.replace(
        _entry(Recipe(), data, FinishedRoll(DRAW, 7, "", False, None), None), valid=figures, test=figures
    )
    known = lambda entry, folds: with_known(
        card_of(Recipe(), BASE, data, DRAW, dataclasses.replace(passes, folds=folds), entry), data, DRAW, folds
    ).metrics["known"]
    assert known(entry, None) == {"valid": 1, "test": 1}
    assert known(dataclasses.replace(entry, test=None), None) == {"valid": 1}  # of lower ranks it judges none
    assert known(entry, [0, 1, 0, 1]) == {"valid": 0, "test": 1}  # fold 1 holds out rows 1 and 3, which are copies


@pytest.mark.parametrize(
    ("reason", "redrawn", "state"),
    [
        ("", False, "alive"),
        (REASONS[STOPPED], False, "stopped"),
        (COLLAPSED, True, "redrawn"),
        (COLLAPSED, False, "died"),
    ],
)
def test_the_board_says_how_a_roll_ended(reason, redrawn, state):
    entry = _entry(Recipe(), DATA, FinishedRoll(dataclasses.replace(DRAW, attempt=2), 7, reason, redrawn, None), None)
    assert entry.status.state == state and entry.status.step == (None if state == "alive" else 7)
    assert (entry.roll, entry.seed, entry.learning_rate, entry.attempt) == (3, 45, 0.02, 2)


def test_a_roll_s_threshold_is_chosen_on_its_validation_rows_alone_and_kept_beside_the_plain_figures():
    chance = np.array([0.9, 0.1, 0.2, 0.4, 0.1, 0.35])  # of "yes"; rows 1, 3 and 5 are "yes", 2 and 3 are validation
    label = np.array([0, 1, 0, 1, 0, 1])
    ids = tuple(one.id for one in DATA.examples)
    judged = Prediction(ids, ("no", "yes"), label, np.log(np.stack([1 - chance, chance], 1)))
    one = FinishedRoll(DRAW, 7, "", False, None, judged=judged)
    recipe = Recipe(metric="f-measure", threshold="metric")
    made = _decided(recipe, DATA, one)
    assert made.threshold == ("yes", pytest.approx(0.3)) and "2 validation rows, 1 of them" in made.text
    assert not _decided(Recipe(metric="f-measure"), DATA, one).text
    decided = _with_decision(one, made)
    entry = dataclasses.replace(_entry(recipe, DATA, decided, None), test=measure(decided.judged.at([4, 5]), "yes"))
    card = with_decision(card_of(recipe, BASE, DATA, DRAW, Passes(1), entry), made, DATA, decided)
    assert (card.metrics["test"]["recall"], card.metrics["undecided"]["test"]["recall"]) == (1.0, 0.0)
    assert decided_by(card, "x") == made and card.metrics["test"]["threshold"] == made.threshold.at
    broken = dataclasses.replace(card, metrics={**card.metrics, "decision": {"temperature": -1}})
    with pytest.raises(UserError, match=r"x: decision\.temperature is -1"):
        decided_by(broken, "x")
