"""A run's state saved while its training goes on: never torn, on a full disk, damaged, killed, on other devices."""

import json
import random
import resource
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune.errors import UserError
from rolltune.hosts import Hosts, Place
from rolltune.training import checkpoints, saves, savings
from rolltune.training.loop import Slot, State
from rolltune.training.rolls import Draw
from rolltune.training.saves import Pace, Saves, pace_of
from rolltune.training.step import Roll

same = lambda judged: judged


def made(step: int = 0, size: int = 1 << 20) -> State:
    large = {"w": jnp.full((2, size), step, jnp.float32)}
    rolls = Roll(**{name: jnp.full((2,), step, jnp.float32) for name in Roll._fields} | {"trainable": large})
    return State(rolls, [Slot(Draw(0, 0, 0.1, 8.0, 0.0)), Slot(None)], 2, step)


@partial(jax.jit, donate_argnums=0)
def trained(rolls: Roll) -> Roll:
    return jax.tree.map(lambda leaf: leaf + 1, rolls)


def restored(folder: Path, size: int = 1 << 20) -> State:
    state = checkpoints.load(folder, {}, made(0, size), same)
    for leaf in jax.tree.leaves(state.rolls):
        np.testing.assert_array_equal(leaf, np.full_like(leaf, state.step))  # all of one step, which is the one it says
    return state


def numbers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_saving_is_of_its_step_though_the_steps_after_it_take_its_buffers(tmp_path, monkeypatch):
    go, finish = threading.Event(), checkpoints.finish
    slow = lambda *given: go.wait() and finish(*given)
    monkeypatch.setattr(checkpoints, "finish", slow)
    state = made()
    with Saves(tmp_path, {}, same) as kept:
        for _ in range(4):
            state.rolls, state.step = trained(state.rolls), state.step + 1
            if state.step == 2:
                kept.begin(state)
        assert kept.busy() and not kept.due(10**6) and kept.step is None and not savings.exists(tmp_path)
        go.set()
    assert kept.step == 2 and kept.seconds > 0 and restored(tmp_path).step == 2


def test_at_a_stop_what_is_being_written_is_waited_for_and_not_written_twice(tmp_path, monkeypatch):
    slow = lambda *given, finish=checkpoints.finish: (time.sleep(0.2), finish(*given))
    monkeypatch.setattr(checkpoints, "finish", slow)
    state = made(3, 8)
    with Saves(tmp_path, {}, same) as kept:
        kept.begin(state)
        kept.keep_now(state)
        assert kept.step == 3 and numbers(tmp_path) == ["1"]
        state.rolls, state.step = trained(state.rolls), 4
        kept.keep_now(state, within=0.01)  # a saving takes 0.2 s
        assert kept.step == 3 and numbers(tmp_path) == ["1"]
        kept.keep_now(state, within=60)
        assert kept.step == 4 and restored(tmp_path, 8).step == 4
    with Saves(tmp_path, {}, same, there=state) as kept:  # gone on with, and stopped at once
        kept.keep_now(state)
    assert numbers(tmp_path) == ["1", "2"]


def test_a_full_disk_is_met_once_leaves_nothing_and_the_next_saving_succeeds(tmp_path, capfd):
    state, limits = made(), resource.getrlimit(resource.RLIMIT_FSIZE)
    draw = jax.random.normal(jax.random.key(0), state.rolls.trainable["w"].shape)  # nothing to compress
    state.rolls = state.rolls._replace(optimizer=draw)
    with Saves(tmp_path, {}, same) as kept:
        kept.keep_now(state)
        state.step = 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, limits[1]))
        try:
            kept.begin(state)
            with pytest.raises(Exception, match=r"large|RESOURCE|space"):
                kept.settle()
            kept.settle()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert numbers(tmp_path) == ["1"] and kept.step == 0
        kept.keep_now(state)
    assert kept.step == 1 and numbers(tmp_path) == ["1", "3"]
    assert "Traceback" not in capfd.readouterr().err


