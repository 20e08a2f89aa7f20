"""The logged steps of a run: what is shown of the rolls' standing, and what is written down."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rolltune import tracking
from rolltune.jobs.log import Log, Sinks
from rolltune.jobs.outputs import Outputs
from rolltune.training.loop import Evaluation, FinishedRoll, Slot, State
from rolltune.training.rolls import Draw
from rolltune.training.step import ALIVE, REASONS, STOPPED


def test_rolls_are_ranked_while_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    slots = [Slot(Draw(number, number, 1e-3, 8.0, 0.0)) for number in range(4)]
    state = State(rolls=None, slots=slots, width=4, step=8)
    verdict = lambda figure, collapsed=False: Evaluation(figure, collapsed)
    with Log(Outputs("ads"), Sinks(False, None, {}), "log-loss", 16, state, fresh=True) as log:
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
    assert logged[0] == {"step": 8, "roll 0/log-loss": 0.5, "roll 1/log-loss": 0.25, "roll 2/log-loss": 0.125}
    assert logged[1] == {"step": 16, "roll 2/log-loss": 0.75}


@pytest.mark.parametrize("width", [1, 3])
def test_each_roll_s_figures_are_logged_under_its_number_at_its_own_step(tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    draw = lambda number: Draw(number, number, 1e-3, 8.0, 0.0)
    slots = [Slot(draw(7), step=4)] if width == 1 else [Slot(draw(7), step=4), Slot(None), Slot(draw(9), step=12)]
    states = np.array([ALIVE, STOPPED, STOPPED])[:width]
    state = State(rolls=SimpleNamespace(state=states), slots=slots, width=width, step=12)
    report = SimpleNamespace(loss=np.array([0.5, 9.0, 0.25])[:width], rate=np.array([1e-3, 9.0, 2e-3])[:width])
    shown = []
    with Log(Outputs("ads"), Sinks(False, None, {}), "accuracy", 16, state, fresh=True) as log:
        monkeypatch.setattr(log._live, "show", lambda *given: shown.append(given))
        log.step(state, report)
        for slot in slots:
            slot.step += 4
        log.step(state, report)
        log.judged(state, {0: Evaluation(0.5, False)}, False)
    logged = [json.loads(line) for line in Path("reports/ads.metrics.jsonl").read_text().splitlines()]
    if width == 1:
        assert shown[0] == (4, [0.5], [1e-3], ["alive"], [4])
        assert logged == [{"step": 4, "loss": 0.5, "lr": 1e-3}, {"step": 8, "loss": 0.5, "lr": 1e-3}]
        assert log.curves == {7: ([4, 8], [0.5, 0.5])}
        return
    assert shown[0] == (12, [0.5, 0.25], [1e-3, 2e-3], ["alive", REASONS[STOPPED]], [4, 12])
    by_roll = {"loss": (0.5, 0.25), "lr": (1e-3, 2e-3), "step": (4, 12)}
    figures = {f"roll {7 + 2 * n}/{name}": pair[n] for name, pair in by_roll.items() for n in range(2)}
    assert logged[0] == {"step": 12, **figures} and logged[2] == {"step": 12, "roll 7/accuracy": 0.5}
    assert log.curves == {7: ([4, 8], [0.5, 0.5]), 9: ([12, 16], [0.25, 0.25])}


def test_a_new_run_starts_a_new_log_and_one_that_goes_on_keeps_what_came_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = State(rolls=None, slots=[Slot(Draw(0, 0, 1e-3, 8.0, 0.0)), Slot(None)], width=2, step=8)
    opened: list = []
    monkeypatch.setattr(tracking, "WeightsAndBiases", lambda *given: opened.append(given) or Sink())
    monkeypatch.setattr(tracking, "TensorBoard", lambda folder: opened.append(folder) or Sink())
    closed: list = []

    class Sink:
        def log(self, step, figures):
            pass

        def close(self):
            closed.append(self)

    out = Outputs("ads")
    out.metrics.parent.mkdir()
    steps = lambda: [json.loads(line)["step"] for line in out.metrics.read_text().splitlines()]
    for fresh, kept in ((False, [4, 8]), (True, [])):
        out.metrics.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (4, 8, 12)))
        with Log(out, Sinks(True, "project", {"rank": 4}), "accuracy", 16, state, fresh) as log:
            assert steps() == kept and not closed
            log.judged(state, {0: Evaluation(0.5, False)}, False)
        assert steps() == [*kept, 8] and len(closed) == 2
        closed.clear()
    assert opened == [out.tensorboard, (out.wandb, "project", "ads", {"rank": 4})] * 2
