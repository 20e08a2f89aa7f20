"""An interrupted run on the disk, by orbax: arrays, and beside them what only Python knows, as JSON.

A folder holds the last few savings, numbered: `savings` knows it as files.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from rolltune.errors import UserError
from rolltune.hosts import ONE, Hosts
from rolltune.training import savings
from rolltune.training.loop import Best, FinishedRoll, Slot, State, closed_up
from rolltune.training.rolls import Draw
from rolltune.training.step import STOPPED

LOOP_CLOSED = "Event loop is closed"  # of asyncio's RuntimeError


def save(folder: Path, state: State, settings: Mapping[str, Any], judged: Any, keep: int = savings.KEPT) -> None:
    """Saves a state and returns when it is whole; `Saves` does so while the training goes on.

    `settings` are what a run that goes on from it must share: the recipe, the files of the data by their hashes.

    `judged` turns the detail of an ended roll's evaluation into JSON.
    """
    number = savings.last_number(folder) + 1
    with writer() as checkpointer:
        write(checkpointer, folder, number, state, settings, judged)
        finish(checkpointer, folder, number, keep)


@contextlib.contextmanager
def writer(hosts: Hosts = ONE) -> Iterator[ocp.AsyncCheckpointer]:
    """What writes one saving after the other; left, it has written all of them.

    Its thread meets those of the other hosts by us: orbax's own barrier would wait for a host whose disk is full for
    twenty minutes.
    """

    def meet(*, key: str, timeout_ms: int) -> None:
        hosts.meet(int(key.rpartition(".")[2]), key)  # it ends with the folder's name: the saving's number

    meeting = ocp.AsyncOptions(barrier_sync_fn=meet)
    with _quiet():
        try:
            with ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=meeting) as checkpointer:
                yield checkpointer
        finally:
            gc.collect()  # as in `_quiet`, of a saving that failed and was told of while the training went on


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what orbax, and what it stands on, prints of errors that are raised here as well.

    Its threads log tracebacks. Where one file of a saving fails, it closes its event loop over the others: what still
    comes in for them finds no loop, which is printed with a traceback each, as are the tasks that nobody ends.
    """
    logs = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before, shown = [log.disabled for log in logs], sys.unraisablehook

    def show(told: Any) -> None:
        if str(told.exc_value) != LOOP_CLOSED:
            shown(told)

    for log in logs:
        log.disabled = True
    sys.unraisablehook = show
    try:
        yield
    except BaseException:
        gc.collect()  # of tasks that nobody ends it is said when they are collected
        raise
    finally:
        sys.unraisablehook = shown
        for log, disabled in zip(logs, before, strict=True):
            log.disabled = disabled


def write(
    checkpointer: ocp.AsyncCheckpointer,
    folder: Path,
    number: int,
    state: State,
    settings: Mapping[str, Any],
    judged: Any,
    hosts: Hosts = ONE,
) -> None:
    """Begins to write a state: returns as soon as its arrays are copied into the host's memory.

    The next step overwrites the buffers on the device; what is written is the copy. Each card's part is written by the
    process that has the card; `finish` waits for all of them.
    """
    text = json.dumps(_notes(state, settings, judged))
    arrays = {
        "rolls": state.rolls._asdict(),
        "ended": {str(n): one.trainable for n, one in enumerate(state.ended) if one.trainable is not None},
        "best": {str(n): slot.best.trainable for n, slot in enumerate(state.slots) if slot.best is not None},
    }
    sealed = {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with _gives_room_back(folder, number, hosts):
        if jax.process_index() == 0:
            savings.try_folder(folder)
        hosts.meet(number, "begun")
        hosts.forget(number - 1)
        checkpointer.save(
            (folder / str(number)).resolve(),
            args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave(sealed)),
        )


def finish(checkpointer: ocp.AsyncCheckpointer, folder: Path, number: int, keep: int, hosts: Hosts = ONE) -> None:
    """Waits until a saving is written, marks it as whole, and drops all but the last `keep` that are.

    Raises what writing met, on any host: OSError, ValueError and others. Then nothing of it is left, nor are older ones
    touched. It runs in a thread of its own: it may use no collective, which would meet those of the loop in another
    order on each host.
    """
    with _gives_room_back(folder, number, hosts):
        _await(checkpointer, number, hosts)
        if jax.process_index() == 0:
            savings.mark_whole(folder / str(number))
    hosts.meet(number, "whole")  # nobody takes it for whole, and ends perhaps, before the first one has marked it
    if jax.process_index() == 0:
        savings.drop_old(folder, keep)


