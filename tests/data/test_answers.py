"""One rule says when two written answers are the same, and one check finds those that are written two ways."""

import pytest

from rolltune.data.answers import is_blank, normalise, spelling_findings

SAME = {
    "yes": ["Yes", "YES", " yes ", "yes.", "Yes. ", "ｙｅｓ", "yes。", "YES．"],
    "hot dog": ["Hot  Dog", "hot\tdog", "hot\u00a0dog."],
    "é": ["e\u0301", "É", "E\u0301"],
    "3": ["3.0", "+3", "3.", "３", "3.00"],
    "1000": ["1,000", "1000.0", "１，０００"],
    "-2.5": ["−2.50", "-2.5."],
    "0": ["-0", "0.0"],
    "straße": ["STRASSE", "Straße"],
    "1234567.5": ["1,234,567.50"],
}
DIFFERENT = [
    "",
    "a",
    "the a",
    "a b",
    "ab",
    "7",
    "007",
    "1,00",
    "100",
    "1e2",
    "3 m",
    "3.0 m",
    "1.2.3",
    "12",
    ".5",
    "5",
    ".",
]


def test_the_same_answer_has_one_form():
    for answer, ways in SAME.items():
        assert {normalise(way) for way in ways} == {normalise(answer)}, answer
    assert len({normalise(answer) for answer in [*SAME, *DIFFERENT]}) == len(SAME) + len(DIFFERENT)
    for answer in [*SAME, *DIFFERENT]:
        assert normalise(normalise(answer)) == normalise(answer)


@pytest.mark.parametrize(
    ("ways", "told"),
    [
        (("no", "No"), "letter case"),
        (("no", "no "), "spaces"),
        (("no", "no."), "a full stop at the end"),
        (("no", "ｎｏ"), "Unicode form"),
        (("3", "3.0"), "how a number is written"),
        (("no", "Ｎo."), "Unicode form and letter case and a full stop at the end"),
    ],
)
def test_what_two_ways_differ_in_is_told(ways, told):
    (finding,) = spelling_findings([*ways, ways[0], "maybe"], "set1")
    assert f"{ways[0]!r} (2 rows), {ways[1]!r} (1 row) differ only in {told}, and" in finding.message
    assert finding.where == "set1" and repr(ways[0]) in finding.advice
    assert spelling_findings(["yes", "yes", "no"], "set1") == []


def test_forms_that_look_the_same_are_told_apart():
    (finding,) = spelling_findings(["caf\u00e9", "cafe\u0301"], "x")
    assert "'café'" in finding.message and r"'cafe\u0301'" in finding.message and "'café'" in finding.advice


def test_what_shows_nothing_is_blank():
    assert all(map(is_blank, ("", " \t\n", "\u200b", "\ufeff ", "\u2060\u00a0")))
    assert not any(map(is_blank, (".", "a", "👍", "\ufffd")))
