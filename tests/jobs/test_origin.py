"""A roll of a second pass is trained again from the very roll that it went on from, or not at all."""

import dataclasses

import numpy as np
import pytest

from rolltune.data.files import sha256_of
from rolltune.errors import UserError
from rolltune.jobs.origin import read_origin
from rolltune.recipe import Recipe
from rolltune.weights.roll_file import Base, RollCard, save_roll


def save(path, level, **run):
    recipe = dataclasses.asdict(Recipe()) | {"task": "choose"}
    card = RollCard(Base("tiny", "ab"), "lora", recipe, "ok?", ["a", "b"], {"positive": "a", "passes": 1, "run": run})
    save_roll(path, {"text": {"norm": np.full(2, level, np.float32)}}, card)


def test_the_roll_that_it_went_on_from_is_the_one_of_then(tmp_path):
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    save(first, 1.0, second=None)
    save(second, 2.0, second={"path": str(first), "sha256": sha256_of(first)})
    earlier = read_origin(second).earlier
    assert earlier.path == first and earlier.trained["text/norm"].tolist() == [1, 1]
    assert read_origin(first).earlier is None
    save(first, 3.0, second=None)
    with pytest.raises(UserError, match=r"went on from .*first\.npz, which is gone or another one now"):
        read_origin(second)
    first.unlink()
    with pytest.raises(UserError, match="gone or another one"):
        read_origin(second)
