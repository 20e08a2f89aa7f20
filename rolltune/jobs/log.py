"""The logged steps of a run: shown, written down, and kept for the report."""

import dataclasses
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rolltune import sharding, tracking
from rolltune.evaluation.metrics import rounded
from rolltune.jobs.outputs import Outputs
from rolltune.recipe import Recipe
from rolltune.sharding import fetched
from rolltune.tracking import by_roll
from rolltune.training.step import ALIVE, REASONS

GIB = 2**30


class Log:
    """The logged steps: shown, written to metrics.jsonl and for TensorBoard, and kept for the report's curves.

    `wandb` is the name of a project of Weights & Biases, which then gets them, too. One that does not write keeps the
    curves only: another host's.
    """

    def __init__(
        self, out: Outputs, recipe: Recipe, state: Any, fresh: bool, wandb: str | None = None, writes: bool = True
    ):
        numbers = [slot.draw.roll for slot in state.slots if slot.draw is not None]
        console = None if writes else Console(quiet=True)
        self._live = tracking.LiveRolls(recipe.steps, numbers, console, several=state.width > 1)
        self.say = self._live.say
        self._metric, self._rows = recipe.metric, recipe.batch * recipe.accumulate
        self.curves: dict[int, tuple[list[int], list[float]]] = {}
        self._figures: dict[int, float] = {}  # of the latest evaluation, higher is better
        self._clock: tuple[float, int] | None = None  # when the steps began that are to be timed, and at which one
        self._opened = tracking.open_sinks([])
        if not writes:
            return
        out.metrics.parent.mkdir(parents=True, exist_ok=True)
        file = tracking.MetricsFile(out.metrics, None if fresh else state.step)
        opened: list[Any] = [file, tracking.TensorBoard(out.tensorboard, file.records)]
        if wandb:
            opened.append(tracking.WeightsAndBiases(out.wandb, wandb, out.name, dataclasses.asdict(recipe)))
        self._opened = tracking.open_sinks(opened)
        for record in file.records:
            self._remember(record, state.width > 1)

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
        of = lambda values: fetched(values)[here].tolist()
        losses, rates, norms = of(report.loss), of(report.rate), of(report.gradient_norm)
        numbers = [state.slots[n].draw.roll for n in here]
        self._live.rolls = numbers
        words = ["alive" if states[n] == ALIVE else REASONS[states[n]] for n in here]
        steps = [state.slots[n].step for n in here]
        self._live.show(max(steps), losses, rates, words, steps)
        several = state.width > 1
        figures = by_roll(numbers, several, loss=losses, lr=rates, **{"gradient-norm": norms})
        self._write(state.step, figures | _own_steps(numbers, steps, several) | self._speed(state.step, len(here)))
        for number, own, loss in zip(numbers, steps, losses, strict=True):
            self._point(number, own, loss)

    def untrained(self, state: Any, verdicts: Mapping[int, Any]) -> None:
        """The evaluation before the first step: where the curves begin."""
        self._evaluated(state, verdicts)

    def judged(self, state: Any, verdicts: Mapping[int, Any], final: bool) -> None:
        """Rolls in these slots were evaluated: their figures are logged and, where others go on, ranked."""
        self._evaluated(state, verdicts)
        self._clock = time.perf_counter(), state.step  # the evaluation's time is none of the steps'
        if state.width == 1:
            return
        going = {n: slot.draw.roll for n, slot in enumerate(state.slots) if slot.draw is not None}
        new = {going[n]: verdict.figure for n, verdict in verdicts.items() if verdict.figure > -math.inf}
        collapsed = {going[n] for n, verdict in verdicts.items() if verdict.collapsed}
        self._figures |= new
        plain = lambda figure: abs(figure) if self._metric == "log-loss" else figure
        alive = ({one.draw.roll for one in state.ended if not one.reason} | set(going.values())) - collapsed
        best_first = sorted(self._figures, key=lambda roll: -self._figures[roll])
        standing = [(roll, rounded(plain(self._figures[roll]))) for roll in best_first if roll in alive]
        if standing and not (final and len(verdicts) == len(going)):  # the leaderboard comes at the end
            self._live.rank(self._metric, standing)

    def _evaluated(self, state: Any, verdicts: Mapping[int, Any]) -> None:
        several = state.width > 1
        figures: dict[str, float] = {}
        for n, verdict in verdicts.items():
            slot = state.slots[n]
            single = {name: [value] for name, value in verdict.figures.items()}
            figures |= by_roll([slot.draw.roll], several, **single)
            figures |= _own_steps([slot.draw.roll], [slot.step], several) if single else {}
        if figures:
            self._write(state.step, figures)

    def _write(self, step: int, figures: Mapping[str, Any]) -> None:
        self._sinks.log(step, {"time": round(time.time(), 3), **figures})

    def _speed(self, step: int, rolls: int) -> dict[str, float]:
        """Rows that all rolls took a second, since the clock was set; and memory. The first steps, in which the
        programs are compiled, are not timed."""
        now, since = time.perf_counter(), self._clock
        self._clock = now, step
        timed = {}
        if since is not None and step > since[1]:
            timed = {"speed/samples-per-s": self._rows * rolls * (step - since[1]) / (now - since[0])}
        return timed | _device_memory() | _host_memory()

    def _remember(self, record: Mapping[str, Any], several: bool) -> None:
        """The points that a record of before an interruption adds to the curves."""
        for name, loss in record.items():
            of_roll = tracking.OF_ROLL.fullmatch(name) if several else None
            if (of_roll[2] if of_roll else name) == "loss":
                roll = of_roll[1] if of_roll else "0"
                self._point(int(roll), int(record.get(f"roll {roll}/step", record["step"])), float(loss))

    def _point(self, roll: int, step: int, loss: float) -> None:
        at, curve = self.curves.setdefault(roll, ([], []))
        at.append(step)
        curve.append(loss)


def _own_steps(rolls: list[int], steps: list[int], several: bool) -> dict[str, int]:
    """The steps that rolls have done themselves: one that was drawn again is behind the run."""
    return {f"roll {roll}/step": step for roll, step in zip(rolls, steps, strict=True)} if several else {}


def _device_memory() -> dict[str, float]:
    """Of the fullest card, now and at most so far; nothing where the device does not tell."""
    found: dict[str, float] = {}
    for name, key in (("device-GiB", "bytes_in_use"), ("device-peak-GiB", "peak_bytes_in_use")):
        if used := [stats[key] for one in sharding.cards_here() if key in (stats := one.memory_stats() or {})]:
            found[f"memory/{name}"] = max(used) / GIB
    return found


def _host_memory() -> dict[str, float]:
    """What this process holds of the host's memory (RSS), and of addresses (VMS); nothing where there is no /proc."""
    try:
        virtual, resident = Path("/proc/self/statm").read_text().split()[:2]
    except OSError:
        return {}
    page = os.sysconf("SC_PAGE_SIZE") / GIB
    return {"memory/rss-GiB": int(resident) * page, "memory/vms-GiB": int(virtual) * page}
