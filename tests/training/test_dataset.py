"""The rows of a data set: which splits judge a roll, and what is said of their answers before anything is loaded."""

import dataclasses
import json

import pytest
from small_model import make_example

from rolltune.errors import UserError
from rolltune.evaluation.metrics import Positive
from rolltune.evaluation.tasks import CHOOSE, WRITE, Task
from rolltune.training.dataset import Data, Wanted, judged_rows, read_data
from rolltune.training.rolls import Draw


def data(**spans) -> Data:
    examples = [make_example(n, answer=("yes", "no")[n % 2]) for n in range(10)]
    return Data(examples, spans, {}, Task(CHOOSE, ("no", "yes")), Positive("yes", ""), [])


ALL = dict(train=range(0, 6), valid=range(6, 8), test=range(8, 10))


def test_validation_rows_judge_and_without_them_training_rows():
    assert judged_rows(data(**ALL), None, Draw(0, 0, 1.0, 8.0, 0.0)) == [6, 7]
    assert judged_rows(data(train=range(0, 6)), None, None) == list(range(6))
    assert judged_rows(data(train=range(0, 6), valid=range(6, 6)), None, None) == list(range(6))


def test_a_fold_judges_its_own_rows():
    folds, judged = [0, 1, 2, 0, 1, 2, 0, 1], []
    for fold in range(3):
        own = judged_rows(data(**ALL), folds, Draw(fold, fold, 1.0, 8.0, 0.0, fold=fold))
        assert own == [place for place in range(8) if folds[place] == fold]
        judged += own
    assert sorted(judged) == data(**ALL).seen == list(range(8))  # the test split takes no part


@pytest.fixture
def written(tmp_path):
    def write(*answers, name="rows"):
        rows = [{"prefix": "a", "suffix": answer} for answer in answers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / f"{name}.jsonl"

    return write


def read(files, said=None, **wanted) -> Data:
    return read_data(files, Wanted(**({"task": "auto"} | wanted)), (said if said is not None else []).append)


def test_a_positive_answer_must_be_one_of_them(written):
    path = written("yes", "no")
    found = read({"train": path}, positive="no")
    assert found.positive.answer == "no"
    assert [one.id for one in found.examples] == ["train/rows.jsonl:1", "train/rows.jsonl:2"]
    assert [found.id_in_file(place) for place in range(2)] == ["rows.jsonl:1", "rows.jsonl:2"]
    below = dataclasses.replace(found, examples=[dataclasses.replace(found.examples[0], id="train/cat/1.jpg")])
    assert below.id_in_file(0) == "cat/1.jpg"  # as class folders have them
    with pytest.raises(UserError, match=r"positive: 'maybe' is not one of the answers \['no', 'yes'\]"):
        read({"train": path}, positive="maybe")


def test_splits_stand_one_after_the_other_and_the_task_is_of_all(written):
    said = []
    found = read({"train": written("b", "a", "b"), "valid": written("a", "a", name="valid")}, said)
    assert found.spans == {"train": range(0, 3), "valid": range(3, 5)} and found.task == Task(CHOOSE, ("a", "b"))
    assert [one.answer for one in found.of("valid")] == ["a", "a"] and said[-1] == "task: choose (2 answers)"
    with pytest.raises(UserError, match="'c', which is not among the allowed ones"):
        read({"train": written("a", "c")}, answers=("a", "b"))


def test_rows_are_read_as_it_is_said(tmp_path):
    (tmp_path / "rows.csv").write_text("label,words\nyes,a\nno,b\n")
    reading = {"columns": {"prefix": "words", "suffix": "label"}}
    said: list[str] = []
    found = read_data({"train": tmp_path / "rows.csv"}, Wanted("auto"), said.append, reading)
    assert said[0] == f"{tmp_path / 'rows.csv'}: CSV: 2 rows, text only, 2 answers (no, yes)"  # as it was understood
    assert [(one.prompt, one.answer) for one in found.examples] == [("a", "yes"), ("b", "no")]


def test_the_positive_answer_is_the_rarer_one_of_all_splits(written):
    """Of each split by itself it would be another one."""
    files = {"train": written(*"aab"), "valid": written(*"bbba", name="valid")}
    assert read(files).positive.answer == "a" and read({"train": files["train"]}).positive.answer == "b"


def test_answers_that_are_spelled_two_ways_are_told_where_they_are_chosen(written):
    files, said = {"train": written(*("yes", "no", "Yes", "no") * 2)}, []
    read(files, said)
    assert any("differ only in letter case" in text for text in said)
    said.clear()
    read(files, said, task="write")
    assert not any("letter case" in text for text in said)


def test_rows_that_were_learned_from_are_counted_by_their_marks():
    marks = [frozenset({f"t{n}"}) for n in range(10)]
    made = dataclasses.replace(data(**ALL), marks=marks)
    assert (
        made.known(range(6), {"t1", "t5", "t7"}) == 2 and made.known([7], {"t7"}) == 1 and made.known([], {"t7"}) == 0
    )
    assert [one.id for one in made.of("valid")] == [one.id for one in made.examples[6:8]]


def test_open_answers_are_written_and_have_no_positive(written):
    said = []
    found = read({"train": written(*"abcdefgh")}, said)
    assert found.task == Task(WRITE, ()) and found.positive.answer is None
    assert "task: write (8 different answers in 8 rows); --config.task=choose" in said[-1]


class Marks(frozenset):
    """Marks that come in order, as a set's do in some process."""

    def __iter__(self):
        return iter(sorted(super().__iter__()))


class Turned(Marks):
    def __iter__(self):
        return reversed(list(super().__iter__()))


def test_whatever_a_row_says_or_shows_is_in_the_digest_of_its_split():
    one = dataclasses.replace(data(train=range(0, 3), valid=range(3, 6)), marks=[frozenset("a")] * 10)
    row, changed = one.examples[1], [one]
    for other in (
        dataclasses.replace(row, id="other"),
        dataclasses.replace(row, turns=row.turns[::-1]),
        dataclasses.replace(row, accepted=("yes", "no")),
    ):
        changed.append(dataclasses.replace(one, examples=[one.examples[0], other, *one.examples[2:]]))
    changed.append(dataclasses.replace(one, marks=[frozenset("a"), frozenset("b"), *one.marks[2:]]))
    assert len({each.digest("train") for each in changed}) == len(changed)
    assert {each.digest("valid") for each in changed} == {one.digest("valid")}
    assert one.digest("train").startswith("3 rows, ") and one.digest("train") != one.digest("valid")
    either = [dataclasses.replace(one, marks=[kind(("p1", "p2"))] * 10).digest("train") for kind in (Marks, Turned)]
    assert len(set(either)) == 1  # marks come in another order in every process
    look = dataclasses.replace(one, marks=[frozenset({"p" + "0" * 16 + "its look"})] * 10)
    bare = dataclasses.replace(one, marks=[frozenset({"p" + "0" * 16})] * 10)
    assert look.digest("train") == bare.digest("train")  # what a picture looks like follows from what it is
