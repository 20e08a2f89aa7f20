"""Examples to rows: what each purpose asks for, a replaced question, and rows that are too long."""

import dataclasses

import numpy as np
import pytest
from small_families import PALIGEMMA
from small_model import CONFIG, NET, make_example

from rolltune.data.examples import Turn
from rolltune.data.views import UNTOUCHED, views
from rolltune.errors import UserError
from rolltune.evaluation.tasks import CHOOSE, CLASSIFY, WRITE, Task
from rolltune.inputs import rows
from rolltune.inputs.pictures import read_pictures
from rolltune.inputs.rows import Asking, question

CHOICE = Task(CHOOSE, ("no", "yes"))


@pytest.fixture
def encode(examples):
    pictures = read_pictures(NET.family, CONFIG, examples)

    def run(purpose, asking, some=examples):
        return rows.encode_rows(PALIGEMMA.model, pictures, some, asking, purpose)

    return run


def test_each_purpose_has_its_answers(encode):
    for task in (CHOICE, Task(WRITE, ())):
        (training, cut), (prompts, _) = encode(rows.TRAIN, Asking(task)), encode(rows.WRITE, Asking(task))
        assert cut == 0 and [len(row.targets) for row in training] == [4] * 6
        assert all(not len(row.targets) and not row.segments.any() for row in prompts)
    scoring, _ = encode(rows.SCORE, Asking(CHOICE))
    assert {tuple(row.candidates.tolist()) for row in scoring} == {(0, 0, 0, 1, 1, 1, 1)}
    assert {row.label for row in scoring} == {1}
    several = [dataclasses.replace(make_example(0), images=(), accepted=("yes", "ja"))]
    (row,), _ = encode(rows.SCORE, Asking(Task(WRITE, ())), several)
    assert row.candidates.tolist() == [0] * 4 + [1] * 3


def test_rows_know_their_pictures(encode):
    training, _ = encode(rows.TRAIN, Asking(CHOICE))
    assert [len(row.pictures) for row in training] == [1, 2, 0, 1, 1, 1]
    assert training[1].counts == (4, 4) and training[1].slots[:8].tolist() == list(range(8))
    assert training[2].slots.max() == -1
    assert training[0].pictures[0] == training[1].pictures[0] and training[4].pictures != training[5].pictures


def test_the_pictures_of_rows_to_train_on_alone_are_changed_in_a_view(encode):
    training, _ = encode(rows.TRAIN, Asking(CHOICE))
    changed = views(("flip",), 2)[1]
    made = rows.in_views(training, [1, 2, 4], [UNTOUCHED, changed])
    assert len(made) == 12 and made[:6] == training
    assert [[key.view for key in row.pictures] for row in made[6:]] == [
        [UNTOUCHED], [changed] * 2, [], [UNTOUCHED], [changed], [UNTOUCHED]
    ]  # fmt: skip
    assert made[6] is training[0] and made[8] is training[2]  # what stays the same is kept once
    assert [key.path for key in made[7].pictures] == [key.path for key in training[1].pictures]


def test_a_prompt_takes_the_place_of_the_last_question_alone():
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "yes"))
    example = dataclasses.replace(make_example(0), turns=turns)
    assert question(example, "") == turns[:3]
    assert [turn.text for turn in question(example, "other")] == ["a", "b", "other"]


def test_a_row_of_a_replaced_question_equals_one_that_asked_so(encode):
    asked, _ = encode(rows.TRAIN, Asking(CHOICE, prompt="or so?"), [dataclasses.replace(make_example(0), images=())])
    own, _ = encode(rows.TRAIN, Asking(CHOICE), [dataclasses.replace(make_example(0, "or so?"), images=())])
    np.testing.assert_array_equal(asked[0].tokens, own[0].tokens)


def test_over_long_rows_are_all_named(encode, examples):
    with pytest.raises(UserError, match=r"3 rows are longer than 18.*max_tokens\n.*jsonl:0: \d+ tokens\n.*jsonl:1"):
        long = [dataclasses.replace(make_example(n, "is it so long?"), images=()) for n in range(3)]
        encode(rows.TRAIN, Asking(CHOICE, max_tokens=18), long)
    many = [dataclasses.replace(make_example(n), images=()) for n in range(30)]
    with pytest.raises(UserError, match=r"30 rows[\s\S]*jsonl:19: \d+ tokens\n  \.\.\. and 10 more$"):
        encode(rows.TRAIN, Asking(CHOICE, max_tokens=3), many)


def test_a_classifier_s_rows_are_cut_where_that_is_asked_for(encode):
    example = dataclasses.replace(make_example(0, "abcdefghij", "yes"), images=())
    asking = Asking(Task(CLASSIFY, ("no", "yes")), max_tokens=6)
    with pytest.raises(UserError, match="1 rows are longer than 6"):
        encode(rows.TRAIN, asking, [example])
    (row,), cut = encode(rows.TRAIN, dataclasses.replace(asking, truncate=True), [example])
    assert cut == 1 and len(row.tokens) == 6 and row.targets.tolist() == [1] and row.predict.tolist() == [5]
    (row,), _ = encode(rows.SCORE, dataclasses.replace(asking, truncate=True), [example])
    assert row.targets.tolist() == row.candidates.tolist() == [0, 1] and row.label == 1
