import numpy as np
import pytest
from made_predictions import counted, texts

from rolltune.errors import UserError
from rolltune.evaluation.figures import check_name, default_metric, measured, mixed_title, no_better, order, worth
from rolltune.evaluation.metrics import Prediction


def test_each_task_has_its_own_metrics():
    for metric, kind in (("f-measure", "choose"), ("accuracy", "classify"), ("anls", "write"), ("anls", "auto")):
        check_name(metric, kind)
    with pytest.raises(UserError, match="'f-measure' for task write; there are: log-loss, exact-match, anls"):
        check_name("f-measure", "write")
    with pytest.raises(UserError, match="'anls' for task choose; there are: f-measure, "):
        check_name("anls", "choose")
    with pytest.raises(ValueError, match="not decided yet"):
        default_metric("auto")
    assert [default_metric(kind) for kind in ("choose", "classify", "write")] == ["f-measure", "f-measure", "log-loss"]


def test_of_three_answers_none_is_positive_unless_it_is_named():
    chances = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    three = Prediction(tuple("wxyz"), ("a", "b", "c"), np.array([0, 1, 2, 2]), np.log(chances))
    assert measured(three).positive is None and measured(three).precision == pytest.approx((0.5 + 1 + 1) / 3)
    assert measured(three, "b").positive == "b" and measured(three, "b").precision == 1


def test_more_is_better_but_for_log_loss_and_undefined_is_last():
    good = measured(texts(["a", "b"], [("a",), ("b",)], [0.1, 0.1]))
    poor = measured(texts(["c", "c"], [("a",), ("b",)], [2.0, 3.0]))
    mute = measured(texts(None, [("a",), ("b",)], [0.01, 0.01]))
    assert worth(good, "log-loss") > worth(poor, "log-loss") and worth(good, "anls") > worth(poor, "anls")
    assert sorted([mute, poor, good], key=lambda one: order(one, "anls")) == [good, poor, mute]
    assert order(measured(counted(3, 5, 1, 1), "yes"), "accuracy")[0] == pytest.approx(-0.8)


def test_the_title_of_all_rows_says_what_is_in_them():
    assert mixed_title("./dataset/set1", 1, ("train", "valid")) == (
        "./dataset/set1 (all) (1st trained): train and valid mixed"
    )
    assert mixed_title("./dataset/set1", 0, ("train", "valid", "test")).endswith(
        "(all) (not trained): train and valid mixed, test left out"
    )


def test_no_better_than_one_answer_for_all_rows():
    assert no_better(measured(counted(0, 7, 0, 3), "yes"), "the roll") == (
        "the roll is right no more often (0.7) than always giving the most frequent answer (0.7)"
    )
    assert no_better(measured(counted(1, 7, 0, 2), "yes"), "the roll") is None
    accepted = [("a", "b"), ("b",), ("c",), ("d",)]  # "b" suits two of four
    assert "the best prompt is right no more often (0.5) than" in no_better(
        measured(texts(["a", "x", "c", ""], accepted)), "the best prompt"
    )
    assert no_better(measured(texts(["a", "b", "c", ""], accepted)), "the roll") is None
    assert no_better(measured(texts(None, accepted)), "the roll") is None
    assert no_better(measured(texts([], [])), "the roll") is None
