"""The logged steps of a run: what is shown of the rolls' standing, and what is written down."""

import json
import math
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from event_scalars import scalars

from rolltune import sharding
from rolltune.jobs.log import Log
from rolltune.jobs.outputs import Outputs
from rolltune.recipe import Recipe
from rolltune.training.loop import Evaluation, FinishedRoll, Slot, State
from rolltune.training.rolls import Draw
from rolltune.training.step import ALIVE, REASONS, STOPPED, StepMetrics


def test_rolls_are_ranked_while_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    slots = [Slot(Draw(number, number, 1e-3, 8.0, 0.0)) for number in range(4)]
    state = State(rolls=None, slots=slots, width=4, step=8)
    verdict = lambda figure, collapsed=False: Evaluation(figure, collapsed, None, {"valid/log-loss": abs(figure)})
    with Log(Outputs("ads"), Recipe(metric="log-loss", steps=16), state, fresh=True) as log:
        log.judged(state, {0: verdict(-0.5), 1: verdict(-0.25), 2: verdict(-0.125, True), 3: verdict(-math.inf)}, False)
        assert capsys.readouterr().out == "log-loss so far: roll 1 0.25, roll 0 0.5\n"
        state.ended.append(FinishedRoll(slots[1].draw, 8, "stopped early", False, None))
        state.ended.append(FinishedRoll(slots[0].draw, 16, "", False, {}))
        state.slots, state.step = [Slot(None), Slot(None), slots[2], slots[3]], 16
        log.judged(state, {2: verdict(-0.75)}, True)
        assert capsys.readouterr().out == "log-loss so far: roll 0 0.5, roll 2 0.75\n"
        log.judged(state, {2: verdict(-0.75), 3: verdict(-0.375)}, True)
        assert capsys.readouterr().out == ""  # the leaderboard says it
    logged = [json.loads(line) for line in Path("reports/ads.metrics.jsonl").read_text().splitlines()]
    of = lambda record, roll: (record[f"roll {roll}/step"], record[f"roll {roll}/valid/log-loss"])
    assert logged[0]["step"] == 8 and [of(logged[0], roll) for roll in (0, 1, 2)] == [(0, 0.5), (0, 0.25), (0, 0.125)]
    assert of(logged[1], 2) == (0, 0.75) and logged[1]["step"] == 16 and "roll 1/step" not in logged[1]
    assert all(before["time"] <= after["time"] for before, after in pairwise(logged))


class Host:
    """A device that tells its memory."""

    device_kind = "card"

    def memory_stats(self):
        return {"bytes_in_use": 3 * 2**30, "peak_bytes_in_use": 4 * 2**30}


