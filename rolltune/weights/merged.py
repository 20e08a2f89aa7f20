"""A base's tensors with a roll worked in, a layer at a time out of the base's file: no second model in memory."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rolltune import quantize
from rolltune.errors import UserError
from rolltune.weights.names import Lazy, Shape, TensorMap, read_layer

# How far a number may be from the exact one, as a share of it: what rounding to its type does.
ROUNDING = {"float32": 2.0**-22, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # float32: of the same sum, made again

PART = 1 << 20  # numbers compared at a time


@dataclasses.dataclass(frozen=True)
class Change:
    """What a roll does to one tensor. `leaf`: LoRA factors {"a", "b"}, or the tensor itself, of the layers from `start`
    up; `scale` is that of the factors."""

    leaf: Any
    scale: float
    start: int = 0

    def of(self, base: np.ndarray, layer: int | None) -> np.ndarray:
        """float32, of one layer's base tensor (None: of a tensor without layers)."""
        take = lambda leaf: np.asarray(leaf if layer is None else leaf[layer - self.start], np.float32)
        base = base.astype(np.float32)
        if layer is not None and layer < self.start:
            return base
        if isinstance(self.leaf, Mapping):
            return base + np.float32(self.scale) * (take(self.leaf["a"]) @ take(self.leaf["b"]))
        new = take(self.leaf)
        # A file may pad its table of words with rows that no token has: they stay.
        return np.concatenate([new, base[len(new) :]]) if new.shape != base.shape else new


@dataclasses.dataclass(frozen=True)
class MergedTensor:
    """One of our tensors, with the layers on axis 0, as `names.to_file` takes it. It is read when it is asked for.

    `rows`: how many of axis 0 are kept, of a tensor without layers. `word`: how the run had it quantized, which it is
    here, and dequantized again. `kind`: the dtype in which the run held it then.
    """

    tensors: Mapping[str, Lazy]
    row: TensorMap
    change: Change | None = None
    rows: int | None = None
    word: str = quantize.KEEP
    kind: Any = np.float32

    @property
    def shape(self) -> Shape:
        return self.row.ours if self.rows is None else (self.rows, *self.row.ours[1:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.tensors[self.row.name(0)].dtype

    def exact(self, layer: int | None) -> np.ndarray:
        """Before it is rounded to the file's dtype: float32 where the roll changes it. `layer` None: there are none."""
        base = read_layer(self.tensors, self.row, layer or 0)
        if self.word != quantize.KEEP:
            turned = np.ascontiguousarray(base.astype(self.kind).T)
            base = quantize.decode(quantize.KINDS[self.word](turned), self.kind).T
        made = base if self.change is None else self.change.of(base, layer)
        return made if layer is not None else made[: self.rows]

    def __getitem__(self, layer: int) -> np.ndarray:
        if not 0 <= layer < self.row.layers:
            raise IndexError(layer)
        return self._rounded(layer)

    def _rounded(self, layer: int | None) -> np.ndarray:
        """In the file's dtype. What the roll leaves alone keeps its bits."""
        if self.change is None and self.word == quantize.KEEP:
            made = read_layer(self.tensors, self.row, layer or 0)
            return made if layer is not None else made[: self.rows]
        with np.errstate(over="ignore"):  # told below
            made = self.exact(layer).astype(self.dtype)
        if not np.isfinite(made.astype(np.float32)).all():
            raise UserError(f"{self.row.path}: merged, it holds NaN or what {self.dtype} cannot hold")
        return made

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        layers = range(self.row.layers)
        made = np.stack([self._rounded(layer) for layer in layers]) if self.row.layers else self._rounded(None)
        return made if dtype is None else made.astype(dtype)

    def reshape(self, *shape: int) -> np.ndarray:
        return np.asarray(self).reshape(*shape)


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest there is between tensors of a file and what they should be: as it is, and as a share of what its
    dtype's rounding explains."""

    largest: float
    path: str
    share: float


def compare(tensors: Mapping[str, Lazy], table: Iterable[TensorMap], merged: Mapping[str, Any]) -> Difference:
    """A file that was read again, beside the exact merged numbers, layer by layer.

    `merged` has a MergedTensor at each path of `table`, or an array, of what the base does not have.

    Raises UserError where rounding to the file's dtype does not explain what differs.
    """
    found = Difference(0.0, "", 0.0)
    for row in table:
        for number in range(max(row.layers, 1)):
            read = read_layer(tensors, row, number)
            leaf = merged[row.path]
            known = isinstance(leaf, MergedTensor)
            exact = leaf.exact(number if row.layers else None) if known else np.asarray(leaf)
            largest, share = _apart(read.reshape(-1), exact.reshape(-1))
            if math.isnan(largest) or not share <= 1.001:
                raise UserError(
                    f"{row.path}{f' of layer {number}' if row.layers else ''} was read back {largest:.3g} off, more "
                    f"than {read.dtype} rounds: nothing was kept. The disk or the memory is at fault; export it again"
                )
            if largest >= found.largest:
                found = Difference(largest, row.path, max(share, found.share))
    return found


def _apart(read: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """(the largest difference, and as a share of what rounding explains), some numbers at a time: a table of words in
    float32 many times over would take more memory than the model."""
    # Below the smallest normal number the steps are no smaller.
    least = np.float32(1e-7 if read.dtype.name == "float16" else 1e-37)
    largest = share = 0.0
    for at in range(0, read.size, PART):
        there = exact[at : at + PART].astype(np.float32)
        apart = np.abs(read[at : at + PART].astype(np.float32) - there)
        allowed = np.float32(ROUNDING[read.dtype.name]) * np.abs(there) + least
        # Python's max would lose a NaN.
        largest, share = float(np.maximum(largest, apart.max())), float(np.maximum(share, (apart / allowed).max()))
    return largest, share
