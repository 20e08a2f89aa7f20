"""Where a run leaves what: names that are its own, states on the way that make room for later ones, bytes it needs."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rolltune.errors import UserError
from rolltune.jobs.learn import Options, room_for
from rolltune.jobs.outputs import Outputs
from rolltune.training.step import Roll


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("checkpoints")
    return Outputs("mine")


def there() -> set[str]:
    return {path.name for path in Path("checkpoints").iterdir()}


def test_the_latest_states_on_the_way_are_kept_and_nothing_else_is_deleted(out):
    steps = [out.at_step(step, roll) for roll in (None, 0, 1) for step in (9, 10, 100, 2)]
    for path in (*steps, out.roll, out.kept(2), Outputs("mine2").at_step(1)):
        path.touch()
    before = there()
    out.drop_steps(2)
    assert before - there() == {"mine.step9.npz", "mine.step2.npz"}  # by number, not by letter
    out.drop_steps(3, roll=1)
    assert before - there() == {"mine.step9.npz", "mine.step2.npz", "mine.roll1.step2.npz"}


def test_a_name_is_free_where_no_file_of_such_a_run_is_there(out):
    out.check_free()
    for path in (Outputs("mine2").roll, Outputs("mine2").kept(2), Path("checkpoints/mine.other.npz")):
        path.touch()
    out.check_free()
    assert out.others == []
    for path in (out.kept(3), out.at_step(4, 1)):
        path.touch()
    assert out.others == [out.kept(3), out.at_step(4, 1)]
    with pytest.raises(UserError, match=r"mine\.rank3\.npz is there already.*and 1 more of that run.*-w mine-v2"):
        out.check_free()
    for name in ("", "../mine", "mine.rank2", "mine.roll1.step3", "mine.whole", "mine.state", ".mine"):
        with pytest.raises(UserError, match="expected a plain name"):
            Outputs(name)


@pytest.mark.parametrize(("keep", "rolls"), [("best", 1), ("3", 3), ("9", 4), ("all", 4)])
def test_a_run_needs_room_for_two_states_and_the_rolls_that_it_keeps(keep, rolls):
    numbers = {name: np.zeros(4, np.float32) for name in Roll._fields}
    state = Roll(**numbers | {"trainable": {"a": np.zeros((4, 100), np.float32)}, "optimizer": np.zeros((4, 7))})
    whole = 4 * (400 + 7 * 8) + (len(Roll._fields) - 2) * 16
    options = Options("set1", "mine", keep=keep)
    assert room_for(SimpleNamespace(rolls=state, width=4, slots=[None] * 4), options) == 2 * whole + rolls * 400
