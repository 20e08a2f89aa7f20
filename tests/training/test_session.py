"""Which rows a roll trains on, and which judge it."""

from pathlib import Path

import pytest
from small_model import make_example

from rolltune.errors import UserError
from rolltune.evaluation.metrics import Positive
from rolltune.recipe import Recipe
from rolltune.training import session
from rolltune.training.rolls import Draw


@pytest.fixture
def data():
    examples = [make_example(n, answer=("yes", "no")[n % 2]) for n in range(10)]
    spans = {"train": range(0, 6), "valid": range(6, 8), "test": range(8, 10)}
    return session.Data(examples, spans, {}, ("no", "yes"), Positive("yes", ""))


def trained_on(data, make_rows, folds, draw) -> set[str]:
    rows = make_rows([data.examples[place] for place in data.seen])
    loader = session._loaders(Recipe(batch=2), rows, rows.shapes(), data, folds)(draw)
    return {loader.rows.examples[place].id for step in range(8) for place in loader.indices(step)}


def test_without_folds_the_training_split_is_trained_on_and_the_validation_rows_judge(data, make_rows):
    assert trained_on(data, make_rows, None, Draw(0, 0, 1.0, 8.0, 0.0)) == {f"row{n}" for n in range(6)}
    assert session.judged_rows(data, None, Draw(0, 0, 1.0, 8.0, 0.0)) == [6, 7]


def test_a_fold_judges_the_roll_that_never_saw_it(data, make_rows):
    folds = [0, 1, 2, 0, 1, 2, 0, 1]
    judged = []
    for fold in range(3):
        draw = Draw(fold, fold, 1.0, 8.0, 0.0, fold=fold)
        own = session.judged_rows(data, folds, draw)
        assert own == [place for place in range(8) if folds[place] == fold]
        seen = trained_on(data, make_rows, folds, draw)
        assert seen == {f"row{n}" for n in range(8)} - {f"row{n}" for n in own}
        judged += own
    assert sorted(judged) == data.seen == list(range(8))  # the test split takes no part


def test_a_positive_answer_must_be_one_of_them(tmp_path):
    path = Path(tmp_path / "rows.jsonl")
    path.write_text('{"prefix": "a", "suffix": "yes"}\n{"prefix": "b", "suffix": "no"}\n')
    data = session.read_data({"train": path}, Recipe(positive="no"), lambda text: None)
    assert data.positive.answer == "no" and [one.id for one in data.examples] == [
        "train/rows.jsonl:1",
        "train/rows.jsonl:2",
    ]
    with pytest.raises(UserError, match=r"positive: 'maybe' is not one of the answers \['no', 'yes'\]"):
        session.read_data({"train": path}, Recipe(positive="maybe"), lambda text: None)