def test_the_last_few_are_kept_and_a_damaged_last_one_leaves_the_one_before(tmp_path):
    with Saves(tmp_path, {}, same, keep=2) as kept:
        for step in range(1, 5):
            kept.keep_now(made(step, 8))
    assert numbers(tmp_path) == ["3", "4"]
    part = max((tmp_path / "4").rglob("d/*"), key=lambda path: path.stat().st_size)
    part.write_bytes(part.read_bytes()[:-1])
    said: list[str] = []
    checkpoints.check(tmp_path, {}, 2, say=said.append)
    assert len(said) == 1 and "last saving is damaged (" in said[0] and "of step 3, is not" in said[0]
    state = restored(tmp_path, 8)
    assert state.step == 3
    with Saves(tmp_path, {}, same, keep=2, there=state) as kept:
        kept.keep_now(made(4, 8))
    assert numbers(tmp_path) == ["3", "5"]  # not the damaged one
    (tmp_path / "5" / savings.CHECKS).unlink()  # as a kill before the mark leaves it
    (tmp_path / f"6{savings.HALF}").mkdir()
    checkpoints.check(tmp_path, {}, 2, say=said.append)
    assert restored(tmp_path, 8).step == 3 and len(said) == 1
    with Saves(tmp_path, {}, same, keep=1) as kept:
        assert numbers(tmp_path) == ["3", "5"]
        kept.keep_now(made(5, 8))
    assert numbers(tmp_path) == ["6"]


def test_how_often(tmp_path, monkeypatch):
    assert pace_of("") == Pace() and pace_of("200") == Pace(200) and pace_of("90s") == Pace(0, 90)
    assert pace_of("200, 10m") == Pace(200, 600) == pace_of("10m,200") and pace_of("2h").seconds == 7200
    for text in ("0", "1d", "often", "-3", "1.5m", "10m,5m", "10m 5m", "100,200", "10s,1m,5", ",", " "):
        with pytest.raises(UserError, match=r"--state-every '.*': expected a number of steps, a time"):
            pace_of(text)
    clock = [0.0]
    monkeypatch.setattr(saves.time, "perf_counter", lambda: clock[0])

    def due(pace: Pace, seconds: float, copying: float, writing: float) -> list[int]:
        """The steps of 200, each so long, at which a saving begins, which takes so long."""
        made, kept = [], Saves(tmp_path, {}, same, pace=pace)
        waits = lambda *given: clock.__setitem__(0, clock[0] + writing)
        monkeypatch.setattr(checkpoints, "write", lambda *given: clock.__setitem__(0, clock[0] + copying))
        monkeypatch.setattr(checkpoints, "finish", waits)
        with kept:
            for step in range(1, 201):
                clock[0] += seconds
                if kept.due(step):
                    made.append(step)
                    kept.keep_now(State(made_rolls, [], 1, step))
        return made

    made_rolls = made(0, 1).rolls
    assert due(Pace(50), 1, 0, 0) == [50, 100, 150, 200]
    assert due(Pace(), 1, 0, 0) == [31, 62, 93, 124, 155, 186]
    assert due(Pace(), 1, 1.2, 0) == [31, 90, 149]  # a fiftieth of the time
    assert due(Pace(), 1, 0, 10) == [31, 72, 113, 154, 195]  # and the disk has time for others
    assert due(Pace(0, 60), 1, 1.2, 10) == [61, 110, 159]  # what was asked is done
    assert due(Pace(100, 60), 1, 0, 0) == [61, 100, 161, 200]
    told: list[bool] = []  # over several hosts: what one clock says, for all
    two = Hosts(Place(1, 2))
    monkeypatch.setattr(two, "first", lambda own: told.append(own) or True)
    others = Saves(tmp_path, {}, same, hosts=two)
    assert [step for step in range(1, 20) if others.due(step)] == [8, 16] and told == [False, False]


def test_killed_at_random_moments_and_gone_on_with_it_ends_as_if_never_killed(tmp_path):
    seed = random.randrange(10**6)
    print("seed", seed)  # shown where this fails
    script = Path(__file__).parent / "killed.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, "3", str(seed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["equal"] and len(told["lost"]) == 3
    assert max(told["lost"]) <= 6  # three steps, and three more while the saving of those before is written
