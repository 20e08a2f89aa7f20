"""What was trained is not lost where the rolls cannot be saved, and is not written twice where they can."""

import errno
import json
import re
from pathlib import Path

import pytest

from rolltune.errors import UserError
from rolltune.jobs import learn as learning
from rolltune.jobs.interrupts import Interrupts
from rolltune.recipe import Recipe
from rolltune.training import savings
from rolltune.training.saves import Saves

RECIPE = Recipe(steps=4, log_every=4, rank=2, batch=2, rate=1e-3, evaluate_batch=2)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """`train(resume)`: (what was said, how often a state was saved)."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prefix": f"Is {n} even?", "suffix": ("yes", "no")[n % 2]} for n in range(6)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    begin, begun = Saves.begin, []
    monkeypatch.setattr(Saves, "begin", lambda self, state: (begun.append(state.step), begin(self, state))[1])

    def run(resume=False, said=None):
        said = [] if said is None else said
        begun.clear()
        options = learning.Options("rows.jsonl", "best", resume=resume)
        assert learning.learn(options, RECIPE, Interrupts(said.append)) == 0
        return "\n".join(said), len(begun)

    return run


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device", "best.npz"), RuntimeError("a bug")])
def test_what_was_trained_is_kept_where_its_rolls_cannot_be_saved(train, monkeypatch, error):
    def fails(*_):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(learning, "conclude", fails)
        told, text = [], r"kept in \S*best.state.*--resume"
        if isinstance(error, OSError):
            with pytest.raises(UserError, match=f"best.npz: No space.*{text}"):
                train(said=told)
        else:
            with pytest.raises(RuntimeError, match="a bug"):
                train(said=told)
            assert re.search(text, told[-1])
    assert savings.exists(Path("checkpoints/best.state"))
    said, saved = train(resume=True)
    assert "going on from step 4" in said and saved == 0 and Path("checkpoints/best.npz").is_file()
    assert not savings.exists(Path("checkpoints/best.state"))


def test_a_run_whose_rolls_are_saved_writes_no_state_beside_them(train):
    _, saved = train()
    assert saved == 0 and Path("checkpoints/best.npz").is_file()


def test_what_was_trained_is_kept_where_what_is_said_of_it_fails(train):
    class Broken(list):
        def append(self, text):
            if text.startswith("seconds:"):
                raise RuntimeError("nobody listens")

    with pytest.raises(RuntimeError, match="nobody listens"):
        train(said=Broken())
    assert savings.exists(Path("checkpoints/best.state"))


def test_no_resuming_is_promised_where_the_state_is_not_saved(train, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "best.npz")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(learning, "conclude", full)
    monkeypatch.setattr(Saves, "keep_now", full)
    with pytest.raises(UserError, match="No space left") as told:
        train()
    (kept,) = tmp_path.glob("rolltune-best-*/*.npz")
    assert str(kept.parent) in str(told.value) and "--resume" not in str(told.value)
