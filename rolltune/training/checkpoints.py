"""An interrupted run on the disk, by orbax: arrays, and beside them what only Python knows, as JSON."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rolltune.errors import UserError
from rolltune.sharding import cards_of
from rolltune.training.loop import Best, FinishedRoll, Slot, State, closed_up
from rolltune.training.rolls import Draw
from rolltune.training.step import STOPPED


def save(folder: Path, state: State, settings: Mapping[str, Any], judged: Any) -> None:
    """Replaces what is in `folder`. Orbax writes aside and renames, so a kill leaves the last whole one.

    `settings` are what a run that goes on from it must share: the recipe, the files of the data by their hashes.

    `judged` turns the detail of an ended roll's evaluation into JSON.
    """
    notes = {
        "settings": dict(settings),
        "width": state.width,
        "cards": cards_of(state.rolls.step),
        "step": state.step,
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
    arrays = {
        "rolls": state.rolls._asdict(),
        "ended": {str(n): one.trainable for n, one in enumerate(state.ended) if one.trainable is not None},
        "best": {str(n): slot.best.trainable for n, slot in enumerate(state.slots) if slot.best is not None},
    }
    text = json.dumps(notes)
    sealed = {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with _gives_room_back(folder), _manager(folder, max_to_keep=1) as manager:
        # Orbax's "step" is the number of the saving here: it never replaces one, and a step may well be saved twice, by
        # a run that is gone on with and stopped at once.
        number = (manager.latest_step() or 0) + 1
        manager.save(
            number,
            args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave(sealed)),
            force=True,
        )
    (folder / str(number) / CHECKS).write_text(json.dumps(_checks_of(folder / str(number))))


@contextlib.contextmanager
def _manager(folder: Path, **options: Any) -> Iterator[ocp.CheckpointManager]:
    """Orbax's manager without what its threads log: they print tracebacks of errors that are raised here as well."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        with ocp.CheckpointManager(folder.resolve(), options=ocp.CheckpointManagerOptions(**options)) as manager:
            yield manager
    finally:
        log.disabled = before


@contextlib.contextmanager
def _gives_room_back(folder: Path) -> Iterator[None]:
    """A saving that fails, on a full disk above all, leaves no half of it there: the rolls may still fit."""
    try:
        yield
    except BaseException:  # a second Ctrl-C as well; it goes on up
        for part in folder.glob(f"*{HALF}"):
            shutil.rmtree(part, ignore_errors=True)
        raise


def _best_notes(slot: Slot, judged: Any) -> dict[str, Any] | None:
    if slot.best is None:
        return None
    return {"figure": slot.best.figure, "step": slot.best.step, "judged": judged(slot.best.detail)}


HALF = ".orbax-checkpoint-tmp"  # how the name of a saving ends until it is whole
CHECKS = "rolltune.json"  # in the folder of a saving: size and CRC-32 of each of its files


def _checks_of(folder: Path) -> dict[str, list[int]]:
    made = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKS):
        crc = 0
        with path.open("rb") as file:
            while part := file.read(1 << 24):
                crc = zlib.crc32(part, crc)
        made[path.relative_to(folder).as_posix()] = [path.stat().st_size, crc]
    return made


def _check_files(folder: Path) -> None:
    """Raises ValueError for files that are not as they were saved.

    Orbax would notice, too, but over damaged arrays it leaves reads behind that print tracebacks at the end. A kill
    just after a saving may have left it without this list; then orbax is all there is.
    """
    if not (folder / CHECKS).exists():
        return
    then, now = json.loads((folder / CHECKS).read_text()), _checks_of(folder)
    if odd := sorted(name for name in {**then, **now} if then.get(name) != now.get(name)):
        raise ValueError(f"{odd[0]} is not as it was saved")


def exists(folder: Path) -> bool:
    """Whether a run was left there, whole or damaged."""
    return folder.is_dir() and any(child.name.isdecimal() for child in folder.iterdir())


