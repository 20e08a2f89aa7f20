"""The logged steps of a run: what is shown of the rolls' standing, and what is written down."""

import json
import math
from pathlib import Path

from rolltune.jobs.log import Log, Sinks
from rolltune.jobs.outputs import Outputs
from rolltune.training.loop import Evaluation, FinishedRoll, Slot, State
from rolltune.training.rolls import Draw


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
