"""An adapter from elsewhere is a roll without a past: its base is named, its answers are those of the data."""

import numpy as np
import pytest
from small_model import make_example

from rolltune import base
from rolltune.adapters import CLASSES
from rolltune.errors import UserError
from rolltune.jobs.adopted import Asking, adopt, is_foreign, is_model
from rolltune.jobs.export import hf_table
from rolltune.weights.card import Base, RollCard
from rolltune.weights.peft import Scaling, write_adapter
from rolltune.weights.roll_file import save_roll

PATH = "text/layers/attn/q/kernel"


@pytest.fixture
def adapter(tmp_path):
    """`adapter(base_name)`: a folder with an adapter of one matrix of the built-in model."""
    table = hf_table(base.open_model("tiny"))
    row = next(row for row in table if row.path == PATH)
    leaf = {
        "a": np.ones((row.layers, row.shape[0], 2), np.float32),
        "b": np.ones((row.layers, 2, row.shape[1]), np.float32),
    }

    def make(name="tiny", **more):
        write_adapter(tmp_path, {PATH: leaf, **more}, table, {}, Scaling(2, 3.0, True), name)
        return tmp_path

    return make


def test_what_it_trains_and_how_it_is_scaled_is_its_own(adapter):
    rows = [make_example(n, answer=answer) for n, answer in enumerate(("b", "a", "b", "b"))]
    saved, roll = adopt(adapter(), Asking(), rows)
    assert (saved.recipe.rank, saved.recipe.alpha, saved.recipe.rslora, saved.recipe.model) == (2, 3.0, True, "tiny")
    assert saved.recipe.task == "choose" and saved.card.answers == ["a", "b"]
    assert saved.card.metrics == {"positive": "a"} and saved.card.prompt == "" and roll.card == saved.card
    assert saved.recipe.trainability == [(f"^{PATH}$", "lora"), (".*", "frozen")]
    assert set(roll.tree["text"]["layers"]["attn"]["q"]["kernel"]) == {"a", "b"}
    written, _ = adopt(adapter(), Asking(), [make_example(n, answer=f"text {n}") for n in range(6)])
    assert written.recipe.task == "write" and not written.card.answers and written.card.metrics == {"positive": None}


def test_what_was_made_elsewhere_is_told_by_what_lies_there(tmp_path, adapter):
    """(whether it has no card, whether it is a whole model)"""
    told = lambda path: (is_foreign(path), is_model(path))
    (tmp_path / "empty").mkdir()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    np.savez(tmp_path / "theirs.npz", a=np.zeros(1))
    save_roll(tmp_path / "ours.npz", {"a": np.zeros(1, np.float32)}, RollCard(Base("tiny", "ab"), "lora", {}, "", []))
    (tmp_path / "torn.npz").write_bytes(b"PK")
    (tmp_path / "theirs.zip").write_bytes((tmp_path / "theirs.npz").read_bytes())
    assert told(model) == told(tmp_path / "theirs.npz") == (True, True)
    for name in ("empty", "ours.npz", "torn.npz", "theirs.zip", "gone.npz"):
        assert told(tmp_path / name) == (False, False), name
    (adapter() / "config.json").write_text("{}")  # some keep both in one folder
    assert told(tmp_path) == (True, False)


def test_its_base_is_named_or_lies_here(adapter):
    rows = [make_example(n, answer="ab"[n % 2]) for n in range(4)]
    with pytest.raises(UserError, match=r"belongs to 'some/base', which does not lie here: name its base with --model"):
        adopt(adapter("some/base"), Asking(), rows)
    assert adopt(adapter("some/base"), Asking("tiny"), rows)[0].recipe.model == "tiny"
    with pytest.raises(UserError, match="brings a head of classes"):
        adopt(adapter(**{CLASSES: np.ones((4, 2), np.float32)}), Asking(), rows)
