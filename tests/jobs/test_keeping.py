"""What a run says of its state that can't be saved, and what it leaves."""

import errno
from types import SimpleNamespace

import numpy as np
import pytest

from rolltune.errors import UserError
from rolltune.hosts import ONE
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.keeping import Keeping, room_for
from rolltune.training.loop import FinishedRoll, State
from rolltune.training.rolls import Draw
from rolltune.training.step import Roll


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
    said, whole = keeping.at_the_end(State(None, [], 1, 8, ended=ended), "best")
    (kept,) = tmp_path.glob("rolltune-best-*/*.npz")
    assert (
        not whole
        and str(kept.parent) in said
        and np.load(kept)["a/w"].tolist() == [0, 1, 2]
        and kept.name == "roll3.npz"
    )
    said, whole = keeping.at_the_end(State(None, [], 1, 4), "best")
    assert whole and said.endswith("a.state")


def test_where_nothing_can_be_written_that_is_said_and_no_half_file_is_left(tmp_path, monkeypatch):
    def fails(path, **arrays):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(np, "savez", fails)
    ended = [FinishedRoll(Draw(3, 0, 0.1, 8.0, 0.0), 8, "", False, {"a": np.arange(3.0)})]
    keeping = Keeping(Failing(tmp_path / "a.state", ()), Interrupts(print))
    said, whole = keeping.at_the_end(State(None, [], 1, 8, ended=ended), "best")
    assert not whole and "is lost" in said and "RESOURCE_EXHAUSTED" in said and "No space left" in said
    assert not list(tmp_path.iterdir()) and "--resume" not in said
    keeping.saves.step = 6
    said, _ = keeping.at_the_end(State(None, [], 1, 8, ended=ended), "best")
    assert "since the last saving is lost" in said and "--resume goes on from step 6" in said


@pytest.mark.parametrize(("keep", "rolls"), [("best", 1), ("3", 3), ("9", 4), ("all", 4)])
def test_a_run_needs_room_for_its_states_and_the_rolls_that_it_keeps(keep, rolls):
    numbers = {name: np.zeros(4, np.float32) for name in Roll._fields}
    state = Roll(**numbers | {"trainable": {"a": np.zeros((4, 100), np.float32)}, "optimizer": np.zeros((4, 7))})
    whole = 4 * (400 + 7 * 8) + (len(Roll._fields) - 2) * 16
    found = room_for(SimpleNamespace(rolls=state, width=4, slots=[None] * 4), keep, 2)
    assert found == 3 * whole + rolls * 400  # two are kept, while a third is written
