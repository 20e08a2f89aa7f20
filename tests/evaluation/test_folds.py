import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_predictions import counted, prediction

from rolltune.errors import UserError
from rolltune.evaluation.folds import out_of_fold, over_seeds, seeds_text, spread
from rolltune.evaluation.metrics import Prediction, measure


def part(whole: Prediction, rows) -> Prediction:
    rows = np.array(rows, dtype=int)
    return whole._replace(
        ids=tuple(whole.ids[i] for i in rows), label=whole.label[rows], log_probs=whole.log_probs[rows]
    )


@given(st.permutations(range(9)), st.integers(1, 8))
def test_folds_put_together_are_the_whole(order, cut):
    whole = prediction(["yes", "no", "no"] * 3, ["yes", "yes", "no"] * 3, sure=0.7)
    whole = whole._replace(log_probs=np.log(np.column_stack([np.arange(1, 10) / 10, 1 - np.arange(1, 10) / 10])))
    joined = out_of_fold(whole.ids, [part(whole, order[:cut]), part(whole, order[cut:])])
    assert joined.ids == whole.ids
    np.testing.assert_array_equal(joined.label, whole.label)
    np.testing.assert_array_equal(joined.log_probs, whole.log_probs)


def test_a_row_in_two_folds_or_in_none_is_refused():
    whole = counted(2, 2, 0, 0)
    with pytest.raises(UserError, match=r"1 are in none, 0 in more than one and 0 are not among .*first missing: row3"):
        out_of_fold(whole.ids, [part(whole, [0, 1]), part(whole, [2])])
    with pytest.raises(UserError, match="0 are in none, 1 in more than one"):
        out_of_fold(whole.ids, [part(whole, [0, 1, 2]), part(whole, [2, 3])])
    with pytest.raises(UserError, match=r"1 are not among the rows .first unknown: row3"):
        out_of_fold(whole.ids[:3], [part(whole, [0, 1, 2, 3])])


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
    assert "  f-measure: 0.875 (0.75 to 1.0, 2 seeds, sd 0.1768)" in seeds_text(spreads)
