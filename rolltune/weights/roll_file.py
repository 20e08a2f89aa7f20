"""Roll files: what one training made, small, by name, with all that is needed to use it again.

A roll is a npz of the trained arrays by path name (`text/layers/attn/q/kernel/a`), plus one entry, `__rolltune__`, of
JSON as bytes. `np.load` opens it; pickle is never involved.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from rolltune.errors import UserError
from rolltune.weights.names import DTYPES, Pieces, flatten, nest
from rolltune.weights.npz import BFLOAT16, META, whole, write_npz

VERSION = 1


@dataclass(frozen=True)
class Base:
    """The model a roll belongs to: what it was called, and the digest of its weights (`identity.base_hash`)."""

    name: str
    hash: str


@dataclass(frozen=True)
class RollCard:
    """All about a roll but its arrays. `method` is "lora", "attention", ...: it says what the arrays mean."""

    base: Base
    method: str
    recipe: dict[str, Any]
    prompt: str = ""
    answers: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    version: int = VERSION


@dataclass(frozen=True)
class RollFile:
    tree: dict
    card: RollCard


def save_roll(path: Path | str, tree: Mapping, card: RollCard, dtype: Any = None) -> None:
    """Writes aside and renames: a kill at any moment leaves the earlier file whole. `dtype` None keeps each array's.

    Arrays with NaN or infinity are refused, so that nothing broken takes the place of something good.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}
    if dtype is not None:
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    if not arrays or META in arrays:
        raise ValueError(f"a roll needs named arrays, got {sorted(arrays)}")
    kinds = {dtype: name for name, dtype in DTYPES.items()}
    if odd := sorted(name for name, array in arrays.items() if array.dtype not in kinds):
        raise ValueError(f"not {', '.join(DTYPES)}: {', '.join(odd)}")
    # NumPy's isfinite knows no bfloat16 of its own on every version: through float32, which holds each value.
    if broken := sorted(name for name, array in arrays.items() if not np.isfinite(array.astype(np.float32)).all()):
        raise UserError(f"{path} was not written: NaN or infinity in {', '.join(broken)}. The training diverged.")
    listed = {name: [kinds[array.dtype], list(array.shape)] for name, array in arrays.items()}
    try:
        text = json.dumps({**asdict(card), "arrays": listed}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the card of {path} is not plain JSON: {error}") from error
    meta = np.frombuffer(text.encode("utf-8"), np.uint8)
    entries: dict[str, np.ndarray | Pieces] = {name: whole(array) for name, array in arrays.items()}
    write_npz(path, {META: meta, **entries})


def read_card(path: Path | str) -> RollCard:
    """Only the card: what a list of checkpoints shows."""
    return _read(Path(path), arrays=False)[1]


def load_roll(path: Path | str, base: Base | None = None) -> RollFile:
    """The roll, checked to be whole (each array's CRC, the card's list of arrays) and to belong to `base`."""
    tree, card = _read(Path(path), arrays=True)
    if base is not None:
        check_base(path, card, base)
    return RollFile(tree, card)


def check_base(path: Path | str, card: RollCard, base: Base) -> None:
    """Raises UserError where the roll belongs to other weights."""
    if base.hash != card.base.hash:
        raise UserError(
            f"{path} was trained on {card.base.name} ({card.base.hash[:12]}), but the model given is {base.name} "
            f"({base.hash[:12]}): "
            + ("the same name, but other weights. " if base.name == card.base.name else "another one. ")
            + "On other weights the roll's changes mean nothing. Give the model it was trained on, or train again."
        )


def _read(path: Path, arrays: bool) -> tuple[dict, RollCard]:
    damaged = f"{path} is damaged or cut off"
    try:
        with np.load(path, allow_pickle=False) as file:
            if not hasattr(file, "files") or META not in file.files:
                raise UserError(
                    f"{path} is no roll: it has no entry {META}. Rolls are written by 03-do_learn.py; a base model is "
                    f"given as the model, not as a checkpoint."
                )
            listed, card = _card(path, bytes(file[META].astype(np.uint8, casting="equiv")))
            if sorted(file.files) != sorted([META, *listed]):
                odd = sorted(set(file.files) ^ {META, *listed})
                raise UserError(
                    f"{damaged}: its card and its arrays differ in {', '.join(odd)}. Train or copy it again."
                )
            if not arrays:
                return {}, card
            loaded = {}
            for name, (kind, shape) in listed.items():
                array = file[name]
                if array.dtype.str[1:] == "V2" and kind == "bfloat16":
                    array = array.view(BFLOAT16)
                if array.dtype != DTYPES.get(kind) or list(array.shape) != shape:
                    raise UserError(
                        f"{damaged}: {name} is {array.dtype} {list(array.shape)}, its card says {kind} {shape}."
                    )
                loaded[name] = array
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, expected a roll (.npz)") from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read (no permission)") from error
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, TypeError, AttributeError),
        *(OSError, NotImplementedError, SyntaxError, MemoryError),
    ) as error:
        # All that NumPy and zipfile raise over bytes they didn't write themselves. NumPy takes what it doesn't know for
        # pickled objects and says how to load these unsafely: nobody should.
        if "pickle" in str(error):
            raise UserError(
                f"{path} is no roll: no npz at all, or one with Python objects (pickle), which are never loaded."
            ) from error
        raise UserError(f"{damaged} ({type(error).__name__}: {error}). Train or copy it again.") from error
    return nest(loaded.items()), card


def _card(path: Path, text: bytes) -> tuple[dict[str, list], RollCard]:
    values = json.loads(text)
    if not isinstance(values, dict) or not isinstance(values.get("version"), int):
        raise UserError(f"{path}: the card in {META} has no version number: another program wrote it.")
    if values["version"] > VERSION:
        raise UserError(
            f"{path} has format {values['version']}; this rolltune reads up to {VERSION}. Update rolltune to use it."
        )
    base, listed = values.get("base"), values.get("arrays")
    known = {entry.name for entry in fields(RollCard)}
    if not isinstance(base, dict) or not isinstance(listed, dict) or not {"method", "recipe"} <= values.keys():
        raise UserError(f"{path}: the card in {META} lacks base, method, recipe or arrays: another program wrote it.")
    kept = {name: value for name, value in values.items() if name in known and name != "base"}
    return listed, RollCard(base=Base(str(base.get("name")), str(base.get("hash"))), **kept)


def nested_lora(flat: dict[str, Any]) -> dict[str, Any]:
    """{"p/a": x, "p/b": y, "q": z} -> {"p": {"a": x, "b": y}, "q": z}."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        parent, _, last = path.rpartition("/")
        if last in ("a", "b") and parent.endswith("/kernel"):
            nested.setdefault(parent, {})[last] = leaf
        else:
            nested[path] = leaf
    return nested
