"""A run's state, kept: on its way, at a stop, where its rolls can't be saved; what is said where the disk is full."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rolltune import trees
from rolltune.data.sets import shown
from rolltune.errors import UserError
from rolltune.evaluation.leaderboard import keep_count
from rolltune.jobs.interrupts import Interrupts
from rolltune.training.loop import State
from rolltune.training.saves import Saves


class Kept(NamedTuple):
    """What became of a training's end, in words; whether a run can go on from it."""

    where: str
    whole: bool = False


class Keeping:
    """What a training calls with its state. No failure to save ends it: that is said, once until one succeeds."""

    def __init__(self, saves: Saves, interrupts: Interrupts):
        self.saves, self.interrupts, self.place = saves, interrupts, shown(saves.folder)
        self._told: set[int | None] = set()  # the steps after which nothing more could be saved, and that was said

    def passing(self, state: State) -> None:
        """After every step: begins to save where that is due, whatever the saving before has met."""
        due = self.saves.due(state.step)
        with self.interrupts.saving(), self._told_of():
            self.saves.settle(wait=due)
        if due:
            with self.interrupts.saving(), self._told_of():
                self.saves.begin(state)

    def at_a_stop(self, state: State) -> bool:
        """Whether all of this state is kept now. After SIGTERM no save is begun for which no time is left."""
        with self.interrupts.saving(), self._told_of():
            self.saves.keep_now(state, self.interrupts.left())
            return self.saves.step == state.step
        return False

    def at_the_end(self, state: State, name: str) -> Kept:
        """Saves what was trained whole; where the state can't be, the trained arrays alone, elsewhere. Never raises."""
        with self.interrupts.saving():
            try:
                self.saves.keep_now(state)
                return Kept(f"what was trained is kept in {self.place}", whole=True)
            except Exception as error:
                if not self.saves.hosts.writes:  # host 0 has all of them
                    return Kept("")
                why = _first_line(error)
            step = self.saves.step
            earlier = "" if step is None else f"; --resume goes on from step {step}, in {self.place}"
            try:
                place = _spare(state, name)
            except Exception as error:
                lost = f"what was trained {'is' if step is None else 'since the last saving is'} lost"
                return Kept(f"{lost}: neither its state ({why}) nor its arrays ({error}) could be saved{earlier}")
            return Kept(f"the state could not be saved ({why}); the trained arrays are in {place}{earlier}")

    def stopped(self, state: State) -> str:
        """What a person is told of a run that was stopped. Raises UserError where nothing of it is on the disk."""
        if self.saves.step is None:
            raise UserError(f"stopped at step {state.step}; nothing is kept: {self.place} could not be written")
        kept = "" if self.saves.step == state.step else f", kept as it was at step {self.saves.step}"
        return f"stopped at step {state.step}{kept}; go on with the same command and --resume"

    @contextlib.contextmanager
    def _told_of(self) -> Iterator[None]:
        """What fails in it is said instead, where it was not said since the last saving that did not."""
        try:
            yield
        except Exception as error:  # orbax raises all kinds; the training itself is not touched by it
            last = self.saves.step
            lost = "the run" if last is None else f"all after step {last}"
            if last not in self._told:
                self._told.add(last)
                self.interrupts.say(
                    f"{self.place}: the state can't be saved ({_first_line(error)}); a stop now would lose {lost}. "
                    "Make room: it is tried again"
                )


def room_for(state: State, keep: str, states: int) -> int:
    """Bytes that a run saves at most at a time: its state as often as it is kept and once more, while the new one takes
    the oldest one's place, and the rolls that are kept."""
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    width = state.width
    kept = width if keep == "all" else min(keep_count(keep) or width, width)
    return (states + 1) * size(state.rolls) + kept * size(state.rolls.trainable) // len(state.slots)


def _spare(state: State, name: str) -> Path:
    """The folder for temporary files that the trained arrays were written into; nothing is left of it on a failure."""
    spare = Path(tempfile.mkdtemp(prefix=f"rolltune-{name}-"))
    try:
        for one in state.ended:
            if one.trainable is not None:
                np.savez(spare / f"roll{one.draw.roll}.npz", **trees.flatten(one.trainable))
    except BaseException:  # a Ctrl-C, too, leaves no half of an array behind
        shutil.rmtree(spare, ignore_errors=True)
        raise
    return spare


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
