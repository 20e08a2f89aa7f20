"""Roll files: what one training made, small, by name, with all that is needed to use it again.

A roll is a npz of the trained arrays by path name (`text/layers/attn/q/kernel/a`), plus one entry, `__rolltune__`, of
JSON as bytes. `np.load` opens it; pickle is never involved.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rolltune import trees
from rolltune.errors import UserError
from rolltune.weights import whole
from rolltune.weights.card import VERSION, Base, RollCard, card_of, is_count
from rolltune.weights.names import DTYPES, Pieces, flatten, nest
from rolltune.weights.npz import BFLOAT16, DAMAGE, META, as_pieces, write_npz


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
        text = json.dumps(
            {**asdict(card), "arrays": listed}, allow_nan=False
        )  # in ASCII: half a character is JSON, too
    except (TypeError, ValueError) as error:
        raise ValueError(f"the card of {path} is not plain JSON: {error}") from error
    meta = np.frombuffer(text.encode("ascii"), np.uint8)
    entries: dict[str, np.ndarray | Pieces] = {name: as_pieces(array) for name, array in arrays.items()}
    write_npz(path, {META: meta, **entries})


def read_card(path: Path | str) -> RollCard:
    """Only the card: what a list of checkpoints shows. A whole model's is beside it."""
    path = Path(path)
    return whole.card_beside(path) if whole.is_whole(path) else _read(path, arrays=False)[1]


def load_roll(path: Path | str, base: Base | None = None) -> RollFile:
    """The roll, checked to be whole (each array's CRC, the card's list of arrays) and to belong to `base`.

    A whole model is a roll without arrays, whose base it is itself.
    """
    path = Path(path)
    tree, card = ({}, whole.card_beside(path)) if whole.is_whole(path) else _read(path, arrays=True)
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
                told = ", ".join(name[:80] for name in odd[:8]) + ", ..." * (len(odd) > 8)
                raise UserError(f"{damaged}: its card and its arrays differ in {told}. Train or copy it again.")
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
            tree = nest(loaded.items())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, expected a roll (.npz)") from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read (no permission)") from error
    except DAMAGE as error:
        # NumPy takes what it doesn't know for pickled objects and says how to load these unsafely: nobody should.
        if "pickle" in str(error):
            raise UserError(
                f"{path} is no roll: no npz at all, or one with Python objects (pickle), which are never loaded."
            ) from error
        raise UserError(f"{damaged} ({type(error).__name__}: {str(error)[:200]}). Train or copy it again.") from error
    return tree, card


def _card(path: Path, text: bytes) -> tuple[dict[str, list], RollCard]:
    values = json.loads(text)
    if not isinstance(values, dict) or not is_count(values.get("version")):
        raise UserError(f"{path}: the card in {META} has no version number: another program wrote it.")
    if values["version"] > VERSION:
        raise UserError(
            f"{path} has format {values['version']}; this rolltune reads up to {VERSION}. Update rolltune to use it."
        )
    listed = values.get("arrays")
    if not isinstance(listed, dict):
        raise UserError(f"{path}: the card in {META} lacks base, method, recipe or arrays: another program wrote it.")
    return listed, card_of(values, f"{path}: the card in {META}")


def check_arrays(
    path: Path | str,
    trained: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    stacks: trees.Stacks,
    first_layer: int,
    rank: int,
) -> None:
    """That each array of a roll fits the model: all that do not are named in one UserError.

    `trained` is `nested_lora` of the roll's flat tree: path -> array, or {"a", "b"}. `shapes` are those of the model's
    parameters, by path, with that of a head that the roll brings with it. `stacks` are the model's, all layers of it;
    a roll holds those from `first_layer` up.
    """
    if problems := [
        f"{name}: {problem}"
        for name, leaf in sorted(trained.items())
        if (problem := _misfit(name, leaf, shapes, stacks, first_layer, rank))
    ]:
        raise UserError(
            f"{path} does not fit the model:\n  " + "\n  ".join(problems) + "\n  Give the model that it was trained on."
        )


def _misfit(
    name: str, leaf: Any, shapes: Mapping[str, tuple[int, ...]], stacks: trees.Stacks, first_layer: int, rank: int
) -> str:
    """What is wrong with one array, or pair of factors; empty: nothing."""
    if name not in shapes:
        return "the model has no such parameter"
    wanted = tuple(shapes[name])
    if below := trees.cut_of(name, stacks, first_layer):
        wanted = (wanted[0] - below, *wanted[1:])
        if not wanted[0]:
            return f"all its layers lie below first_layer ({first_layer}), yet it was trained"
    if not isinstance(leaf, Mapping):
        found = tuple(leaf.shape)
        return "" if found == wanted else f"{list(found)}, the model has {list(wanted)}"
    if set(leaf) != {"a", "b"}:
        return f"an adapter with {' and '.join(sorted(leaf))} only, expected a and b"
    if len(wanted) < 2:
        return f"an adapter of what is no matrix, {list(wanted)}"
    factors = {"a": (*wanted[:-1], rank), "b": (*wanted[:-2], rank, wanted[-1])}
    odd = [side for side in factors if tuple(leaf[side].shape) != factors[side]]
    told = [f"{side} {list(leaf[side].shape)}, expected {list(factors[side])}" for side in odd]
    return f"{' and '.join(told)} (rank {rank})" if told else ""


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
