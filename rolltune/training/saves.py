"""The state of a run, saved again and again while the training goes on; how often that is."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from rolltune.errors import UserError
from rolltune.hosts import ONE, Hosts
from rolltune.training import checkpoints, savings
from rolltune.training.loop import State

SECONDS = 30.0  # between two savings, where nothing else is asked: a short run, too, loses little more than this
COPYING = 50.0  # and the training stands still for no more than a fiftieth of the time
WRITING = 5.0  # and the disk is busy for no more than a fifth
ASKED = 8  # steps between two looks at the clock where processes have to agree on what it says
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclasses.dataclass(frozen=True)
class Pace:
    """How often the state is saved: after so many steps or so much time, whichever comes first; 0: it does not count.

    Where neither is given it is every half minute, and less often where saving is slow.
    """

    steps: int = 0
    seconds: float = 0.0


def pace_of(text: str) -> Pace:
    """Of `200`, `10m` or `200,10m`; empty is the default. Raises UserError for anything else, two times among it."""
    steps, seconds = 0, 0.0
    for part in text.split(",") if text else ():
        found = re.fullmatch(r"(\d+)([smh]?)", part.strip())
        if not found or not int(found[1]) or (seconds if found[2] else steps):
            raise UserError(
                f"--state-every {text!r}: expected a number of steps, a time in seconds, minutes or hours, or one of "
                "each: 200, 90s, 10m, 200,10m"
            )
        if found[2]:
            seconds = int(found[1]) * UNITS[found[2]]
        else:
            steps = int(found[1])
    return Pace(steps, seconds)


class Saves:
    """The state of one run, saved into one folder while the training goes on.

    `begin` copies the arrays and returns; threads write the copies, which the host holds until then. One saving is
    written at a time. `there` is the state that a run goes on from, which is in the folder already. Over several
    hosts all of them call the same methods at the same steps; what one finds true, or fails at, holds for all.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        judged: Any,
        keep: int = savings.KEPT,
        pace: Pace = Pace(),
        there: State | None = None,
        hosts: Hosts = ONE,
    ):
        self.folder, self.settings, self.judged, self.keep, self.pace = folder, settings, judged, keep, pace
        self.hosts, self._asked_every = hosts, 1 if hosts.place.hosts == 1 else ASKED
        self.step = None if there is None else there.step  # of the last whole saving; None where none is
        self.seconds = 0.0  # that the last one took from its beginning until it was whole
        self._whole = None if there is None else _mark(there)  # what it holds
        self._number = savings.last_number(folder)
        self._writing: Future[None] | None = None
        self._clock, self._pause = time.perf_counter(), pace.seconds or SECONDS

    def __enter__(self) -> "Saves":
        if jax.process_index() == 0:
            savings.drop_halves(self.folder)
        with contextlib.ExitStack() as stack:
            self._writer = stack.enter_context(checkpoints.writer(self.hosts))
            self._thread = stack.enter_context(ThreadPoolExecutor(1, "saving"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        """What is being written is written to its end, whatever ended the training."""
        if self._writing is not None:
            self._writing.exception()
        self._stack.__exit__(*error)

    def due(self, step: int) -> bool:
        """Whether it is time to save at this step. By time alone it is not while another one is being written."""
        if self.pace.steps and step % self.pace.steps == 0:
            return True
        if (self.pace.steps and not self.pace.seconds) or step % self._asked_every:
            return False
        return self.hosts.first(not self.busy() and time.perf_counter() - self._clock > self._pause)

    def busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def settle(self, wait: bool = True) -> None:
        """Raises, once, what the last saving met that was begun: OSError, ValueError and others."""
        if self._writing is None or not (wait or self._writing.done()):
            return
        done, self._writing = self._writing, None
        done.result()

    def begin(self, state: State) -> None:
        """Begins to save this state: waits for the one before, copies, returns. Raises what came in the way of both."""
        self.settle()
        jax.block_until_ready(state.rolls)  # steps that the device has still to do are not the saving's time
        began = self._clock = time.perf_counter()
        self._number += 1
        number, what, step = self._number, _mark(state), state.step
        checkpoints.write(self._writer, self.folder, number, state, self.settings, self.judged, self.hosts)
        copied = time.perf_counter() - began

        def finish() -> None:
            checkpoints.finish(self._writer, self.folder, number, self.keep, self.hosts)
            self.seconds = time.perf_counter() - began
            self.step, self._whole = step, what
            if self.pace == Pace():
                self._pause = max(SECONDS, COPYING * copied, WRITING * self.seconds)

        self._writing = self._thread.submit(finish)

    def keep_now(self, state: State, within: float = float("inf")) -> None:
        """Returns when this state is whole on the disk, or the one before it and the last saving took longer than
        the seconds that are left. What is being written is waited for; if it is this state, that is all.

        Raises what came in the way.
        """
        until = time.perf_counter() + within
        with contextlib.suppress(Exception):  # of an earlier state; this one is tried all the same
            self.settle()
        no_time = self.step is not None and self.seconds > until - time.perf_counter()
        if self.hosts.first(self._whole == _mark(state) or no_time):
            return
        self.begin(state)
        self.settle()


def _mark(state: State) -> tuple[Any, ...]:
    """By which a state is known again in its own run."""
    return state.step, len(state.ended), state.looking, state.drawn, state.redraws
