"""A line a row: who votes how, what is a near thing, and the same in full in every file."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from rolltune.data.examples import Example, Turn
from rolltune.errors import UserError
from rolltune.evaluation.metrics import Prediction, Threshold
from rolltune.evaluation.predicted import Predicted, check_file, plain, predicted, remarks, table, write
from rolltune.evaluation.written import Written

ANSWERS = ("no", "yes")


def rows(*answers):
    made = [Example(f"r{n}", (Path(f"{n}.png"),), (Turn("user", "?"), Turn("assistant", text or "?")), f"f.jsonl:{n}",
                    answered=text is not None) for n, text in enumerate(answers)]  # fmt: skip
    return made


def scores(*shares):
    table = np.log(np.array([[1 - share, share] for share in shares], np.float32))
    return Prediction(tuple(f"r{n}" for n in range(len(shares))), ANSWERS, np.zeros(len(shares), int), table)


def test_the_mean_of_the_probabilities_decides_and_votes_are_counted():
    first, second, third = scores(0.4, 0.9), scores(0.4, 0.8), scores(0.95, 0.7)
    one, two = predicted(rows(None, "no"), [first, second, third], ANSWERS)
    assert one.answer == "yes" and one.probabilities["yes"] == pytest.approx(0.5833, abs=1e-4)
    assert one.votes == {"no": 2, "yes": 1} and one.near and one.correct is None
    assert two.votes == {"yes": 3} and not two.near and two.correct is False
    assert "votes: 'no' 2, 'yes' 1" in remarks(one) and "given: 'no'" in remarks(two)
    (alone, _) = predicted(rows(None, "no"), [first], ANSWERS)
    assert alone.votes == {} and list(alone.probabilities.values()) == np.exp(first.log_probs[0].astype(float)).tolist()


def test_a_row_whose_own_answer_no_roll_knows_keeps_its_probabilities():
    strange = scores(0.9)._replace(answers=(*ANSWERS, "perhaps"), log_probs=np.log([[0.1, 0.9, 1e-30]]))
    (one,) = predicted(rows("perhaps"), [strange], ANSWERS)
    assert set(one.probabilities) == set(ANSWERS) and one.correct is False


@pytest.mark.parametrize(("share", "near"), [(0.601, False), (0.599, True), (0.401, True), (0.399, False)])
def test_near_is_a_distance_from_the_threshold(share, near):
    assert predicted(rows(None), [scores(share)], ANSWERS)[0].near is near  # a tenth, where nothing is said
    assert predicted(rows(None), [scores(share)], ANSWERS, near=0.2)[0].near


def test_most_rolls_write_the_answer():
    written = [Written(("r0",), (("a dog",),), np.zeros(1), (text,)) for text in ("a cat", "A dog ", "a dog")]
    (one,) = predicted(rows("a dog"), written, ())
    assert one.answer == "A dog " and sum(one.votes.values()) == 3 and one.correct and one.near is None


@pytest.mark.parametrize("count", [4, 5])
def test_a_table_has_a_column_an_answer_or_names_the_likeliest(count):
    chances = {letter: share for letter, share in zip("abcde"[:count], (0.1, 0.4, 0.05, 0.3, 0.15), strict=False)}
    row = Predicted("x.png", "", (), "b", chances, False, {}, ())
    made = table([row])
    columns = [str(column.header) for column in made.columns]
    last = str(next(iter(made.columns[-1].cells)))
    if count == 4:
        assert columns == ["picture", "answer", *"abcd", ""] and last == ""
        assert [str(next(iter(column.cells))) for column in made.columns[2:6]] == [
            "0.1000",
            "0.4000",
            "0.0500",
            "0.3000",
        ]
    else:
        assert columns == ["picture", "answer", ""] and last == "b 0.4000, d 0.3000, e 0.1500"


def test_files_hold_every_digit_and_take_any_text(tmp_path):
    odd = 'say "a,b"\n\udcff'
    made = predicted(rows(odd, None), [scores(0.1, 1 / 3), scores(0.7, 1 / 3)], ANSWERS, roll="./x.npz")
    write(tmp_path / "x.jsonl", made)
    write(tmp_path / "x.csv", made)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    table = list(csv.DictReader((tmp_path / "x.csv").open(newline="")))
    for row, line, cells in zip(made, lines, table, strict=True):
        assert line["probabilities"] == dict(row.probabilities) and line["roll"] == "./x.npz"
        assert {answer: float(cells[f"p({answer})"]) for answer in ANSWERS} == dict(row.probabilities)
        assert cells["images"] == line["images"][0] and json.loads(cells["votes"]) == line["votes"]
    assert lines[1]["right"] is None and table[1]["right"] == "" and lines[0]["right"] == odd
    with pytest.raises(UserError, match="endings"):
        write(tmp_path / "x.xlsx", made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.jsonl"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_answers_take_the_place_of_answers_and_of_no_data(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    for roll in ("", "./x.npz"):
        write(path, predicted(rows("yes"), [scores(0.1)], ANSWERS, roll=roll))
        check_file(path)
    path.write_text('{"source": "a.jpg", "prefix": "", "suffix": "no"}\n' if ending == ".jsonl" else "source,suffix\n")
    with pytest.raises(UserError, match="holds something else"):
        check_file(path)


def test_a_spreadsheet_computes_no_answer_and_json_has_it_as_it_is(tmp_path):
    for name in ("x.csv", "x.jsonl"):
        write(tmp_path / name, predicted(rows("=1+1", "-2"), [scores(0.1, 0.9)], ANSWERS))
    table = list(csv.DictReader((tmp_path / "x.csv").open(newline="")))
    assert [row["right"] for row in table] == ["'=1+1", "-2"]
    assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])["right"] == "=1+1"


def test_a_threshold_decides_and_says_so_and_several_decide_by_its_mean(tmp_path):
    low, high = scores(0.3, 0.1)._replace(threshold=Threshold("yes", 0.2)), scores(0.7, 0.6)
    (one, two) = predicted(rows(None, None), [low], ANSWERS, near=0.12)
    assert (one.answer, two.answer) == ("yes", "no") and one.near and two.near
    assert plain(one)["threshold"] == {"answer": "yes", "at": 0.2} and "threshold" not in plain(
        predicted(rows(None, None), [high], ANSWERS)[0]
    )
    write(tmp_path / "x.csv", [one, two])
    assert next(csv.DictReader((tmp_path / "x.csv").open(newline="")))["threshold"] == "yes 0.2"
    (first, second) = predicted(rows(None, None), [low, high], ANSWERS)
    # Means 0.5 and 0.35 against (0.2 + 0.5) / 2; each roll votes by its own.
    assert (first.answer, first.threshold) == ("yes", Threshold("yes", 0.35)) and first.votes == {"yes": 2}
    assert second.votes == {"no": 1, "yes": 1}
