import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_predictions import counted, prediction, texts
from scipy.stats import binom, binomtest

from rolltune.evaluation.figures import measured
from rolltune.evaluation.metrics import measure
from rolltune.evaluation.statistics import (
    McNemar,
    against_second,
    bootstrap_f,
    bootstrap_mean,
    compare,
    f_interval,
    interval,
    mcnemar,
    mean_optimism,
    optimism,
    paired,
    wilson,
    winners_curse,
    written_curse,
)


@given(st.integers(1, 200), st.data())
def test_wilson_equals_scipy_and_holds_the_share(n, data):
    right = data.draw(st.integers(0, n))
    mine = wilson(right, n)
    theirs = binomtest(right, n).proportion_ci(method="wilson")
    assert (mine.low, mine.high) == (pytest.approx(theirs.low, abs=1e-9), pytest.approx(theirs.high, abs=1e-9))
    assert 0 <= mine.low <= right / n <= mine.high <= 1


def test_wilson_by_hand_and_without_rows():
    ten = wilson(10, 10)
    assert (round(ten.low, 4), ten.high) == (0.7225, 1.0)
    assert wilson(0, 0) is None


def test_mcnemar_matches_rows_by_id_and_equals_the_binomial_test():
    first = prediction(["yes"] * 8, ["yes"] * 7 + ["no"])
    second = prediction(["yes"] * 8, ["no"] * 6 + ["yes"] * 2)
    turned = second._replace(ids=second.ids[::-1], label=second.label[::-1], log_probs=second.log_probs[::-1])
    for other in (second, turned):
        test = mcnemar(first, other)
        assert (test.only_first, test.only_second, test.n) == (6, 1, 8)
        assert test.p == pytest.approx(2 * binom.cdf(1, 7, 0.5))
    assert mcnemar(first, first).p == 1.0
    with pytest.raises(ValueError, match="different rows"):
        mcnemar(first, prediction(["yes"], ["yes"]))


def test_the_outcome_in_words():
    assert against_second(8, McNemar(3, 1, 10, 0.625)) == (
        "the best of 8 cannot be told from the second "
        "(McNemar p = 0.62: one is right where the other is wrong on 4 of 10 pictures)"
    )
    assert "is right on more pictures than the second" in against_second(8, McNemar(9, 0, 10, 0.004))
    assert "is right on fewer pictures than the second" in against_second(8, McNemar(0, 9, 10, 0.004))


def test_intervals_of_the_f_measure():
    perfect = measure(counted(5, 5, 0, 0), "yes")
    assert bootstrap_f(perfect) is None  # every draw gives 1.0: it would claim certainty from ten pictures
    share = wilson(5, 5).low
    assert f_interval(perfect)[:2] == (pytest.approx(2 * share / (1 + share)), 1.0)
    middling = measure(counted(200, 200, 40, 60), "yes")
    carried, drawn = f_interval(middling), bootstrap_f(middling, samples=4000)
    assert carried.low < middling.f_measure < carried.high
    assert (carried.low, carried.high) == (pytest.approx(drawn.low, abs=0.01), pytest.approx(drawn.high, abs=0.01))
    assert f_interval(measure(counted(0, 3, 0, 0), "yes")) is None


def test_the_bootstrap_equals_drawing_rows():
    answers, rng = ("a", "b", "c"), np.random.default_rng(1)
    right = rng.choice(answers, 60)
    chosen = np.where(rng.random(60) < 0.7, right, rng.choice(answers, 60))
    metrics = measure(prediction(list(right), list(chosen), answers), None)
    by_rows = []
    for _ in range(200):
        rows = rng.integers(0, 60, 60)
        by_rows.append(measure(prediction(list(right[rows]), list(chosen[rows]), answers), None).f_measure)
    bounds = interval(metrics, "f-measure")
    low, high = np.quantile(by_rows, [0.025, 0.975])
    assert (bounds.low, bounds.high) == (pytest.approx(low, abs=0.04), pytest.approx(high, abs=0.04))


def test_which_figures_have_an_interval():
    metrics = measure(counted(3, 5, 1, 2), "yes")
    assert interval(metrics, "precision") == wilson(3, 4)
    assert interval(metrics, "recall") == wilson(3, 5)
    assert interval(metrics, "accuracy") == wilson(8, 11)
    assert interval(metrics, "log-loss") is None
    assert interval(measure(counted(0, 5, 0, 2), "yes"), "precision") is None


def test_optimism_equals_a_simulation():
    draws = np.random.default_rng(0).binomial(10, 0.8, size=(20000, 8)).max(axis=1).mean() / 10 - 0.8
    assert optimism(8, 10, 0.8) == pytest.approx(draws, abs=0.004)
    assert optimism(1, 10, 0.8) == pytest.approx(0, abs=1e-12)
    assert optimism(8, 1000, 0.8) < optimism(8, 100, 0.8) < optimism(8, 10, 0.8) < optimism(64, 10, 0.8)


