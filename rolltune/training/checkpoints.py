"""An interrupted run on the disk, by orbax: arrays, and beside them what only Python knows, as JSON."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from rolltune.errors import UserError
from rolltune.training.loop import FinishedRoll, Slot, State
from rolltune.training.rolls import Draw


def save(folder: Path, state: State, settings: Mapping[str, Any], judged: Any) -> None:
    """Replaces what is in `folder`. Orbax writes aside and renames, so a kill leaves the last whole one.

    `settings` are what a run that goes on from it must share: the recipe, the files of the data by their hashes.

    `judged` turns the detail of an ended roll's evaluation into JSON.
    """
    notes = {
        "settings": dict(settings),
        "width": state.width,
        "step": state.step,
        "drawn": state.drawn,
        "redraws": state.redraws,
        "reached": {str(rung): figures for rung, figures in state.reached.items()},
        "slots": [dataclasses.asdict(slot) for slot in state.slots],
        "ended": [
            dataclasses.asdict(dataclasses.replace(one, trainable=None, judged=None))
            | {"judged": judged(one.judged), "whole": one.trainable is not None}
            for one in state.ended
        ],
    }
    arrays = {
        "rolls": state.rolls._asdict(),
        "ended": {str(n): one.trainable for n, one in enumerate(state.ended) if one.trainable is not None},
    }
    with ocp.CheckpointManager(folder.resolve(), options=ocp.CheckpointManagerOptions(max_to_keep=1)) as manager:
        manager.save(
            state.step,
            args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave(notes)),
            force=True,
        )


def exists(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with ocp.CheckpointManager(folder.resolve()) as manager:
        return manager.latest_step() is not None


def load(folder: Path, settings: Mapping[str, Any], fresh: State, judged: Any) -> State:
    """The saved state, in the form of `fresh`. Raises UserError where a setting is not the one it was saved with."""
    with ocp.CheckpointManager(folder.resolve()) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"{folder}: nothing to resume; start without --resume")
        notes = manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]
        now, then = json.loads(json.dumps(dict(settings))), notes["settings"]
        changed = [name for name in {**now, **then} if now.get(name) != then.get(name)]
        if changed:
            was = ", ".join(f"{name} was {then.get(name)!r}, is {now.get(name)!r}" for name in changed)
            raise UserError(
                f"{folder}: the interrupted run differs ({was}); resume with the same, or delete the folder and start "
                "anew"
            )
        if notes["width"] != fresh.width:
            raise UserError(
                f"{folder}: begun with {notes['width']} rolls at once, not {fresh.width}; resume with the same"
            )
        ended = [
            FinishedRoll(
                **{k: v for k, v in one.items() if k != "whole"}
                | {"draw": Draw(**one["draw"]), "judged": judged(one["judged"])}
            )
            for one in notes["ended"]
        ]
        shape = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), fresh.rolls.trainable)
        kept = {str(n): shape for n, one in enumerate(ended) if notes["ended"][n]["whole"]}
        # Slots that were left out on the way are not there any more.
        rolls = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (len(notes["slots"]), *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding
            ),
            fresh.rolls._asdict(),
        )
        template = {"rolls": rolls, "ended": kept}
        arrays = manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(template)))["arrays"]
    finished = {n: jax.tree.map(np.asarray, tree) for n, tree in arrays["ended"].items()}
    return State(
        rolls=type(fresh.rolls)(**arrays["rolls"]),
        slots=[Slot(Draw(**s["draw"]) if s["draw"] else None, s["step"], s["rungs"]) for s in notes["slots"]],
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
