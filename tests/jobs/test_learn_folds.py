"""Which fold a row is in, and which roll judges a fold."""

import dataclasses
import json

import pytest

from rolltune.errors import UserError
from rolltune.jobs.conclude import _rounds
from rolltune.jobs.learn import Options, _folds
from rolltune.recipe import Recipe
from rolltune.training.dataset import Wanted, read_data
from rolltune.training.loop import COLLAPSED, FinishedRoll
from rolltune.training.rolls import Draw


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


def ungrouped(data):
    return dataclasses.replace(data, examples=[dataclasses.replace(one, group=None) for one in data.examples])


def test_a_fold_of_poor_rolls_alone_is_judged_by_one_of_them():
    def ended(roll, fold, reason="", trained=True):
        return FinishedRoll(Draw(roll, roll, 0.1, 8.0, 0.0, fold=fold), 8, reason, False, {} if trained else None, {})

    every = [ended(0, 0), ended(1, 1, COLLAPSED), ended(2, 0), ended(3, 1, COLLAPSED), ended(4, 1, "loss", False)]
    finished = {one.draw.roll: one for one in every if not one.reason}
    rolls = lambda repeat, ended: [
        {fold: one.draw.roll for fold, one in members.items()}
        for members in _rounds(finished, ended, Options("set1", "name", folds=2, repeat=repeat))
    ]
    assert rolls(1, every) == [{0: 0, 1: 3}]
    assert rolls(2, every) == [{0: 0, 1: 3}, {0: 2, 1: 1}]
    assert rolls(1, [every[0], every[4]]) == [{0: 0}]
    said = []
    _out_of_fold(None, [{0: every[0]}], [], Options("set1", "name", folds=2), None, said.append) if False else None
