"""A threshold and a temperature: chosen by hand-worked rows, kept in a card, and refused where they mean nothing."""

import json

import numpy as np
import pytest
from made_predictions import texts

from rolltune.errors import UserError
from rolltune.evaluation.decision import Decision, check, choose_threshold, decide, decision_of, plain_figures
from rolltune.evaluation.metrics import Prediction, Threshold, measure

ANSWERS = ("no", "yes")
# The probability of "yes", and whether it is right: at 0.5 one of four is found; from 0.25 on all four and one other.
SHARES = (0.9, 0.45, 0.4, 0.35, 0.3, 0.2, 0.1, 0.05)
LABEL = (1, 1, 0, 1, 1, 0, 0, 0)


def scores(shares=SHARES, label=LABEL):
    table = np.log(np.array([[1 - share, share] for share in shares], np.float64))
    return Prediction(tuple(f"r{n}" for n in range(len(shares))), ANSWERS, np.array(label), table)


def test_the_best_threshold_for_the_metric_stands_between_two_rows():
    at, reason = choose_threshold(scores(), "yes", "metric", "f-measure")
    assert at == pytest.approx(0.25)
    found = measure(scores()._replace(threshold=Threshold("yes", at)), "yes")
    assert (found.tp, found.fp, found.fn, found.threshold) == (4, 1, 0, at)
    assert measure(scores(), "yes").tp == 1  # without it
    assert "on 8 validation rows, 4 of them 'yes': 0.8889, where 0.5 has 0.4 " in reason
    assert "4 rows of the rarer answer are few" in reason and "flatters" in reason


def test_a_stated_precision_takes_the_lowest_threshold_that_has_it():
    at, reason = choose_threshold(scores(), "yes", "precision=0.8", "f-measure")
    assert at == pytest.approx(0.25) and "0.8 (4 of 5, 95 %: 0.38 to 0.96)" in reason
    assert choose_threshold(scores(), "yes", "precision=0.9", "f-measure").at == pytest.approx(0.425)
    turned = scores(label=[1 - one for one in LABEL])
    at, reason = choose_threshold(turned, "yes", "precision=0.9", "f-measure")
    assert at is None and "none reaches a precision of 0.9" in reason and "the highest is 0.4286" in reason


@pytest.mark.parametrize(
    ("shares", "label", "why"),
    [
        ((0.3, 0.2), (0, 0), "nothing to tell apart"),
        ((0.3, 0.30001, 0.3), (0, 1, 0), "all have the same probability"),
        ((0.8, 0.2), (1, 0), "none has a better F-measure than 0.5"),
    ],
)
def test_where_none_can_be_chosen_the_likeliest_answer_stays_and_it_says_why(shares, label, why):
    at, reason = choose_threshold(scores(shares, label), "yes", "metric", "f-measure")
    assert at is None and why in reason


def test_equal_rows_are_never_parted():
    # Cut between the first two, F would be 1; they are equal to rounding, so they stay together.
    at, _ = choose_threshold(scores((0.4, 0.39995, 0.1, 0.1), (1, 0, 0, 0)), "yes", "precision=1", "f-measure")
    assert at is None


def test_a_decision_is_applied_undone_and_kept_in_a_card():
    made = decide(scores(), "yes", "metric", "valid", "f-measure")
    assert made.temperature != 1 and made.threshold is not None
    assert made.reasons[0] == "the temperature has the lowest log-loss on 8 validation rows" and len(made.reasons) == 2
    right = decide(scores((0.9, 0.1), (1, 0)), "yes", "none", "valid", "f-measure")
    assert (right.temperature, right.threshold) == (1.0, None)
    assert right.reasons[0].startswith("no temperature was chosen: all 2 rows are right")
    decided = made.apply(scores())
    assert decided.predicted.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert decided.at([7, 0]).predicted.tolist() == [0, 1]
    assert Prediction.join([decided.at([0]), decided.at([4])]).predicted.tolist() == [1, 1]
    with pytest.raises(ValueError, match="threshold"):
        Prediction.join([decided, scores()])
    undone = made.undo(decided)
    np.testing.assert_allclose(undone.log_probs, scores().log_probs, atol=1e-12)
    assert undone.predicted.tolist() == scores().predicted.tolist()
    assert decision_of(json.loads(json.dumps(made.card())), ANSWERS) == made
    assert "by the likeliest answer at temperature 1: F-measure 0.4," in plain_figures(made, decided, "yes")
    written = texts(["a"], [("a",)])
    assert made.apply(written) is written and decision_of(None, ()) == Decision()


def test_a_row_whose_own_answer_is_a_third_one_is_given_one_of_the_two():
    table = np.array([[np.log(0.6), np.log(0.4), -np.inf], [-np.inf, 0.0, -np.inf]])
    strange = Prediction(("a", "b"), (*ANSWERS, "perhaps"), np.array([2, 2]), table)
    made = Decision(2.0, Threshold("yes", 0.6))
    assert made.apply(strange).predicted.tolist() == [0, 1] and not made.apply(strange).correct.any()


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ([], "no object"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"threshold": {"answer": "maybe", "at": 0.5}}, "threshold"),
        ({"threshold": {"answer": "yes", "at": 1.5}}, "threshold"),
        ({"reasons": [1]}, "reasons"),
    ],
)
def test_a_broken_card_is_refused(card, named):
    with pytest.raises(ValueError, match=named):
        decision_of(card, ANSWERS)


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        (("metric", "none", "f-measure", (), True), "written"),
        (("none", "valid", "f-measure", ANSWERS, False), "02-shuffle_data.sh -v N"),
        (("metric", "none", "f-measure", ("a", "b", "c"), True), "there are 3"),
        (("metric", "none", "log-loss", ANSWERS, True), "precision=0.95"),
    ],
)
def test_what_cannot_be_chosen_is_said_before_the_training(asked, advice):
    with pytest.raises(UserError, match=advice):
        check(*asked)
    check("none", "none", "log-loss", (), False)
    check("precision=0.9", "valid", "log-loss", ANSWERS, True)
