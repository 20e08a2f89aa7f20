"""The loop over steps: batches in, rolls watched, ended and drawn again, what is due logged; nothing else."""

import dataclasses
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rolltune.batch import NOTHING, Batch, Source
from rolltune.data.batches import Loader, bytes_of, joint_batch, prefetch
from rolltune.sharding import cards_in_group, cards_of, fetched, joined, own_cards, places_for, size_of
from rolltune.training import rolls as tickets
from rolltune.training.rolls import Draw, InitialWeights, Lottery
from rolltune.training.step import ALIVE, REASONS, STOPPED, Roll, StepConfig, lying_as

COLLAPSED = "collapsed to one answer"
STALLED = "no better than guessing"
# Steps of empty slots, all together, that cost as much as compiling the step for fewer rolls: 350 measured with the
# tiny model on two CPU cores (7 s), 1,200 for PaliGemma-3B on an H200 (12 s); a slower card waits longer for a step.
WORTH_A_PROGRAM = 512


@dataclasses.dataclass(frozen=True)
class FinishedRoll:
    """A roll that runs no more. `reason` is empty where it ran all its steps and can tell answers apart.

    `trainable` is there for rolls that ran all their steps, those that collapsed included.
    """

    draw: Draw
    step: int
    reason: str
    redrawn: bool
    trainable: dict[str, Any] | None
    judged: Any = None


@dataclasses.dataclass(frozen=True)
class Best:
    """What a roll was at the step that did best of those evaluated."""

    figure: float
    step: int
    trainable: dict[str, Any]
    detail: Any


@dataclasses.dataclass
class Slot:
    """One place on the K axis: the roll in it, the steps it has done, the rungs it passed; `draw` None is empty."""

    draw: Draw | None
    step: int = 0
    rungs: int = 0
    best: Best | None = None  # where the best step is to be kept


@dataclasses.dataclass
class State:
    """All that changes in a run, so that it can be saved at any step and gone on from."""

    rolls: Roll
    slots: list[Slot]
    width: int  # slots at the start
    step: int = 0
    drawn: int = 0
    redraws: int = 0
    reached: dict[int, list[float]] = dataclasses.field(default_factory=dict)  # rung -> figures of who came there
    ended: list[FinishedRoll] = dataclasses.field(default_factory=list)
    looking: bool = False  # what is due after this step was begun and not ended: it is looked at again


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation of one roll: `figure` ranks it (higher is better), `collapsed` ends it, `detail` is kept, `figures`
    are logged."""

    figure: float
    collapsed: bool
    detail: Any = None
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Where the time of a training went."""

    first_step: float  # seconds until the first step was done, compiling included; 0 where none was left to do
    waiting: float  # share of the time in which the device had nothing to do for want of data


@dataclasses.dataclass(frozen=True)
class Looks:
    """When a run looks at its rolls, and what it does then."""

    steps: int
    log_every: int
    rungs: tuple[float, ...] = ()  # shares of the steps at which losers stop
    keep_share: float = 0.5  # of the rolls that reached a rung, those that go on
    redraws: int = 8  # in all
    stall_steps: int = 0  # for which a roll may be no better than guessing; 0: for ever
    save_every: int = 0  # steps between a roll's own intermediate states; 0: none
    evaluate_every: int = 0  # steps between evaluations on the way, beside the rungs; 0: none
    keep_best: bool = False  # a roll ends as what it was at the best of its evaluated steps


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same. `loader` gives a draw's batches of batch * accumulate rows."""

    lottery: Lottery
    looks: Looks
    config: StepConfig
    start: InitialWeights
    step: Callable[..., tuple[Roll, Any]]
    base: dict
    loader: Callable[[Draw], Loader]
    accumulate: int
    draws: int  # rolls to draw in all, redrawn ones apart
    folds: int | None = None
    first_fold: int = 0  # of roll 0; the others count up
    mesh: Mesh | None = None  # the cards that the rolls are laid on; None: one