def check(folder: Path, settings: Mapping[str, Any], width: int | None, later: Collection[str] = ()) -> None:
    """Raises UserError where a run that goes on would not be the one that was saved, or where its files are damaged.

    It needs no model: what is wrong is said before one is loaded. `later` names settings that are not known yet,
    `width` is None where it is not.
    """
    with _opened(folder) as (_, _, notes):
        _check_same(folder, settings, notes, width, later)


def load(folder: Path, settings: Mapping[str, Any], fresh: State, judged: Any) -> State:
    """The saved state, in the form of `fresh`.

    Raises UserError where a setting is not the one it was saved with, or where the files are damaged.
    """
    with _opened(folder) as (manager, step, notes):
        _check_same(folder, settings, notes, fresh.width)
        return _restored(manager, step, notes, fresh, judged)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[tuple[ocp.CheckpointManager, int | None, dict[str, Any]]]:
    """The latest saving, its number and its notes. Whatever goes wrong over damaged files becomes a UserError."""
    if not exists(folder):
        raise UserError(f"{folder}: nothing to resume; start without --resume")
    try:
        with _manager(folder) as manager:
            step = manager.latest_step()
            _check_files(folder / str(step))
            sealed = manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]
            if hashlib.sha256(sealed["text"].encode()).hexdigest() != sealed["sha256"]:
                raise ValueError("the notes do not have their checksum")
            yield manager, step, json.loads(sealed["text"])
    except UserError:
        raise
    except Exception as error:  # orbax and what it stands on raise all kinds over damaged files
        first = str(error).strip().partition("\n")[0][:200]
        raise UserError(
            f"{folder}: the interrupted run can't be read, its files are damaged ({type(error).__name__}: {first}). "
            "Restore the folder from a copy, or delete it and start anew, without --resume"
        ) from error


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


def _restored(
    manager: ocp.CheckpointManager, step: int | None, notes: dict[str, Any], fresh: State, judged: Any
) -> State:
    ended = [
        FinishedRoll(
            **{k: v for k, v in one.items() if k != "whole"}
            | {"draw": Draw(**one["draw"]), "judged": judged(one["judged"])}
        )
        for one in notes["ended"]
    ]
    shape = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), fresh.rolls.trainable)
    kept = {str(n): shape for n, one in enumerate(ended) if notes["ended"][n]["whole"]}
    # Slots that were left out on the way are not there any more. Into the host's memory: other cards may be here now.
    rolls = jax.tree.map(
        lambda leaf: np.empty((len(notes["slots"]), *leaf.shape[1:]), leaf.dtype), fresh.rolls._asdict()
    )
    bests = {str(n): shape for n, slot in enumerate(notes["slots"]) if slot["best"]}
    template = {"rolls": rolls, "ended": kept, "best": bests}
    arrays = manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(template)))["arrays"]
    on_host = lambda trees: {n: jax.tree.map(np.asarray, tree) for n, tree in trees.items()}
    finished, best = on_host(arrays["ended"]), on_host(arrays["best"])

    def slot_of(number: int, told: dict[str, Any]) -> Slot:
        kept = told["best"] and Best(
            told["best"]["figure"], told["best"]["step"], best[str(number)], judged(told["best"]["judged"])
        )
        return Slot(Draw(**told["draw"]) if told["draw"] else None, told["step"], told["rungs"], kept)

    slots, cards = [slot_of(number, told) for number, told in enumerate(notes["slots"])], cards_of(fresh.rolls.step)
    rolls = type(fresh.rolls)(**arrays["rolls"])
    if cards != notes.get("cards", 1):  # laid out anew; on as many cards nothing moves, and not a bit differs
        places, slots = closed_up(slots, cards)
        rolls = jax.tree.map(lambda leaf: leaf[places], rolls)
        rolls.state[sum(slot.draw is not None for slot in slots) :] = STOPPED
    return State(
        rolls=jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), rolls, fresh.rolls),
        slots=slots,
        width=notes["width"],
        step=notes["step"],
        drawn=notes["drawn"],
        redraws=notes["redraws"],
        reached={int(rung): figures for rung, figures in notes["reached"].items()},
        ended=[dataclasses.replace(one, trainable=finished.get(str(n))) for n, one in enumerate(ended)],
    )


def remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
