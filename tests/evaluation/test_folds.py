import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_predictions import counted, prediction, texts

from rolltune.errors import UserError
from rolltune.evaluation.figures import measured
from rolltune.evaluation.folds import counted_seeds, out_of_fold, over_seeds, seeds_block, seeds_text, spread
from rolltune.evaluation.leaderboard import Entry, Status
from rolltune.evaluation.metrics import measure


@given(st.permutations(range(9)), st.integers(1, 8))
def test_folds_put_together_are_the_whole(order, cut):
    whole = prediction(["yes", "no", "no"] * 3, ["yes", "yes", "no"] * 3, sure=0.7)
    whole = whole._replace(log_probs=np.log(np.column_stack([np.arange(1, 10) / 10, 1 - np.arange(1, 10) / 10])))
    joined = out_of_fold(whole.ids, [whole.at(order[:cut]), whole.at(order[cut:])])
    assert joined.ids == whole.ids
    np.testing.assert_array_equal(joined.label, whole.label)
    np.testing.assert_array_equal(joined.log_probs, whole.log_probs)


def test_folds_of_written_answers():
    whole = texts(list("abcd"), [("a",), ("b",), ("c",), ("x",)], [1, 2, 3, 4])
    joined = out_of_fold(whole.ids, [whole.at([3, 1]), whole.at([0, 2])])
    assert joined._replace(log_probs=()) == whole._replace(log_probs=())
    np.testing.assert_array_equal(joined.log_probs, whole.log_probs)


def test_a_row_in_two_folds_or_in_none_is_refused():
    whole = counted(2, 2, 0, 0)
    with pytest.raises(UserError, match=r"1 are in none, 0 in more than one and 0 are not among .*first missing: row3"):
        out_of_fold(whole.ids, [whole.at([0, 1]), whole.at([2])])
    with pytest.raises(UserError, match="0 are in none, 1 in more than one"):
        out_of_fold(whole.ids, [whole.at([0, 1, 2]), whole.at([2, 3])])
    with pytest.raises(UserError, match=r"1 are not among the rows .first unknown: row3"):
        out_of_fold(whole.ids[:3], [whole.at([0, 1, 2, 3])])


def test_spread_by_hand():
    found = spread([0.5, 0.7, None, 0.9])
    assert found == (3, pytest.approx(0.7), pytest.approx(0.2), 0.5, 0.9, 1)
    assert str(found) == "0.7 (0.5 to 0.9, 3 seeds, sd 0.2; undefined for 1 more)"
    assert spread([0.5]).sd is None
    assert str(spread([None])) == "undefined for all 1 seeds"


def test_each_figure_over_seeds():
    measured = [measure(counted(3, 5, 1, 1), "yes"), measure(counted(4, 6, 0, 0), "yes")]
    spreads = over_seeds(measured)
    assert spreads["accuracy"].mean == pytest.approx(0.9)
    assert spreads["precision"].low == 0.75
    assert "  f-measure:         0.875 (0.75 to 1.0, 2 seeds, sd 0.1768)" in seeds_text(spreads)


def test_a_spread_over_seeds_leaves_out_other_rates_and_says_whom_it_misses():
    good, better = measure(counted(3, 5, 1, 1), "yes"), measure(counted(4, 6, 0, 0), "yes")
    entries = [
        Entry(0, 10, 0.03, valid=good),
        Entry(1, 11, 0.03, Status("redrawn", 64, "collapsed to one answer"), valid=measure(counted(0, 5, 0, 5), "yes")),
        Entry(2, 12, 0.03, valid=better),
        Entry(3, 13, 0.015, valid=better, attempt=1),
    ]
    counted_ones, sentence = counted_seeds(entries)
    assert [entry.roll for entry in counted_ones] == [0, 2]
    assert sentence == (
        "over the seeds of 2 of the 3 rolls that were first drawn; left out: roll 1 (died at step 64: collapsed to one "
        "answer; drawn again), roll 3 (drawn again at a lower rate): the recipe does worse than these figures say"
    )
    assert "  accuracy:          0.9 (0.8 to 1.0, 2 seeds" in seeds_block(entries)
    assert seeds_block([entries[1]]).startswith("over the seeds of 0 of the 1 rolls")


def test_a_spread_over_rolls_that_differ_in_more_than_the_seed_says_so():
    figures = measured(texts(["a"], [("a",)]))
    entries = [Entry(n, n, 0.1, valid=figures, settings={"alpha": 8.0 * (n + 1)}) for n in range(2)]
    assert counted_seeds(entries).sentence.endswith(
        "The rolls differ in alpha too, so the spread is not of seeds alone"
    )
    assert "  exact-match: 1.0 (1.0 to 1.0, 2 seeds" in seeds_block(entries)
    assert "left out" not in seeds_block(entries) and "differ" not in seeds_block([entries[0]])
