import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from made_predictions import counted, prediction

from rolltune.errors import UserError
from rolltune.evaluation.figures import block
from rolltune.evaluation.metrics import Prediction, choose_positive, measure, stage


def test_the_printed_block_is_the_one_people_know():
    metrics = measure(counted(38, 48, 0, 0), "yes")
    assert block("./dataset/set1/train.jsonl " + stage(1), metrics) == (
        "Result: ./dataset/set1/train.jsonl (1st trained)\n"
        "  Tp=38 Tn=48 Fp=0 Fn=0\n"
        "  accuracy:  1.0\n"
        "  precision: 1.0\n"
        "  recall:    1.0\n"
        "  F-measure: 1.0"
    )


def test_known_values_by_hand():
    metrics = measure(counted(tp=3, tn=5, fp=1, fn=2), "yes")
    assert (metrics.tp, metrics.tn, metrics.fp, metrics.fn) == (3, 5, 1, 2)
    assert metrics.accuracy == pytest.approx(8 / 11)
    assert metrics.precision == pytest.approx(3 / 4)
    assert metrics.recall == pytest.approx(3 / 5)
    assert metrics.f_measure == pytest.approx(6 / 9)
    assert metrics.balanced_accuracy == pytest.approx((3 / 5 + 5 / 6) / 2)
    assert metrics.majority_rate == pytest.approx(6 / 11)
    assert metrics.log_loss == pytest.approx(-(8 * np.log(0.9) + 3 * np.log(0.1)) / 11)
    assert metrics.predicted == {"yes": 4, "no": 7}
    assert metrics.actual == {"yes": 5, "no": 6}
    assert metrics.confusion == ((3, 2), (1, 5))
    # the other answer as positive turns the table round
    other = measure(counted(tp=3, tn=5, fp=1, fn=2), "no")
    assert (other.tp, other.tn, other.fp, other.fn) == (5, 3, 2, 1)


def test_undefined_ratios_are_said_to_be_undefined_with_the_reason():
    metrics = measure(prediction(["yes", "no", "no"], ["no", "no", "no"]), "yes")
    assert metrics.precision is None
    assert metrics.recall == 0.0
    assert metrics.f_measure == 0.0  # 2 Tp / (2 Tp + Fp + Fn) = 0 / 1
    text = block("x", metrics)
    assert "  precision: undefined (no picture was predicted yes)\n  recall:    0.0\n  F-measure: 0.0" in text
    nothing = measure(prediction(["no"], ["no"]), "yes")
    assert (nothing.precision, nothing.recall, nothing.f_measure) == (None, None, None)
    assert "F-measure: undefined (no picture has the answer yes or was predicted so)" in block("x", nothing)
    empty = measure(prediction([], []), "yes")
    assert empty.accuracy is None and empty.log_loss is None
    assert "accuracy:  undefined (there are no pictures)" in block("x", empty)


def test_many_answers_give_means_as_scikit_learn_does_and_no_counts():
    answers = ("apple", "bell", "corn", "dill")
    right = ["apple", "apple", "bell", "corn", "corn", "corn"]
    chosen = ["apple", "bell", "bell", "corn", "corn", "apple"]
    metrics = measure(prediction(right, chosen, answers), None)
    text = block("x", metrics)
    assert "Tp" not in text
    assert "F-measure: 0.6556 (mean over 3 answers)" in text  # (1/2 + 2/3 + 4/5) / 3
    assert metrics.f_measure == pytest.approx(sklearn.metrics.f1_score(right, chosen, average="macro"))
    assert metrics.precision == pytest.approx(sklearn.metrics.precision_score(right, chosen, average="macro"))
    assert metrics.recall == pytest.approx(sklearn.metrics.recall_score(right, chosen, average="macro"))
    assert metrics.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(right, chosen))
    dill = metrics.per_answer[3]
    assert (dill.actual, dill.predicted, dill.precision, dill.recall, dill.f_measure) == (0, 0, None, None, None)


