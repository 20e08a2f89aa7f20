import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_predictions import texts

from rolltune.errors import UserError
from rolltune.evaluation.figures import block
from rolltune.evaluation.written import (
    Written,
    agreement,
    edit_distance,
    first_rows,
    is_exact,
    measure_written,
    similarity,
)

DATES = [("12 May", "May 12"), ("kitten",), ("kitten", "cat")]


def test_known_values():
    assert edit_distance("kitten", "sitting") == 3
    assert similarity("Kitten ", ["sitting", "mitten"]) == pytest.approx(5 / 6)
    assert similarity("12  May", ["12 may"]) == 1.0
    assert similarity("abcd", ["wxyz"]) == 0.0
    assert similarity("abcd", ["abxy"]) == 0.5  # exactly at the threshold counts
    assert similarity("abc", ["axy"]) == 0.0  # 1/3 lies below it
    assert similarity(" ", [""]) == 1.0 and similarity("", ["a"]) == similarity("a", [""]) == 0.0


def test_figures_by_hand():
    metrics = measure_written(texts(["12 may", "mitten", "dog"], DATES, [0.5, 1.0, 3.0]))
    assert (metrics.n, metrics.right, metrics.log_loss) == (3, 1, 1.5)
    assert metrics.exact == pytest.approx(1 / 3)
    assert metrics.anls == pytest.approx((1 + 5 / 6 + 0) / 3)
    assert metrics.majority_rate == pytest.approx(2 / 3)  # always writing "kitten"
    assert [metrics.figure(name) for name in metrics.names[:3]] == [metrics.log_loss, metrics.exact, metrics.anls]
    with pytest.raises(UserError, match="no metric is called 'f-measure'; there are: log-loss, exact-match, anls"):
        metrics.figure("f-measure")


def test_the_printed_block_and_rows():
    written = texts(["12 may", "mitten", "dog"], DATES, [0.5, 1.0, 3.0])
    assert block("./dataset/docs/valid.jsonl (1st trained)", measure_written(written)) == (
        "Result: ./dataset/docs/valid.jsonl (1st trained)\n"
        "  log-loss:    1.5\n"
        "  exact match: 0.3333\n"
        "  ANLS:        0.6111"
    )
    assert first_rows(written, {"row1": "valid.jsonl:2"}, most=2) == [
        "  row0: '12 may' (right: '12 May' or 'May 12')",
        "  valid.jsonl:2: 'mitten' (right: 'kitten')",
    ]
    assert measure_written(written).frequencies() == "written: '12 may' 1, 'dog' 1, 'mitten' 1"
    repeats = measure_written(texts(["no " * 99], [("no",)])).frequencies()
    assert len(repeats) < 120 and "no no..." in repeats


def test_where_nothing_was_written_the_log_loss_stands_alone():
    metrics = measure_written(texts(None, DATES))
    assert (metrics.log_loss, metrics.exact, metrics.anls, metrics.right, metrics.collapsed) == (
        1,
        None,
        None,
        None,
        None,
    )
    assert "exact match: undefined (nothing was written)" in block("x", metrics)
    assert "ANLS:        undefined (nothing was written)" in block("x", metrics)
    empty = measure_written(texts([], []))
    assert (empty.log_loss, empty.exact, empty.anls, empty.majority_rate) == (None, None, None, None)
    assert set(empty.undefined.values()) == {"there are no rows"}


def test_one_text_for_all_rows_is_a_collapse_where_the_rows_want_several():
    assert measure_written(texts(["a", "A "], [("a",), ("b",)])).collapsed == "a"
    assert "every row gets the same text, 'a'" in measure_written(texts(["a", "a"], [("a",), ("b",)])).frequencies()
    assert measure_written(texts(["a", "a"], [("a", "b"), ("b",)])).collapsed is None  # "b" would have suited both
    assert measure_written(texts(["a", "b"], [("a",), ("b",)])).collapsed is None


def test_scores_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"1 of 3 scores are not numbers .first: row1."):
        measure_written(texts(None, DATES, [1, np.nan, 1]))
    with pytest.raises(ValueError, match="log-probability of row2 is above 0"):
        measure_written(texts(None, DATES, [1, 1, -0.5]))
    with pytest.raises(ValueError, match="3 ids need as many"):
        measure_written(texts(["a"], DATES))


@given(st.permutations(range(6)), st.integers(1, 5))
def test_order_and_parts_change_no_figure(order, cut):
    whole = texts(["aa", "ab", "bb", "", "ba", "c"], [("aa",), ("aa", "b"), ("bc",), ("a",), ("",), ("c",)], range(6))
    mixed = Written.join([whole.at(order[:cut]), whole.at(order[cut:])])
    assert mixed.ids == tuple(whole.ids[place] for place in order)
    assert measure_written(mixed) == measure_written(whole)
    half = Written.join([whole.at(order[:cut]), whole.at(order[cut:])._replace(texts=None)])
    assert half.texts is None


def test_no_accepted_answer_is_refused():
    with pytest.raises(ValueError, match="without accepted answers"):
        similarity("a", [])
    assert is_exact(" YES ", ["no", "yes"])
    assert is_exact("1,000.", ["1000"]) and not is_exact("the cat", ["cat"])  # the data's own rule


def table_distance(left, right):
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


@settings(max_examples=30, deadline=None)
@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_edit_distance_is_that_of_the_table_and_a_distance(a, b, c):
    assert edit_distance(a, b) == table_distance(a, b)
    assert edit_distance(a * 30, b * 25) == table_distance(a * 30, b * 25)  # longer than a machine word
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def test_ten_people_agree_as_published():
    # 0.3, 0.6, 0.9 and 1 for one, two, three, and four or more of ten (visualqa.org/evaluation.html)
    for count, share in ((0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)):
        assert agreement("Two dogs", ["2 dogs"] * count + ["cat"] * (10 - count)) == pytest.approx(share)
    assert agreement("the cat.", ["a cat"] * 10) == 1
    ten = [("cat",) * 2 + ("dog",) * 8, ("cat",) * 10]
    assert measure_written(texts(["cat", "cat"], ten)).figure("vqa-accuracy") == pytest.approx(0.8)
    alone = measure_written(texts(["cat"], [("cat",)]))
    assert alone.figure("vqa-accuracy") is None and "10 people" in alone.undefined["VQA accuracy"]
