"""What an answer is: a choice among few, a text, or a class; and what `auto` makes of the data."""

import dataclasses

import pytest
from small_model import make_example

from rolltune.errors import UserError
from rolltune.evaluation.tasks import AUTO, CHOOSE, CLASSIFY, WRITE, Task, accepted, allowed_answers, decide


def examples(*answers, **more):
    return [dataclasses.replace(make_example(n, answer=answer), **more) for n, answer in enumerate(answers)]


def test_allowed_answers():
    assert allowed_answers((), ["b", "a", "b"]) == ("a", "b")
    assert allowed_answers(("yes", "no"), ["no"]) == ("yes", "no")
    with pytest.raises(UserError, match=r"'maybe', which is not among the allowed ones: \['yes', 'no'\]"):
        allowed_answers(("yes", "no"), ["maybe", "no"])
    with pytest.raises(UserError, match="every row has the answer 'no'"):
        allowed_answers((), ["no", "no"])


def test_auto_takes_few_answers_that_come_again_for_a_choice():
    assert decide(AUTO, (), examples(*"abab"))[0] == Task(CHOOSE, ("a", "b"))
    assert decide(AUTO, (), examples(*"aba"))[0] == Task(CHOOSE, ("a", "b"))  # two answers, however few rows
    assert decide(AUTO, ("c", "a"), examples("a"))[0] == Task(CHOOSE, ("c", "a"))  # stated: chosen from
    assert decide(AUTO, (), examples(*"abca"))[0].kind == WRITE  # three in four rows hardly come again
    assert decide(AUTO, (), examples(*"abcabc"))[0] == Task(CHOOSE, ("a", "b", "c"))
    assert decide(AUTO, (), examples(*(str(n % 64) for n in range(128))))[0].kind == CHOOSE
    task, why = decide(AUTO, (), examples(*"abcdef"))
    assert task == Task(WRITE, ()) and why.startswith("task: write (6 different answers in 6 rows)")
    task, why = decide(AUTO, (), examples(*"abab", accepted=("a", "b")))
    assert task == Task(WRITE, ()) and why.startswith("task: write (4 rows accept several answers in 4 rows)")
    assert decide(AUTO, (), examples(*(str(n % 65) for n in range(300))))[0].kind == WRITE  # too many to score


def test_what_is_asked_for_is_taken():
    assert decide(WRITE, (), examples(*"abab"))[0] == Task(WRITE, ())
    assert decide(CHOOSE, (), examples(*"abc"))[0] == Task(CHOOSE, ("a", "b", "c"))
    assert decide(CLASSIFY, (), examples(*"ba"))[0] == Task(CLASSIFY, ("a", "b"))


def test_what_is_scored_for_a_row_and_which_is_right():
    (one,) = examples("b", accepted=("b", "B"))
    assert accepted(one) == ("b", "B") and accepted(examples("b")[0]) == ("b",)
    choice = Task(CHOOSE, ("a", "b"))
    assert choice.candidates(one) == ("a", "b") and choice.label(one) == 1
    assert Task(WRITE, ()).candidates(one) == ("b", "B") and Task(WRITE, ()).label(one) == 0
