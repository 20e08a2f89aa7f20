"""What a run shows and leaves behind: progress, the live table of rolls, metrics.jsonl, TensorBoard, W&B."""

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Protocol, TypeVar

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rolltune import atomic, event_files, plain_json
from rolltune.errors import UserError
from rolltune.output import outlived

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, total: int, console: Console | None = None) -> Iterator[Item]:
    """Passes the items on under a bar that goes away at the end; silent without a terminal or for one item."""
    console = console or Console(stderr=True)
    if not console.is_terminal or total < 2:
        yield from items
        return
    with _bar(console, transient=True) as bar:
        yield from bar.track(items, total=total, description=what)


def note(text: str) -> None:
    """Something to know that is no result and no error: on standard error, as the progress is."""
    with outlived(sys.stderr):
        Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def print_table(table: Table) -> None:
    """A table of results on standard output."""
    with outlived():
        Console(highlight=False).print(table)


def _bar(console: Console, transient: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=transient)


def rate_text(rate: float) -> str:
    """Five decimals, as in 0.02995; small rates would lose their digits there and are written as 2.995e-05."""
    return f"{rate:.5f}" if rate == 0 or rate >= 1e-3 else f"{rate:.3e}"


def step_line(step: int, total: int, rate: float, loss: float, roll: int | None = None) -> str:
    """The printed line of a logged step; `roll` is named where there are several."""
    first = "" if roll is None else f"roll: {roll}   "
    return f"{first}step: {step}/{total}   lr: {rate_text(rate)}   loss: {loss:.4f}"


MOST_RANKED = 8


class LiveRolls:
    """Shows R rolls as they train: a live table on a terminal, plain lines elsewhere.

    One roll prints its line of every logged step, on a terminal above a progress bar. Use as a
    context; messages in between go through `say`, which does not tear the table. `several` names
    the rolls also where only one is left.
    """

    def __init__(self, total: int, rolls: Sequence[int], console: Console | None = None, several: bool = False) -> None:
        self.total, self.rolls = total, list(rolls)
        self.several = several or len(rolls) > 1
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._bar = _bar(self.console, transient=False)
        self._task = self._bar.add_task("training", total=total)
        self._rows: dict[int, tuple[int, float, float, str]] = {}
        self._standing = ""

    def __enter__(self) -> "LiveRolls":
        if self.console.is_terminal:
            self._live = Live(self._drawn(), console=self.console, refresh_per_second=4)
            with outlived():
                self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with outlived():
                self._live.update(self._drawn(), refresh=True)
                self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        with outlived():
            self.console.print(text, markup=False)

    def show(
        self,
        step: int,
        losses: Sequence[float],
        rates: Sequence[float],
        states: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
    ) -> None:
        """A logged step: one loss, rate and state a roll ("alive", "died", ...), in the order of `rolls`.

        `step` is the run's; `steps` the rolls' own, where a roll that was drawn again is behind.
        """
        states = states or ["alive"] * len(self.rolls)
        steps = steps or [step] * len(self.rolls)
        rows = list(zip(self.rolls, steps, losses, rates, states, strict=True))
        self._rows = {roll: (own, float(loss), float(rate), state) for roll, own, loss, rate, state in rows}
        self._bar.update(self._task, completed=step)
        if self._live is None or not self.several:
            for roll, own, loss, rate, state in rows:
                line = step_line(own, self.total, float(rate), float(loss), roll if self.several else None)
                self.say(line if state == "alive" else f"{line}   {state}")
        if self._live is not None:
            self._live.update(self._drawn())

    def rank(self, metric: str, standing: Sequence[tuple[int, str]]) -> None:
        """How the rolls stand so far, best first: (roll, figure). Shown until the next ranking."""
        more = len(standing) - MOST_RANKED
        self._standing = f"{metric} so far: " + ", ".join(f"roll {n} {figure}" for n, figure in standing[:MOST_RANKED])
        self._standing += f", and {more} more" if more > 0 else ""
        if self._live is None:
            self.say(self._standing)
        else:
            self._live.update(self._drawn())

    def _drawn(self) -> Group:
        if not self.several:
            return Group(self._bar)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for heading in ("roll", "step", "lr", "loss"):
            table.add_column(heading, justify="right")
        table.add_column("state")
        finite = [row[1] for row in self._rows.values() if row[3] == "alive"]
        lowest = min(finite) if len(finite) > 1 else None
        for roll in self.rolls:
            own, loss, rate, state = self._rows.get(roll, (0, float("nan"), float("nan"), "waiting"))
            waiting = state == "waiting"
            cells = ("", "") if waiting else (rate_text(rate), f"{loss:.4f}")
            style = "bold" if state == "alive" and loss == lowest else None if state == "alive" else "dim"
            table.add_row(str(roll), f"{own}/{self.total}", *cells, state, style=style)
        return Group(table, *filter(None, [self._standing]), self._bar)