def test_the_warning_of_choosing_on_few_pictures():
    text = winners_curse(8, 10, 0.8)
    assert text.startswith("choosing the best of 8 on 10 pictures flatters it")
    assert "up to 0.96" in text and "02-shuffle_data.sh -t N" in text
    assert "cannot choose" in winners_curse(8, 10, 1.0)
    assert "02-shuffle" not in winners_curse(8, 10, 0.8, tested=True) + winners_curse(8, 10, 0.0, tested=True)
    assert "(exact match 0.8)" in winners_curse(8, 10, 0.8, name="exact match")
    extra = optimism(8, 10, 0.8)
    assert winners_curse(8, 10, 0.8, worth=extra) and winners_curse(8, 10, 0.8, worth=extra * 1.001) is None
    assert winners_curse(1, 10, 0.8) is None
    assert winners_curse(2, 100000, 0.8) is None


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error():
    values = np.random.default_rng(3).exponential(size=400)
    bounds = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert (bounds.low, bounds.high) == (
        pytest.approx(values.mean() - half, abs=0.02), pytest.approx(values.mean() + half, abs=0.02)
    )  # fmt: skip
    for empty in ([], [0.5] * 9, [1.0, np.inf]):  # nothing to draw, nothing that differs, no mean
        assert bootstrap_mean(np.array(empty)) is None


def test_intervals_of_written_answers():
    figures = measured(texts(["aa", "ab", "x"], [("aa",)] * 3, [0.5, 1.0, 3.0]))
    assert interval(figures, "exact-match") == wilson(1, 3)
    assert interval(figures, "log-loss").low < figures.log_loss < interval(figures, "log-loss").high
    assert 0 <= interval(figures, "anls").low < figures.anls < interval(figures, "anls").high <= 1
    assert interval(measured(texts(None, [("a",)])), "exact-match") is None


def test_the_paired_test_matches_rows_by_id_and_equals_counting_all_signs():
    rows = [("a",)] * 8
    first, second = texts(None, rows, [1, 2, 1, 3, 1, 2, 4, 1.0]), texts(None, rows, [2, 4, 2, 3.5, 1.5, 3, 3.5, 3])
    differences = second.log_probs - first.log_probs
    signs = 1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)
    exact = np.mean(np.abs((signs * differences).mean(1)) >= abs(differences.mean()) - 1e-12)
    for other in (second, second.at(range(7, -1, -1))):
        test = paired(first, other, "log-loss")
        assert (test.n, test.difference) == (8, pytest.approx(differences.mean()))
        assert test.p == pytest.approx(exact, abs=0.01)
    many = [("a",)] * 60
    sure = paired(texts(None, many, np.full(60, 1.0)), texts(None, many, np.full(60, 2.0)), "log-loss", samples=99)
    assert sure.p == pytest.approx(0.01)  # the signs that were found are among those that are counted: never 0
    with pytest.raises(ValueError, match="different rows"):
        paired(first, second.at([0]), "log-loss")
    assert paired(first, second, "anls") is None  # nothing was written


def test_best_against_second_of_written_answers_in_words():
    rows = [("a",)] * 12
    good, poor = texts(["a"] * 12, rows, np.linspace(1, 2, 12)), texts(["b"] * 12, rows, np.linspace(1.5, 3, 12))
    assert compare(good, poor, 5, "log-loss").startswith(
        "the best of 5 is better than the second (their log-loss differs by 0.75 on 12 rows, paired randomisation test"
    )
    assert "is better than the second (their exact match differs by 1.0" in compare(good, poor, 5, "exact-match")
    assert compare(good, good, 5, "log-loss").startswith("the best of 5 cannot be told from the second")
    assert compare(good, poor._replace(texts=None), 5, "anls") is None


def test_the_optimism_of_a_mean_is_near_a_simulation_and_knows_what_rolls_have_in_common():
    rng = np.random.default_rng(1)
    apart, alike = [], []
    for _ in range(20):
        own, common = rng.normal(size=(8, 50)), rng.normal(size=(1, 50))
        apart.append(own)
        alike.append(0.3 * own + common)
    estimate = np.mean([mean_optimism(values, samples=200) for values in apart])
    truth = np.mean([values.mean(1).max() for values in apart])  # all are 0 in truth
    assert 0.6 * truth < estimate < 1.1 * truth
    assert np.mean([mean_optimism(values, samples=200) for values in alike]) < 0.5 * estimate
    assert mean_optimism(np.array([[1.0, 1.0], [0.0, 0.0]])) == 0  # no draw would choose another


def test_means_over_answers_have_intervals_that_equal_drawing_rows():
    right = ["a"] * 12 + ["b"] * 6 + ["c"] * 2  # precision and recall are far apart
    chosen = ["a"] * 2 + ["b"] * 10 + ["b"] * 4 + ["a", "c"] + ["c", "a"]
    scored = prediction(right, chosen, ("a", "b", "c"))
    figures, rng = measure(scored, None), np.random.default_rng(1)
    drawn = [measure(scored.at(rng.integers(0, 20, 20)), None) for _ in range(400)]
    for name in ("precision", "recall", "balanced-accuracy", "macro-f"):
        bounds = interval(figures, name)
        low, high = np.quantile([one.figure(name) for one in drawn], [0.025, 0.975])
        assert bounds.low < figures.figure(name) < bounds.high
        assert (bounds.low, bounds.high) == pytest.approx((low, high), abs=0.05), name


def test_the_luck_of_written_answers_does_not_depend_on_the_order_of_their_rows():
    rng = np.random.default_rng(2)
    losses = 3 * rng.exponential(size=(1, 12)) + rng.exponential(size=(4, 12))  # hard rows are hard for all
    rolls = [texts(None, [("a",)] * 12, own) for own in losses]
    told = written_curse(rolls, "log-loss")
    assert told and told == written_curse([rolls[0].at(range(11, -1, -1)), *rolls[1:]], "log-loss")