def new_state(run: Run, slots: int) -> State:
    """So many rolls, before their first step. Places that fill up the last card are empty slots."""
    draws = [run.lottery.draw(number, fold=_fold(run, number)) for number in range(slots)]
    empty = places_for(slots, size_of(run.mesh)) - slots
    rolls = tickets.begin(run.lottery, run.config, run.start, [*draws, *draws[:1] * empty], run.mesh)
    for slot in range(slots, slots + empty):
        rolls = tickets.mark(rolls, slot, STOPPED)
    return State(rolls, [*map(Slot, draws), *(Slot(None) for _ in range(empty))], slots, drawn=slots)


def _fold(run: Run, number: int) -> int | None:
    return None if run.folds is None else (run.first_fold + number) % run.folds


def train(
    run: Run,
    state: State,
    judge: Callable[[Roll, Sequence[int], bool], dict[int, Evaluation]],
    log: Callable[[State, Any], None],
    say: Callable[[str], None],
    *,
    stop: Callable[[], bool] = lambda: False,
    save: Callable[[State], object] | None = None,
    passing: Callable[[State], None] = lambda state: None,
    snapshot: Callable[[Draw, int, dict[str, Any]], None] | None = None,
) -> tuple[bool, Timing]:
    """Runs until no slot holds a roll, or `stop()`. Returns (whether it ran to the end, where the time went).

    `judge(rolls, slots, final)` evaluates the rolls of these slots; `log` is called at every logged step; `save`, where
    given, at a stop, and where an evaluation breaks off: it says whether all is kept; `passing` after every step, with
    what can be saved there; `snapshot` with what one roll trained, as often as the looks say. Of several hosts, each
    calls all of these at the same steps, and `stop()` is the same on all.
    """

    def judging(rolls: Roll, slots: Sequence[int], final: bool) -> dict[int, Evaluation]:
        try:
            return judge(rolls, slots, final)
        except BaseException:  # a second Ctrl-C, a host that shuts down, the device's memory used up
            # Of several hosts the others may not be here to save as well.
            if save is not None and jax.process_count() == 1 and save(state):
                which = "last evaluation" if final else f"evaluation at step {state.step}"
                say(f"what was trained is saved: the same command with --resume goes on with the {which}")
            raise

    waited, began, first = 0.0, time.perf_counter(), None
    spent = lambda: Timing(first or 0.0, waited / max(time.perf_counter() - began, 1e-9))
    while any(slot.draw is not None for slot in state.slots):
        length = _until_next_look(run.looks, state)
        batches = _batches(run, state, length)
        report, done = None, 0
        while done < length and not stop():
            asked = time.perf_counter()
            batch, source = next(batches)
            waited += time.perf_counter() - asked
            state.rolls, report = run.step(run.base, source, state.rolls, batch)
            state.step, done = state.step + 1, done + 1
            if first is None:
                jax.block_until_ready(report)
                first = time.perf_counter() - began
            for slot in state.slots:
                slot.step += 1
            if done < length:
                passing(state)
        batches.close()
        if done == length:  # a stop in between adds no look of its own: all comes at the steps it would come at
            state.looking = True
            _look(run, state, judging, log, say, report)
            state.looking = False
            if snapshot is not None:
                _snapshots(run.looks, state, snapshot)
            _close_up(run.looks, state)
            if any(slot.draw is not None for slot in state.slots):
                passing(state)
        if stop() and any(slot.draw is not None for slot in state.slots):  # else it is finished, not interrupted
            if save is not None:
                save(state)
            return False, spent()
    return True, spent()


def _until_next_look(looks: Looks, state: State) -> int:
    """Steps until something may be due: a logged step, a rung, a roll's last step. None where that was done, and a run
    ended before it was looked at."""
    if state.looking or any(slot.draw is not None and slot.step >= looks.steps for slot in state.slots):
        return 0
    due = [looks.log_every - state.step % looks.log_every]
    for slot in state.slots:
        if slot.draw is not None:
            marks = [*_rung_steps(looks), looks.steps]
            for every in filter(None, (looks.save_every, looks.evaluate_every)):
                marks.append(slot.step + every - slot.step % every)
            marks.sort()
            due.append(next(mark for mark in marks if mark > slot.step) - slot.step)
    return min(due)


