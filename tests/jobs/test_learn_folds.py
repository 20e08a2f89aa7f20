"""Which fold a row is in, even folds or id % N, and what the rolls of all folds say together."""

import dataclasses
import json

import pytest

from rolltune.data.learned import learned
from rolltune.errors import UserError
from rolltune.evaluation.metrics import Metrics
from rolltune.jobs.folded import rounds
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.learn import Options, _folds, learn
from rolltune.recipe import Recipe
from rolltune.training.dataset import Wanted, read_data
from rolltune.training.loop import COLLAPSED, FinishedRoll
from rolltune.training.rolls import Draw
from rolltune.weights.roll_file import read_card


def test_folds_go_by_the_ids_of_the_files(tmp_path):
    said = []
    for split, ids in (("train", [4, "5", 6, 9]), ("valid", [10, 4])):  # an id is unique in its file alone
        rows = [{"id": id, "prefix": "a", "suffix": "yn"[n % 2], "group": "g"} for n, id in enumerate(ids)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(fold_by="id")
    files = {split: tmp_path / f"{split}.jsonl" for split in ("train", "valid")}
    data = read_data(files, Wanted("auto"), lambda text: None)
    options = Options("set1", "name", folds=3)
    assert _folds(options, recipe, data, said.append) == [1, 2, 0, 0, 1, 1]
    assert len(said) == 1 and "torn apart by id % 3" in said[0]
    assert len(set(_folds(Options("set1", "name", folds=2), Recipe(), ungrouped(data), said.append))) == 2
    files["train"].write_text('{"id": "a7", "prefix": "a", "suffix": "y"}\n')
    data = read_data(files, Wanted("auto"), lambda text: None)
    with pytest.raises(UserError, match=r"train\.jsonl:1: the id 'a7'"):
        _folds(options, recipe, data, said.append)


def test_each_row_is_predicted_by_the_roll_that_did_not_learn_from_it(tmp_path, monkeypatch):
    """Three folds of nine rows for training and three for validation: each roll learns from eight, two a step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Metrics, "collapsed", None)  # after so few steps it is luck whether a roll gives two answers
    (tmp_path / "dataset/set1").mkdir(parents=True)
    for split, count in (("train", 9), ("valid", 3)):
        rows = [{"prefix": f"Is it {split} {n}?", "suffix": ("yes", "no")[n % 2]} for n in range(count)]
        (tmp_path / f"dataset/set1/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    recipe = Recipe(epochs=1, batch=2, log_every=4, rank=2, warmup=0.0, rate=1e-3, redraws=0, evaluate_batch=12)
    assert learn(Options("set1", "cv", folds=3, keep="all"), recipe, Interrupts(said.append)) == 0, said
    files = {split: tmp_path / f"dataset/set1/{split}.jsonl" for split in ("train", "valid")}
    data = read_data(files, Wanted("auto"), said.append)
    left_out = [json.loads(line) for line in (tmp_path / "reports/cv.out-of-fold.jsonl").read_text().splitlines()]
    assert [row["id"] for row in left_out] == [one.id for one in data.examples]
    assert [row["answer"] for row in left_out] == [one.answer for one in data.examples]
    assert any("(out of fold)" in text for text in said)
    doubted = [json.loads(line) for line in (tmp_path / "reports/cv.doubtful.jsonl").read_text().splitlines()]
    assert {row["id"] for row in doubted} == {row["id"] for row in left_out if row["predicted"] != row["answer"]}
    assert all(row["probabilities"][row["answer"]] <= 0.5 and row["rolls"] == 1 for row in doubted)
    held_out = []
    for name in ("cv", "cv.rank2", "cv.rank3"):
        card = read_card(f"checkpoints/{name}.npz")
        assert card.recipe["steps"] == 4
        own = [place for place, known in enumerate(learned(data.marks, card.metrics["learned"])) if not known]
        assert len(own) == 4 and card.metrics["valid"]["n"] == 4 and card.metrics["train"]["n"] == 8
        held_out += own
    assert sorted(held_out) == list(range(12))


def ungrouped(data):
    return dataclasses.replace(data, examples=[dataclasses.replace(one, group=None) for one in data.examples])


def test_a_fold_of_poor_rolls_alone_is_judged_by_one_of_them():
    def ended(roll, fold, reason="", trained=True):
        return FinishedRoll(Draw(roll, roll, 0.1, 8.0, 0.0, fold=fold), 8, reason, False, {} if trained else None, {})

    every = [ended(0, 0), ended(1, 1, COLLAPSED), ended(2, 0), ended(3, 1, COLLAPSED), ended(4, 1, "loss", False)]
    finished = {one.draw.roll: one for one in every if not one.reason}
    rolls = lambda repeat, ended: [
        {fold: one.draw.roll for fold, one in members.items()}
        for members in rounds(finished, ended, Options("set1", "name", folds=2, repeat=repeat))
    ]
    assert rolls(1, every) == [{0: 0, 1: 3}]
    assert rolls(2, every) == [{0: 0, 1: 3}, {0: 2, 1: 1}]
    assert rolls(1, [every[0], every[4]]) == [{0: 0}]
