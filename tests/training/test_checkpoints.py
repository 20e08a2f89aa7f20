"""An interrupted run on the disk: saved again and again, and damaged in every way."""

import asyncio
import dataclasses
import gc
import logging
import random
import shutil
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from rolltune.errors import UserError
from rolltune.training import checkpoints, savings
from rolltune.training.loop import Best, FinishedRoll, Slot, State
from rolltune.training.rolls import Draw
from rolltune.training.step import Roll

SETTINGS = {"rate": 0.1, "rules": [("a", "full")]}
same = lambda judged: judged


def made(step: int, width: int = 2) -> State:
    ramp = lambda *shape: jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape) + step
    one = {"q": {"a": ramp(width, 3, 2), "b": ramp(width, 2, 5)}}
    arrays = {"trainable": one, "optimizer": {"m": ramp(width, 7)}, "key": jnp.zeros((width, 2), jnp.uint32)}
    rolls = Roll(**{name: arrays.get(name, jnp.full((width,), step, jnp.float32)) for name in Roll._fields})
    draw = Draw(0, 5, 0.1, 8.0, 0.0)
    trained = jax.tree.map(lambda leaf: np.asarray(leaf[0]), one)
    ended = [FinishedRoll(draw, 3, "", False, trained, {"f": 0.5}), FinishedRoll(draw, 1, "loss", True, None)]
    best = Best(0.7, 2, jax.tree.map(lambda leaf: leaf + 1, trained), {"f": 0.7})
    return State(rolls, [Slot(draw, step, 1, best), Slot(None)], width, step, 3, 1, {0: [0.5]}, ended)


def equal(one: State, other: State) -> bool:
    bests = lambda state: [slot.best for slot in state.slots if slot.best]
    trained = lambda state: [end.trainable for end in (*state.ended, *bests(state))]
    leaves = [jax.tree.leaves((state.rolls, trained(state))) for state in (one, other)]
    names = ("step", "drawn", "redraws", "reached", "width")
    without = lambda parts: [dataclasses.replace(part, trainable=None) for part in parts]
    slots = lambda state: [dataclasses.replace(slot, best=slot.best is not None) for slot in state.slots]
    bare = lambda state: ([getattr(state, n) for n in names], slots(state), without(state.ended), without(bests(state)))
    return bare(one) == bare(other) and all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


def test_a_step_may_be_saved_twice_and_the_last_one_counts(tmp_path):
    folder = tmp_path / "a.state"
    assert not savings.exists(folder)
    for state in (made(4), made(4), made(3)):
        checkpoints.save(folder, state, SETTINGS, same)
        assert savings.exists(folder)
        assert equal(checkpoints.load(folder, SETTINGS, made(0), same), state)
    assert sorted(child.name for child in folder.iterdir()) == ["2", "3"]
    with pytest.raises(UserError, match=r"a\.state: the interrupted run differs \(rate was 0\.1, is 0\.2\)"):
        checkpoints.load(folder, SETTINGS | {"rate": 0.2}, made(0), same)
    with pytest.raises(UserError, match="begun with 2 rolls at once, not 3"):
        checkpoints.load(folder, SETTINGS, made(0, 3), same)
    later = SETTINGS | {"./set1/train.jsonl": "2 rows, ab"}
    checkpoints.save(folder, made(3), later | {"base": "x"}, same)
    checkpoints.check(folder, later, 2, later=("base",))  # before the model is loaded
    checkpoints.check(folder, later, None, later=("base",))
    with pytest.raises(UserError, match=r"\./set1/train\.jsonl was '2 rows, ab', is '1 rows, cd'"):
        checkpoints.check(folder, later | {"./set1/train.jsonl": "1 rows, cd"}, 2, later=("base",))
    with pytest.raises(UserError, match=r"\./set2/train\.jsonl was not there, \./set1/train\.jsonl was there"):
        checkpoints.check(folder, SETTINGS | {"./set2/train.jsonl": "2 rows, ab"}, 2, later=("base",))
    with pytest.raises(UserError, match="begun with 2 rolls at once, not 3"):
        checkpoints.check(folder, later, 3, later=("base",))
    savings.remove(folder)
    with pytest.raises(UserError, match=r"a\.state: nothing to resume"):
        checkpoints.load(folder, SETTINGS, made(0), same)


def test_a_damaged_state_is_advice_or_the_state(tmp_path):
    """Whatever is flipped, cut or lost, no other numbers come back, and no traceback."""
    kept, folder, draw = tmp_path / "kept", tmp_path / "a.state", random.Random(3)
    state = made(4)
    checkpoints.save(kept, state, SETTINGS, same)
    files = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    refused = seen = 0
    for number in range(3 * len(files)):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        path = folder / files[number % len(files)]
        content = bytearray(path.read_bytes())
        kind = number // len(files)
        if kind == 0:
            path.unlink()
        elif kind == 1:
            path.write_bytes(content[: draw.randrange(len(content) or 1)])
        elif content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            path.write_bytes(content)
        assert savings.exists(folder) == (folder / "1" / savings.CHECKS).exists()
        try:
            found = checkpoints.load(folder, SETTINGS, made(0), same)
        except UserError as error:
            assert str(error).startswith(str(folder)) and "without --resume" in str(error)
            refused += 1
            seen += "is not as it was saved" in str(error)
        else:
            assert equal(found, state), path
    assert refused > len(files) / 2 and seen > 0.9 * refused  # before orbax, which leaves tracebacks behind


def test_a_saving_that_fails_prints_nothing_and_leaves_the_last_one(tmp_path, capfd, monkeypatch):
    folder = tmp_path / "a.state"
    checkpoints.save(folder, made(4), SETTINGS, same)

    def full(*given, **named):
        logging.getLogger("absl").error("a traceback of a thread")
        (folder / f"2{savings.HALF}").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.ocp.AsyncCheckpointer, "save", full)
        with pytest.raises(ValueError, match="No space left"):
            checkpoints.save(folder, made(5), SETTINGS, same)
    assert [path.name for path in folder.iterdir() if path.name.endswith(savings.HALF)] == []
    assert equal(checkpoints.load(folder, SETTINGS, made(0), same), made(4))
    assert "traceback" not in capfd.readouterr().err


def test_what_comes_in_for_a_loop_that_a_failed_saving_closed_prints_nothing(monkeypatch, caplog):
    """As on a host of several, where one file fails and orbax closes its loop over the others."""

    async def waiting(future):
        await future

    def left_behind() -> None:
        gone, came = tensorstore.Promise.new(), tensorstore.Promise.new()
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(waiting(future)) for _, future in (gone, came)]
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        came[0].set_result(1)
        del tasks

    told: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda one: told.append(str(one.exc_value)))
    left_behind()
    gc.collect()
    assert set(told) == {checkpoints.LOOP_CLOSED} and "was destroyed" in caplog.text
    told.clear()
    caplog.clear()
    with checkpoints.writer():
        left_behind()
        sys.unraisablehook(SimpleNamespace(exc_value=ValueError("of somebody else")))
    gc.collect()
    assert told == ["of somebody else"] and not caplog.text