def _rung_steps(looks: Looks) -> list[int]:
    return [max(1, round(share * looks.steps)) for share in looks.rungs]


def _batches(run: Run, state: State, length: int) -> Generator[tuple[Batch, Source], None, None]:
    """The next `length` joint batches [R, A, B, ...], made ahead. An empty slot gets some roll's rows: it is masked.

    Of several hosts, each reads the rows that its own cards have: of their rolls, in a group of several hosts some of
    each micro-batch.
    """
    last = next(slot.draw for slot in state.slots if slot.draw is not None)
    loaders = [run.loader(slot.draw or last) for slot in state.slots]
    steps = [slot.step for slot in state.slots]
    groups, cards, own = size_of(run.mesh), cards_in_group(run.mesh), own_cards(run.mesh)
    made, split = lying_as(run.mesh)
    make = lambda ahead: joint_batch(loaders, [step + ahead for step in steps], run.accumulate, groups, cards, own)
    for batch, source in prefetch(make, range(length), size_of=bytes_of):
        each_card = isinstance(source.rows, np.ndarray) and source is not NOTHING
        yield joined(batch, run.mesh, split), joined(source, run.mesh, made) if each_card else source


def _look(run, state, judge, log, say, report) -> None:
    """What is due at this step: the log, deaths, rungs, ends, and new draws for the slots that became free."""
    looks = run.looks
    states = np.array(fetched(state.rolls.state))
    here = [number for number, slot in enumerate(state.slots) if slot.draw is not None]
    done = {number for number in here if state.slots[number].step >= looks.steps}
    if report is not None and (state.step % looks.log_every == 0 or len(done) == len(here)):
        log(state, report)
    for number in here:
        if states[number] != ALIVE:
            _end(run, state, number, REASONS[states[number]], say)
    for number in _stalled(run, state, here, states):
        if state.width > 1:
            states[number] = STOPPED  # for what follows here: it is gone
            _end(run, state, number, STALLED, say)
        elif state.slots[number].step - looks.stall_steps < looks.log_every:  # once
            say(
                f"the loss has been {STALLED} for {looks.stall_steps} steps: stop (Ctrl-C) and draw again, with a "
                "lower rate or another seed; --rolls 8 does so by itself"
            )
    rungs = _rung_steps(looks)
    alive = [number for number in here if states[number] == ALIVE]
    going = [number for number in alive if number not in done]
    at_rung = [n for n in going if rungs[state.slots[n].rungs :][:1] == [state.slots[n].step]]
    # A slot at step 0 was drawn in this look, before its evaluation broke off.
    own = lambda n: state.slots[n].step
    asked = [n for n in going if looks.evaluate_every and own(n) and own(n) % looks.evaluate_every == 0]
    for group, final in ((sorted({*at_rung, *asked}), False), ([n for n in alive if n in done], True)):
        if not group:
            continue
        judged = judge(state.rolls, group, final)
        for number in group:
            if number in at_rung:
                state.reached.setdefault(state.slots[number].rungs, []).append(judged[number].figure)
            if looks.keep_best:
                _keep_best(state, number, judged[number])
        for number in group:
            slot, verdict = state.slots[number], judged[number]
            reason = COLLAPSED if verdict.collapsed else ""
            if final and slot.best is not None:
                if slot.best.step < slot.step:
                    say(f"roll {slot.draw.roll} did best at step {slot.best.step}, which is kept")
                _end(run, state, number, reason, say, slot.best.trainable, slot.best.detail)
            elif final:
                _end(run, state, number, reason, say, tickets.trainable_of(state.rolls, number), verdict.detail)
            elif number not in at_rung:  # only looked at: many a roll begins with one answer for all
                continue
            elif reason:
                _end(run, state, number, reason, say)
            elif tickets.passes_rung(verdict.figure, state.reached[slot.rungs], looks.keep_share):
                slot.rungs += 1
            else:
                _end(run, state, number, REASONS[STOPPED], say)


def _keep_best(state: State, number: int, verdict: Evaluation) -> None:
    """Of equal figures the later one is kept: it has seen more."""
    slot = state.slots[number]
    if not verdict.collapsed and (slot.best is None or verdict.figure >= slot.best.figure):
        slot.best = Best(verdict.figure, slot.step, tickets.trainable_of(state.rolls, number), verdict.detail)


