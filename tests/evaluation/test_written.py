import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolltune.evaluation.written import edit_distance, is_exact, measure_generated, similarity


def test_known_values():
    assert edit_distance("kitten", "sitting") == 3
    assert similarity("Kitten ", ["sitting", "mitten"]) == pytest.approx(5 / 6)
    assert similarity("12  May", ["12 may"]) == 1.0
    assert similarity("abcd", ["wxyz"]) == 0.0
    assert similarity("abcd", ["abxy"]) == 0.5  # exactly at the threshold counts
    assert similarity("abc", ["axy"]) == 0.0  # 1/3 lies below it
    metrics = measure_generated(["12 May", "mitten"], [["12 may", "May 12"], ["kitten"]])
    assert (metrics.n, metrics.exact, metrics.anls) == (2, 0.5, pytest.approx((1 + 5 / 6) / 2))


def test_no_rows_are_undefined_and_no_accepted_answer_is_refused():
    assert measure_generated([], []).anls is None
    with pytest.raises(ValueError, match="without accepted answers"):
        similarity("a", [])
    assert is_exact(" YES ", ["no", "yes"])


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_edit_distance_is_a_distance(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
