import csv
import io

import pytest

from rolltune import plain_csv


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "-x"]
)
def test_a_text_that_a_spreadsheet_would_compute_is_marked_as_text(text):
    assert read(plain_csv.dumps(["a"], [{"a": text}])) == [["a"], ["'" + text]]
    assert read(plain_csv.dumps([text], []))[0] == ["'" + text]


def test_numbers_stay_numbers_and_all_else_is_as_it_was():
    numbers = [-1, -0.5, float("-inf"), "-1", "+3.5", "-1e-05", "1e-05", True]
    texts = ["yes", "", "a=b", "'quoted'", 'say "a,b"', " =1", "x\n=1"]
    [_, first, second] = read(plain_csv.dumps(range(8), [dict(enumerate(numbers)), dict(enumerate(texts))]))
    assert first == ["-1", "-0.5", "-inf", "-1", "+3.5", "-1e-05", "1e-05", "True"]
    assert second == [*texts, ""]  # what a row has not, or None, is an empty cell


def test_lists_and_objects_are_json_in_their_cell_and_none_is_empty():
    assert read(plain_csv.dumps("abc", [{"a": ["=1", "ü"], "b": {"x": 1}, "c": None, "d": "left out"}])) == [
        ["a", "b", "c"],
        ['["=1", "ü"]', '{"x": 1}', ""],
    ]