def _snapshots(looks: Looks, state: State, snapshot: Callable[[Draw, int, dict[str, Any]], None]) -> None:
    for number, slot in enumerate(state.slots):
        if slot.draw is not None and looks.save_every and slot.step and slot.step % looks.save_every == 0:
            snapshot(slot.draw, slot.step, tickets.trainable_of(state.rolls, number))


def _stalled(run: Run, state: State, here: Sequence[int], states: np.ndarray) -> list[int]:
    """The slots of rolls that have learned nothing for as long as they may, and have steps left."""
    looks = run.looks
    if not looks.stall_steps:
        return []
    counts = fetched(state.rolls.stalled)
    over = lambda number: states[number] == ALIVE and counts[number] >= looks.stall_steps
    return [number for number in here if over(number) and state.slots[number].step < looks.steps]


def _close_up(looks: Looks, state: State) -> None:
    """Leaves empty slots out where every card then has half as many or fewer: the step is compiled anew, for fewer.

    An empty slot stays empty (`_end` fills one at once or never), but costs as much as a full one. Halving keeps the
    programs few. Over several cards the rolls that are left are laid out anew, as many on each: one roll a card stays
    as it is, since no card would be done sooner.
    """
    full = [number for number, slot in enumerate(state.slots) if slot.draw is not None]
    cards = cards_of(state.rolls.step)
    before, after = len(state.slots) // cards, places_for(len(full), cards) // cards
    if not full or 2 * after > before:
        return
    left = looks.steps - min(state.slots[number].step for number in full)
    if left * (before - after) < WORTH_A_PROGRAM:
        return
    places, state.slots = closed_up(state.slots, cards)
    state.rolls = tickets.moved(state.rolls, places, len(full))


def closed_up(slots: Sequence[Slot], cards: int) -> tuple[np.ndarray, list[Slot]]:
    """(whose roll each place has, the slots) without those that are empty but the fewest that fill up the last card."""
    full = [number for number, slot in enumerate(slots) if slot.draw is not None]
    empty = places_for(len(full), cards) - len(full)
    return np.array([*full, *full[:1] * empty]), [
        *(slots[number] for number in full),
        *(Slot(None) for _ in range(empty)),
    ]


def _end(run, state, number, reason, say, trainable=None, judged=None) -> None:
    """Ends the roll in a slot, and draws the slot again where there is cause and a draw is left."""
    slot, looks = state.slots[number], run.looks
    old, died = slot.draw, bool(reason) and reason != REASONS[STOPPED]
    again = died and state.width > 1 and state.redraws < looks.redraws
    # Where a roll died, the device's count is what it did: the slot's goes on until the next look.
    step = int(fetched(state.rolls.step)[number]) if died and reason != COLLAPSED else slot.step
    state.ended.append(FinishedRoll(old, step, reason, again, trainable, judged))
    new = None
    if again:
        # Its number is new, so its seed is; its settings are those of the one that died, at a lower rate.
        new = run.lottery.draw(state.drawn + state.redraws, old.attempt + 1, old.fold)
        rate = old.rate * run.lottery.redraw_factor
        new = dataclasses.replace(new, rate=rate, alpha=old.alpha, weight_decay=old.weight_decay)
        state.redraws += 1
    elif state.drawn < run.draws:
        new = run.lottery.draw(state.drawn + state.redraws, fold=_fold(run, state.drawn))
        state.drawn += 1
    if reason:
        after = f"; its slot draws roll {new.roll}, lr {new.rate:.4g}" if new else ""
        say(f"roll {old.roll}: {reason} at step {step}/{looks.steps} (lr {old.rate:.4g}){after}")
    state.slots[number] = Slot(new)
    if new is None:
        state.rolls = tickets.mark(state.rolls, number, STOPPED)
    else:
        fresh = tickets.begin_one(run.lottery, run.config, run.start, new, run.mesh)
        state.rolls = tickets.replace(state.rolls, number, fresh)