def test_steps_are_logged_with_norm_speed_and_memory_and_gone_on_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sharding, "cards_here", lambda: [Host()])
    clock = iter((10.0, 14.0, 20.0, 22.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    draw = Draw(0, 0, 1e-3, 8.0, 0.0)
    report = StepMetrics(np.array([0.5]), np.array([0.01]), np.array([2.0]))

    def at(step):
        rolls = SimpleNamespace(state=np.array([ALIVE]))
        return State(rolls, [Slot(draw, step)], width=1, step=step)

    recipe = Recipe(metric="log-loss", steps=32, batch=2, accumulate=3)
    with Log(Outputs("ads"), recipe, at(0), fresh=True) as log:
        log.untrained(at(0), {0: Evaluation(-1.0, False, None, {"valid/accuracy": 0.5})})
        log.step(at(8), report)
        log.step(at(16), report)
        log.judged(at(16), {0: Evaluation(-0.5, False, None, {"valid/accuracy": 0.75})}, False)
    with Log(Outputs("ads"), recipe, at(8), fresh=False) as log:  # what came after the state that was saved is dropped
        assert log.curves == {0: ([8], [0.5])}
        log.step(at(16), report)
        assert log.curves == {0: ([8, 16], [0.5, 0.5])}
    logged = [json.loads(line) for line in Path("reports/ads.metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in logged] == [0, 8, 16] and logged[0]["valid/accuracy"] == 0.5
    assert logged[1]["gradient-norm"] == 2.0 and logged[1]["memory/device-GiB"] == 3.0
    assert logged[1]["memory/device-peak-GiB"] == 4.0 and 0 < logged[1]["memory/rss-GiB"] < logged[1]["memory/vms-GiB"]
    board = scalars(Path("reports/ads.tensorboard"))
    assert board["loss"] == [(8, 0.5), (16, 0.5)] and board["valid/accuracy"] == [(0, 0.5)]
    assert set(board) == set().union(*logged) - {"step", "time"}


def test_samples_a_second_count_rows_of_all_rolls_without_compiling_and_evaluating(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clock = iter((10.0, 14.0, 100.0, 102.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    slots = [Slot(Draw(number, number, 1e-3, 8.0, 0.0)) for number in range(2)]
    report = StepMetrics(*(np.array([0.5, 0.5]) for _ in range(3)))
    at = lambda step: State(SimpleNamespace(state=np.array([ALIVE, ALIVE])), slots, width=2, step=step)
    with Log(Outputs("ads"), Recipe(metric="log-loss", steps=32, batch=2, accumulate=3), at(0), fresh=True) as log:
        log.step(at(8), report)
        log.step(at(16), report)
        log.judged(at(16), {}, False)
        log.step(at(20), report)
    logged = [json.loads(line) for line in Path("reports/ads.metrics.jsonl").read_text().splitlines()]
    assert [one.get("speed/samples-per-s") for one in logged] == [None, 8 * 12 / 4.0, 4 * 12 / 2.0]


@pytest.mark.parametrize("width", [1, 3])
def test_each_roll_s_figures_are_logged_under_its_number_at_its_own_step(tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    draw = lambda number: Draw(number, number, 1e-3, 8.0, 0.0)
    slots = [Slot(draw(7), step=4)] if width == 1 else [Slot(draw(7), step=4), Slot(None), Slot(draw(9), step=12)]
    states = np.array([ALIVE, STOPPED, STOPPED])[:width]
    state = State(rolls=SimpleNamespace(state=states), slots=slots, width=width, step=12)
    report = StepMetrics(*(np.array([one, 9.0, 2 * one])[:width] for one in (0.25, 1e-3, 0.5)))
    shown = []
    with Log(Outputs("ads"), Recipe(metric="accuracy", steps=16), state, fresh=True) as log:
        monkeypatch.setattr(log._live, "show", lambda *given: shown.append(given))
        log.step(state, report)
        for slot in slots:
            slot.step += 4
        log.step(state, report)
        log.judged(state, {0: Evaluation(0.5, False, None, {"valid/accuracy": 0.5})}, False)
    logged = [json.loads(line) for line in Path("reports/ads.metrics.jsonl").read_text().splitlines()]
    own = lambda record, *names: {name: record[name] for name in names}
    if width == 1:
        assert shown[0] == (4, [0.25], [1e-3], ["alive"], [4])
        assert own(logged[1], "step", "loss", "lr") == {"step": 12, "loss": 0.25, "lr": 1e-3}
        assert log.curves == {7: ([4, 8], [0.25, 0.25])} and logged[2]["valid/accuracy"] == 0.5
        return
    assert shown[0] == (12, [0.25, 0.5], [1e-3, 2e-3], ["alive", REASONS[STOPPED]], [4, 12])
    by_roll = {"loss": (0.25, 0.5), "lr": (1e-3, 2e-3), "gradient-norm": (0.5, 1.0), "step": (4, 12)}
    figures = {f"roll {7 + 2 * n}/{name}": pair[n] for name, pair in by_roll.items() for n in range(2)}
    assert own(logged[0], *figures) == figures and logged[2]["roll 7/valid/accuracy"] == 0.5
    assert log.curves == {7: ([4, 8], [0.25, 0.25]), 9: ([12, 16], [0.5, 0.5])}


def test_a_host_that_does_not_write_keeps_its_curves_and_leaves_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    slot = Slot(Draw(7, 7, 1e-3, 8.0, 0.0), step=4)
    state = State(rolls=SimpleNamespace(state=np.array([ALIVE])), slots=[slot], width=1, step=4)
    report = StepMetrics(*(np.array([one]) for one in (0.25, 1e-3, 0.5)))
    with Log(Outputs("ads"), Recipe(metric="accuracy", steps=16), state, fresh=True, writes=False) as log:
        log.step(state, report)
        log.judged(state, {0: Evaluation(0.5, False, None, {"valid/accuracy": 0.5})}, True)
    assert log.curves == {7: ([4], [0.25])} and not list(tmp_path.iterdir()) and capsys.readouterr().out == ""
