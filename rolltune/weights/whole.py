"""A whole model: a base with a roll worked into its weights, as a npz for big_vision and a JSON file beside it.

The npz, NAME.whole.npz, is what big_vision reads. What it doesn't say (how pictures are resized, soft-caps, windows)
and the roll's card are in NAME.whole.json, so that the model can be opened here and validated like a roll. Renamed to
an ending without ".whole", the npz is a checkpoint like any other, with big_vision's conventions.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from rolltune import atomic
from rolltune.errors import UserError
from rolltune.weights.card import Base, RollCard, card_of, is_count
from rolltune.weights.hf import read_json
from rolltune.weights.names import Pieces
from rolltune.weights.npz import write_npz

ENDING = ".whole.npz"
FORMAT, VERSION = "rolltune whole model", 1


def is_whole(path: Path) -> bool:
    return path.name.endswith(ENDING)


def json_of(path: Path) -> Path:
    """Where the file beside a whole model's npz is."""
    return path.with_suffix(".json")


def write_whole(
    path: Path, tensors: Mapping[str, np.ndarray | Pieces], said: Mapping[str, Any], weights: str, card: RollCard
) -> None:
    """Writes both files. `said` is what the npz doesn't say: "model_type", "config" and "tokenizer", the file's place.

    `weights` is the hash of the tree. It is in the second file: after a kill in between, or if one of them is copied
    without the other, they are seen not to belong together.
    """
    if not is_whole(path):
        raise ValueError(f"{path}: a whole model's name ends in {ENDING}")
    told = {"format": FORMAT, "version": VERSION, **said, "weights": weights, "card": asdict(card)}
    text = json.dumps(told, indent=1, allow_nan=False) + "\n"
    write_npz(path, tensors, prefix="params/")
    atomic.write_text(json_of(path), text)


def beside(path: Path) -> dict[str, Any]:
    """What the file beside a whole model's npz says. Raises UserError where it is missing or of another kind."""
    place = json_of(path)
    if not place.exists():
        raise UserError(
            f"{place} is missing, which says what {path.name} can't: copy it, too. To use the weights without it, as "
            f"big_vision does, rename them to {path.name.removesuffix(ENDING)}.npz."
        )
    told = read_json(place)
    if not isinstance(told, dict) or told.get("format") != FORMAT or not is_count(told.get("version")):
        raise UserError(f"{place}: expected what this rolltune writes beside a whole model; copy it again")
    if told["version"] > VERSION:
        raise UserError(f"{place} has version {told['version']}; this rolltune reads up to {VERSION}. Update rolltune.")
    for name, kind in (("config", dict), ("card", dict), *((n, str) for n in ("model_type", "tokenizer", "weights"))):
        if not isinstance(told.get(name), kind):
            raise UserError(f"{place}: {name} is missing or of another kind: the file was damaged; copy it again")
    return told


def learned_in(model: str) -> frozenset[str]:
    """The marks of what a base model was trained on here before; none where it is no whole model of ours."""
    path = Path(model)
    return frozenset(card_beside(path).metrics.get("learned", ())) if is_whole(path) else frozenset()


def card_beside(path: Path) -> RollCard:
    """The card of the roll that was worked in, as that of a roll without arrays on this model as its base."""
    told = beside(path)
    card = card_of(told["card"], f"{json_of(path)}: the card")
    own = {"model": str(path), "tokenizer": told["tokenizer"], "first_layer": 0}
    return replace(card, base=Base(path.stem, told["weights"]), recipe=card.recipe | own)
