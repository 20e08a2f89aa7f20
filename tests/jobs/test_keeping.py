"""What a run says of its state that can't be saved, and what it leaves."""

import numpy as np
import pytest

from rolltune.errors import UserError
from rolltune.hosts import ONE
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.keeping import Keeping
from rolltune.training.loop import FinishedRoll, State
from rolltune.training.rolls import Draw


class Failing:
    """Saves that succeed only at some steps."""

    hosts = ONE

    def __init__(self, folder, good):
        self.folder, self.good, self.step = folder, good, None

    def settle(self, wait=True):
        pass

    def due(self, step):
        return True

    def begin(self, state):
        self.keep_now(state)

    def keep_now(self, state, within=0.0):
        if state.step not in self.good:
            raise ValueError("RESOURCE_EXHAUSTED: no space left\nand more")
        self.step = state.step


def test_a_state_that_cannot_be_saved_is_said_once_and_the_training_goes_on(tmp_path):
    said: list[str] = []
    interrupts, at = Interrupts(lambda text: said.append(text)), lambda step: State(None, [], 1, step)
    keeping = Keeping(Failing(tmp_path / "a.state", {4, 5}), interrupts)
    for step in (1, 2, 3):
        keeping.passing(at(step))
    (text,) = said
    assert (
        "a.state: the state can't be saved (RESOURCE_EXHAUSTED: no space left); a stop now would lose the run" in text
    )
    assert not keeping.at_a_stop(at(3))
    with pytest.raises(UserError, match="stopped at step 3; nothing is kept"):
        keeping.stopped(at(3))
    for step in (4, 5, 6, 7):
        keeping.passing(at(step))
    assert len(said) == 2 and "would lose all after step 5" in said[1]
    assert keeping.stopped(at(7)) == (
        "stopped at step 7, kept as it was at step 5; go on with the same command and --resume"
    )
    assert keeping.at_a_stop(at(5)) and keeping.stopped(at(5)).startswith("stopped at step 5; go on")


def test_trained_arrays_go_elsewhere_where_the_state_cannot_be_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    draw = Draw(3, 0, 0.1, 8.0, 0.0)
    ended = [FinishedRoll(draw, 8, "", False, {"a": {"w": np.arange(3.0)}}), FinishedRoll(draw, 1, "loss", True, None)]
    keeping = Keeping(Failing(tmp_path / "a.state", {4}), Interrupts(print))
    said = keeping.at_the_end(State(None, [], 1, 8, ended=ended), "best")
    (kept,) = tmp_path.glob("rolltune-best-*/*.npz")
    assert str(kept.parent) in said and np.load(kept)["a/w"].tolist() == [0, 1, 2] and kept.name == "roll3.npz"
    assert keeping.at_the_end(State(None, [], 1, 4), "best").endswith("a.state")