class Sink(Protocol):
    """Where logged figures go: names such as "loss" or "roll 3/loss", one value each, and "time", in Unix seconds."""

    def log(self, step: int, figures: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """metrics.jsonl: one JSON object a logged step, written out at once, so that a killed run leaves its log.

    A new run starts a new file. To go on after an interruption, `resume_step` keeps the records up
    to that step: later ones will be written again, and a line torn by the kill is dropped.
    """

    def __init__(self, path: str | Path, resume_step: int | None = None) -> None:
        self.path = Path(path)
        kept = [] if resume_step is None or not self.path.exists() else _kept(self.path, resume_step)
        atomic.write_bytes(self.path, b"".join(line + b"\n" for line in kept))
        self.records: list[dict[str, Any]] = [json.loads(line) for line in kept]  # of before the interruption
        self._file: IO[bytes] = self.path.open("ab")

    def log(self, step: int, figures: Mapping[str, object]) -> None:
        self._file.write((plain_json.dumps({"step": step, **figures}) + "\n").encode("utf-8"))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _kept(path: Path, last: int) -> list[bytes]:
    kept, lines = [], path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError) as problem:
            if number == len(lines):  # the torn end of a killed run
                continue
            raise UserError(
                f"{path}:{number}: not a record of a logged step: {line[:60].decode('utf-8', 'replace')!r}. "
                "Delete the line, or move the file away to start a new log."
            ) from problem
        if step <= last:
            kept.append(line)
    return kept


OF_ROLL = re.compile(r"roll (\d+)/(.+)")


class TensorBoard:
    """Event files for `tensorboard --logdir FOLDER`: each of several rolls in a folder of its own, so that its curves
    lie over the others', at the steps that it has done itself; what belongs to all of them in FOLDER.

    A new run takes the place of what an earlier one of its name left. To go on, `records` (of MetricsFile) are written
    anew: nothing is there twice, and nothing is torn.
    """

    def __init__(self, folder: str | Path, records: Sequence[Mapping[str, Any]] = ()) -> None:
        self.folder = Path(folder)
        event_files.clear(self.folder)
        for record in records:
            self.log(record["step"], {name: value for name, value in record.items() if name != "step"})

    def log(self, step: int, figures: Mapping[str, object]) -> None:
        runs: dict[str, dict[str, float]] = {}
        for name, value in figures.items():
            if (number := _number(value)) is not None:
                roll = OF_ROLL.fullmatch(name)
                runs.setdefault(f"roll{roll[1]}" if roll else "", {})[roll[2] if roll else name] = number
        when = runs.get("", {}).pop("time", time.time())
        for run, values in runs.items():
            own = int(values.pop("step", step))
            if values:
                event_files.append_scalars(self.folder / run, when, own, values)

    def close(self) -> None: ...


def _number(value: object) -> float | None:
    """The number that is logged; one that is not finite comes as text out of metrics.jsonl."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        return None
    return float(value)


class WeightsAndBiases:
    """A W&B run. Nothing is sent unless the environment says so: without WANDB_MODE it is "offline"."""

    def __init__(self, folder: str | Path, project: str, name: str, recipe: Mapping[str, object]) -> None:
        wandb = _module("wandb", "wandb", "--wandb")
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            name=name,
            dir=str(folder),
            config=plain_json.plain(dict(recipe)),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def log(self, step: int, figures: Mapping[str, object]) -> None:
        self._run.log({name: value for name, value in figures.items() if name != "time"}, step=step)

    def close(self) -> None:
        self._run.finish()


def _module(name: str, extra: str, flag: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        if problem.name != name:
            raise
        raise UserError(
            f"{flag} needs the package {name}, which is not installed for {sys.executable}. "
            f"Install it: pip install 'rolltune[{extra}]', or leave {flag} away."
        ) from problem


@contextmanager
def open_sinks(sinks: Sequence[Sink]) -> Iterator["Sinks"]:
    """All sinks as one; each is closed at the end, also after an error in the run or in another's closing."""
    with ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        yield Sinks(sinks)


class Sinks:
    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def log(self, step: int, figures: Mapping[str, object]) -> None:
        """A sink that can't take the figures any more (a full disk) is left out from then on, and it is said once."""
        for sink in self._sinks:
            try:
                sink.log(step, figures)
            except OSError as error:
                self._sinks = tuple(other for other in self._sinks if other is not sink)
                note(f"{type(sink).__name__}: nothing more is logged there ({error}); the run goes on")


def by_roll(rolls: Sequence[int], several: bool = False, **figures: Sequence[float]) -> dict[str, float]:
    """`by_roll([0, 1], loss=[0.5, 0.4])` is {"roll 0/loss": 0.5, "roll 1/loss": 0.4}; one roll has bare names.

    With `several`, the one is the last of them and is named.
    """
    if len(rolls) == 1 and not several:
        return {name: float(values[0]) for name, values in figures.items()}
    return {
        f"roll {roll}/{name}": float(value)
        for name, values in figures.items()
        for roll, value in zip(rolls, values, strict=True)
    }
