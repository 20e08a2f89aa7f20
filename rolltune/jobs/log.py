"""The logged steps of a run: shown, written down, and kept for the report."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from rolltune import tracking
from rolltune.evaluation.metrics import rounded
from rolltune.jobs.outputs import Outputs
from rolltune.sharding import fetched
from rolltune.tracking import by_roll
from rolltune.training.step import ALIVE, REASONS


@dataclasses.dataclass(frozen=True)
class Sinks:
    """Where else the figures go; `settings` are what W&B shows beside them."""

    tensorboard: bool
    wandb: str | None  # the project's name
    settings: Mapping[str, Any]


class Log:
    """The logged steps: shown, written to metrics.jsonl, and kept for the report's curves. One that does not write
    keeps them only: another host's."""

    def __init__(
        self, out: Outputs, sinks: Sinks, metric: str, steps: int, state: Any, fresh: bool, writes: bool = True
    ):
        numbers = [slot.draw.roll for slot in state.slots if slot.draw is not None]
        self._metric = metric
        self.curves: dict[int, tuple[list[int], list[float]]] = {}
        self._figures: dict[int, float] = {}  # of the latest evaluation, higher is better
        console = None if writes else Console(quiet=True)
        self._live = tracking.LiveRolls(steps, numbers, console, several=state.width > 1)
        self.say = self._live.say
        if not writes:
            self._opened = tracking.open_sinks([])
            return
        out.metrics.parent.mkdir(parents=True, exist_ok=True)
        opened: list[Any] = [tracking.MetricsFile(out.metrics, None if fresh else state.step)]
        if sinks.tensorboard:
            opened.append(tracking.TensorBoard(out.tensorboard))
        if sinks.wandb:
            opened.append(tracking.WeightsAndBiases(out.wandb, sinks.wandb, out.name, sinks.settings))
        self._opened = tracking.open_sinks(opened)

    def __enter__(self) -> "Log":
        self._sinks = self._opened.__enter__()
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)
        self._opened.__exit__(*error)

    def step(self, state: Any, report: Any) -> None:
        states = fetched(state.rolls.state)
        here = [n for n, slot in enumerate(state.slots) if slot.draw is not None]
        losses, rates = fetched(report.loss)[here].tolist(), fetched(report.rate)[here].tolist()
        numbers = [state.slots[n].draw.roll for n in here]
        self._live.rolls = numbers
        words = ["alive" if states[n] == ALIVE else REASONS[states[n]] for n in here]
        steps = [state.slots[n].step for n in here]
        self._live.show(max(steps), losses, rates, words, steps)
        figures = by_roll(numbers, state.width > 1, loss=losses, lr=rates, step=[float(s) for s in steps])
        self._sinks.log(state.step, figures)
        for number, own, loss in zip(numbers, steps, losses, strict=True):
            at, curve = self.curves.setdefault(number, ([], []))
            at.append(own)
            curve.append(loss)

    def judged(self, state: Any, verdicts: Any, final: bool) -> None:
        """Rolls in these slots were evaluated: their figures are logged and, where others go on, ranked."""
        if state.width == 1:
            return
        going = {n: slot.draw.roll for n, slot in enumerate(state.slots) if slot.draw is not None}
        new = {going[n]: verdict.figure for n, verdict in verdicts.items() if verdict.figure > -math.inf}
        collapsed = {going[n] for n, verdict in verdicts.items() if verdict.collapsed}
        self._figures |= new
        metric = self._metric
        plain = lambda figure: abs(figure) if metric == "log-loss" else figure
        if new:
            self._sinks.log(state.step, by_roll(list(new), True, **{metric: list(map(plain, new.values()))}))
        alive = ({one.draw.roll for one in state.ended if not one.reason} | set(going.values())) - collapsed
        best_first = sorted(self._figures, key=lambda roll: -self._figures[roll])
        standing = [(roll, rounded(plain(self._figures[roll]))) for roll in best_first if roll in alive]
        if standing and not (final and len(verdicts) == len(going)):  # the leaderboard comes at the end
            self._live.rank(metric, standing)