def _await(checkpointer: ocp.AsyncCheckpointer, number: int, hosts: Hosts) -> None:
    """Waits until a saving is written. One of several hosts leaves off where another one failed: orbax would wait ten
    minutes for a folder that the first one could not make."""
    if hosts.place.hosts == 1:
        checkpointer.wait_until_finished()
        return
    with ThreadPoolExecutor(1, "written") as thread:
        writing = thread.submit(checkpointer.wait_until_finished)
        while wait([writing], timeout=1).not_done:
            try:
                hosts.look(number)
            except Exception:  # whatever the other host or the network said, it goes on up
                checkpointer.cancel()
                raise
        writing.result()


@contextlib.contextmanager
def _gives_room_back(folder: Path, number: int, hosts: Hosts) -> Iterator[None]:
    """A saving that fails, on a full disk above all, fails on all hosts, and leaves nothing of it there: the rolls may
    still fit."""
    try:
        yield
    except BaseException as error:
        hosts.fail(number, error)
        if jax.process_index() == 0:
            savings.drop(folder, number)
        raise


def _notes(state: State, settings: Mapping[str, Any], judged: Any) -> dict[str, Any]:
    return {
        "settings": dict(settings),
        "width": state.width,
        "cards": _parts(state),
        "step": state.step,
        "looking": state.looking,
        "drawn": state.drawn,
        "redraws": state.redraws,
        "reached": {str(rung): figures for rung, figures in state.reached.items()},
        "slots": [
            dataclasses.asdict(dataclasses.replace(slot, best=None)) | {"best": _best_notes(slot, judged)}
            for slot in state.slots
        ],
        "ended": [
            dataclasses.asdict(dataclasses.replace(one, trainable=None, judged=None))
            | {"judged": judged(one.judged), "whole": one.trainable is not None}
            for one in state.ended
        ],
    }


def _parts(state: State) -> int:
    """Into how many parts the K axis is cut."""
    leaf = state.rolls.step
    return leaf.shape[0] // leaf.sharding.shard_shape(leaf.shape)[0]


def _best_notes(slot: Slot, judged: Any) -> dict[str, Any] | None:
    if slot.best is None:
        return None
    return {"figure": slot.best.figure, "step": slot.best.step, "judged": judged(slot.best.detail)}


