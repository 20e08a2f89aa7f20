"""What was trained is not lost where the rolls cannot be saved, and is not written twice where they can."""

import errno
import json
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

    def run(resume=False):
        said: list[str] = []
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
        expected = pytest.raises(UserError, match=r"best.npz: No space.*kept in \S*best.state.*--resume")
        with expected if isinstance(error, OSError) else pytest.raises(RuntimeError, match="a bug"):
            train()
    assert savings.exists(Path("checkpoints/best.state"))
    said, saved = train(resume=True)
    assert "going on from step 4" in said and saved == 0 and Path("checkpoints/best.npz").is_file()
    assert not savings.exists(Path("checkpoints/best.state"))


def test_a_run_whose_rolls_are_saved_writes_no_state_beside_them(train):
    _, saved = train()
    assert saved == 0 and Path("checkpoints/best.npz").is_file()