def test_an_answer_never_predicted_lowers_the_mean_precision():
    answers = ("a", "b", "c")
    metrics = measure(prediction(["a", "b", "c"], ["a", "a", "a"], answers), None)
    assert metrics.precision == pytest.approx(1 / 9)
    assert metrics.collapsed == "a"
    assert "every picture gets the same answer, 'a'" in metrics.frequencies()


def test_how_often_each_answer_is_predicted():
    assert measure(counted(3, 5, 1, 2), "yes").frequencies() == "predicted: no 7 (in the data 6), yes 4 (in the data 5)"


@pytest.mark.parametrize(
    ("answers", "counts", "answer"),
    [
        (("no", "yes"), {"no": 1, "yes": 9}, "yes"),
        (("False", "True"), {}, "True"),
        (("OK", "NG"), {"OK": 54, "NG": 42}, "NG"),
        (("b", "a"), {"a": 5, "b": 5}, "a"),
        (("a", "b", "c"), {"a": 1}, None),
    ],
)
def test_the_positive_answer_where_none_is_named(answers, counts, answer):
    chosen = choose_positive(answers, counts)
    assert chosen.answer == answer
    assert answer is None or repr(answer) in chosen.reason
    assert choose_positive(answers[::-1], counts).answer == answer


def test_a_positive_answer_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="'maybe' is not among the answers: 'yes', 'no'"):
        measure(counted(1, 1, 0, 0), "maybe")


def test_scores_that_are_not_numbers_are_refused_by_name():
    good = counted(2, 1, 0, 0)
    broken = good.log_probs.copy()
    broken[1, 0] = np.nan
    with pytest.raises(UserError, match=r"1 of 3 scores are not numbers .first: row1."):
        measure(good._replace(log_probs=broken), "yes")


def test_scores_that_are_not_normalised_are_refused():
    good = counted(2, 1, 0, 0)
    with pytest.raises(ValueError, match="normalise"):
        measure(good._replace(log_probs=good.log_probs - 1), "yes")


def test_a_certain_mistake_costs_infinitely_much_and_is_no_error():
    sure = Prediction(("a",), ("yes", "no"), np.array([0]), np.array([[-np.inf, 0.0]]))
    assert measure(sure, "yes").log_loss == np.inf


@pytest.mark.parametrize(
    ("passes", "words"),
    list(
        zip(
            (0, 1, 2, 3, 4, 11, 12, 13, 21),
            ("not", "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st"),
            strict=True,
        )
    ),
)
def test_stage(passes, words):
    assert stage(passes) == f"({words} trained)"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_order_of_rows_never_changes_a_figure(data):
    count = data.draw(st.integers(2, 4))
    n = data.draw(st.integers(0, 12))
    scores = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(n, count))
    log_probs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    label = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=n, max_size=n)), dtype=int)
    ids, answers = tuple(map(str, range(n))), ("yes", "no", "x", "y")[:count]
    order = np.array(data.draw(st.permutations(range(n))), dtype=int)
    positive = "yes" if count == 2 else None
    straight = measure(Prediction(ids, answers, label, log_probs), positive)
    mixed = measure(Prediction(tuple(ids[i] for i in order), answers, label[order], log_probs[order]), positive)
    assert mixed == straight
    if n:
        chosen = log_probs.argmax(1)
        assert straight.accuracy == pytest.approx(sklearn.metrics.accuracy_score(label, chosen))
        loss = sklearn.metrics.log_loss(label, np.exp(log_probs), labels=range(count))
        assert straight.log_loss == pytest.approx(loss)
        assert sum(straight.predicted.values()) == n
    if count == 2 and n:
        assert straight.tp + straight.tn + straight.fp + straight.fn == n


def test_macro_f_counts_both_answers_where_one_is_positive():
    metrics = measure(counted(3, 5, 1, 1), "yes")
    assert metrics.figure("macro-f") == pytest.approx((0.75 + 10 / 12) / 2)  # of "yes" and of "no"
    assert metrics.figure("balanced-accuracy") == pytest.approx((3 / 4 + 5 / 6) / 2)