def check(
    folder: Path,
    settings: Mapping[str, Any],
    width: int | None,
    later: Collection[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Raises UserError where a run that goes on would not be the one that was saved, or where its files are damaged.

    It needs no model: what is wrong is said before one is loaded. `later` names settings that are not known yet,
    `width` is None where it is not. Where the last saving is damaged and the one before is not, that is said.
    """
    with _opened(folder, say) as (_, notes):
        _check_same(folder, settings, notes, width, later)


def load(folder: Path, settings: Mapping[str, Any], fresh: State, judged: Any) -> State:
    """The saved state, in the form of `fresh`, whose arrays are given up for it: a card need not hold both.

    Raises UserError where a setting is not the one it was saved with, or where the files are damaged.
    """
    with _opened(folder) as (place, notes):
        _check_same(folder, settings, notes, fresh.width)
        return _restored(place, notes, fresh, judged)


@contextlib.contextmanager
def _opened(folder: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Where the latest undamaged saving is, and its notes. Whatever goes wrong over its files becomes a UserError."""
    if not savings.exists(folder):
        raise UserError(f"{folder}: nothing to resume; start without --resume")
    number, damaged = savings.undamaged(folder) if jax.process_index() == 0 else (0, "")
    if jax.process_count() > 1:  # the first one's choice: they must not go on from different savings
        number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
    try:
        if not number:
            raise ValueError(damaged or "host 0 names the file")
        place = folder / str(number)
        notes = _read_notes(place)
        if damaged:
            say(f"{folder}: its last saving is damaged ({damaged}); the one before it, of step {notes['step']}, is not")
        yield place, notes
    except UserError:
        raise
    except Exception as error:  # orbax and what it stands on raise all kinds over damaged files
        first = str(error).strip().partition("\n")[0][:200]
        raise UserError(
            f"{folder}: the interrupted run can't be read, its files are damaged ({type(error).__name__}: {first}). "
            "Restore the folder from a copy, or delete it and start anew, without --resume"
        ) from error


def _read_notes(place: Path) -> dict[str, Any]:
    sealed = _read(place, notes=ocp.args.JsonRestore())["notes"]
    if hashlib.sha256(sealed["text"].encode()).hexdigest() != sealed["sha256"]:
        raise ValueError("the notes do not have their checksum")
    return json.loads(sealed["text"])


def _check_same(
    folder: Path, settings: Mapping[str, Any], notes: dict[str, Any], width: int | None, later: Collection[str] = ()
) -> None:
    now, then = json.loads(json.dumps(dict(settings))), notes["settings"]
    changed = [name for name in {**now, **then} if name not in later and now.get(name) != then.get(name)]
    if changed:
        told = ", ".join(_change(name, then, now) for name in changed)
        raise UserError(
            f"{folder}: the interrupted run differs ({told}); resume with the same, or start anew with --overwrite"
        )
    if width is not None and notes["width"] != width:
        raise UserError(f"{folder}: begun with {notes['width']} rolls at once, not {width}; resume with the same")


def _change(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if name not in then or name not in now:
        return f"{name} was not there" if name not in then else f"{name} was there"
    return f"{name} was {then[name]!r}, is {now[name]!r}"


def _restored(place: Path, notes: dict[str, Any], fresh: State, judged: Any) -> State:
    ended = [
        FinishedRoll(
            **{k: v for k, v in one.items() if k != "whole"}
            | {"draw": Draw(**one["draw"]), "judged": judged(one["judged"])}
        )
        for one in notes["ended"]
    ]
    bare = [
        Slot(Draw(**told["draw"]) if told["draw"] else None, told["step"], told["rungs"]) for told in notes["slots"]
    ]
    places, after = np.arange(len(bare)), bare
    if _parts(fresh) != notes.get("cards", 1):  # laid out anew; on as many cards nothing moves, and not a bit differs
        places, after = closed_up(bare, _parts(fresh))
    stay = np.array_equal(places, np.arange(len(bare)))
    # Slots that were left out on the way are not there any more. Where the others stay in their places, each card reads
    # its own part; else they go through the host's memory, on which other cards do not matter.
    on_card = lambda leaf: jax.ShapeDtypeStruct((len(bare), *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)
    on_host = lambda leaf: np.empty((len(bare), *leaf.shape[1:]), leaf.dtype)
    one_on_host = lambda leaf: np.empty(leaf.shape[1:], leaf.dtype)
    shape = jax.tree.map(one_on_host, fresh.rolls.trainable)
    likes = jax.tree.map(on_card, fresh.rolls)
    template = {
        "rolls": (likes if stay else jax.tree.map(on_host, likes))._asdict(),
        "ended": {str(n): shape for n, told in enumerate(notes["ended"]) if told["whole"]},
        "best": {str(n): shape for n, told in enumerate(notes["slots"]) if told["best"]},
    }
    jax.tree.map(lambda leaf: leaf.delete(), fresh.rolls)
    arrays = _read(place, arrays=ocp.args.StandardRestore(template))["arrays"]
    for slot, told, number in zip(bare, notes["slots"], range(len(bare)), strict=True):
        if best := told["best"]:
            slot.best = Best(best["figure"], best["step"], arrays["best"][str(number)], judged(best["judged"]))
    rolls = type(fresh.rolls)(**arrays["rolls"])
    if not stay:
        rolls = jax.tree.map(lambda leaf: leaf[places], rolls)
        rolls.state[sum(slot.draw is not None for slot in after) :] = STOPPED
        laid = lambda leaf, like: jax.make_array_from_callback(leaf.shape, like.sharding, lambda part: leaf[part])
        rolls = jax.tree.map(laid, rolls, likes)
    return State(
        rolls=rolls,
        slots=after,
        width=notes["width"],
        step=notes["step"],
        drawn=notes["drawn"],
        redraws=notes["redraws"],
        reached={int(rung): figures for rung, figures in notes["reached"].items()},
        ended=[dataclasses.replace(one, trainable=arrays["ended"].get(str(n))) for n, one in enumerate(ended)],
        looking=notes.get("looking", False),
    )


def _read(place: Path, **asked: Any) -> Mapping[str, Any]:
    with _quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(place.resolve(), args=ocp.args.Composite(**asked))
