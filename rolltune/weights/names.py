"""Name maps: how the tensors of a published file become ours, and back. One row a tensor, pure data.

A map is a list of `TensorMap`. Each names one tensor of ours and the tensor (or part of one) of the file it comes from.
All that published layouts ever do to a weight is: stack it with its siblings along axis 0, fold or unfold axes, and
change the order of axes. `Layout` states these steps as shapes, so that each row can be run both ways and checked.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np

from rolltune.errors import UserError

Shape = tuple[int, ...]
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SQUARE = 256  # rows and columns turned at a time
CHUNK = 1 << 24  # elements read, converted or written at a time where a tensor has no layers to go by


class Layout(NamedTuple):
    """ours = file[rows].reshape(view).transpose(order).reshape(our shape), for one layer of the tensor."""

    file: Shape  # the file's tensor, whole
    rows: tuple[int, int]  # the part of its axis 0 that is ours
    view: Shape
    order: tuple[int, ...]

    @property
    def part(self) -> Shape:
        return (self.rows[1] - self.rows[0], *self.file[1:]) if self.file else ()

    def to_ours(self, part: np.ndarray, shape: Shape) -> np.ndarray:
        return part.reshape(self.view).transpose(self.order).reshape(shape)

    def to_file(self, ours: np.ndarray) -> np.ndarray:
        turned = tuple(self.view[axis] for axis in self.order)
        return ours.reshape(turned).transpose(np.argsort(self.order)).reshape(self.part)

    @property
    def plain(self) -> bool:
        """Whether ours has the file's elements in the file's order."""
        return self.order == tuple(range(len(self.order)))


def keep(*file: int) -> Layout:
    """The same elements in the same order; the row's own shape may fold axes together."""
    return Layout(file, (0, file[0]) if file else (0, 1), file, tuple(range(len(file))))


def turn(file: Shape, order: Sequence[int]) -> Layout:
    """A change of the order of axes: `turn((out, in), (1, 0))` is what torch calls a Linear."""
    return Layout(file, (0, file[0]), file, tuple(order))


def pick(file: Shape, index: int, order: Sequence[int]) -> Layout:
    """One of the tensors stacked on axis 0 (key or value, gate or up); `order` is over the axes that are left."""
    return Layout(file, (index, index + 1), file[1:], tuple(order))


def rows(file: Shape, start: int, stop: int, order: Sequence[int]) -> Layout:
    """Rows start..stop of a matrix in which several lie one after the other (fused projections)."""
    return Layout(file, (start, stop), (stop - start, *file[1:]), tuple(order))


def patches(out: int, side: int, channels: int) -> Layout:
    """A torch convolution [out, channel, row, column] as a patch matrix [row x column x channel, out]."""
    return turn((out, channels, side, side), (2, 3, 1, 0))


@dataclass(frozen=True)
class TensorMap:
    """One tensor of ours.

    `shape` is ours for one layer; with `layers` our tensor is [layers, *shape]. `file` is the name in the file, with
    "{i}" where each layer has a tensor of its own; without it the file's tensor is stacked on axis 0 too. The file
    counts the layers as `numbers` has them (none: from 0), so that layers of two kinds may share its numbers.
    `tied` names a second copy that some files carry: it must hold the same values, and is never written.
    """

    path: str
    file: str
    shape: Shape
    layout: Layout
    layers: int = 0
    tied: str = ""
    numbers: tuple[int, ...] = ()

    @property
    def split(self) -> bool:
        return "{i}" in self.file

    @property
    def ours(self) -> Shape:
        return (self.layers, *self.shape) if self.layers else self.shape

    def name(self, layer: int) -> str:
        """The name in the file of the tensor that holds our layer."""
        return self.file.format(i=self.numbers[layer] if self.numbers else layer) if self.split else self.file

    def in_file(self) -> dict[str, Shape]:
        if self.split:
            return {self.name(layer): self.layout.file for layer in range(self.layers)}
        return {self.file: (self.layers, *self.layout.file) if self.layers else self.layout.file}


class Lazy(Protocol):
    """A tensor that still lies in a file."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Elements start..stop in row-major order as a flat array, into `out` (of the tensor's dtype) if given."""


@dataclass(frozen=True)
class Pieces:
    """A tensor on its way into a file: `chunks()` gives flat arrays that make it up, one after the other."""

    shape: Shape
    dtype: np.dtype
    chunks: Callable[[], Iterator[np.ndarray]]


def check_map(table: Sequence[TensorMap]) -> None:
    """That the map can be inverted: every path once, every element of every file tensor used once."""
    paths = [row.path for row in table]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(f"name map: {', '.join(twice)} more than once")
    for row in table:
        if math.prod(row.layout.part) != math.prod(row.shape) or math.prod(row.layout.view) != math.prod(row.shape):
            raise ValueError(f"name map: {row.path} {row.shape} does not hold the elements of {row.layout}")
        if sorted(row.layout.order) != list(range(len(row.layout.view))):
            raise ValueError(f"name map: {row.path}: {row.layout.order} is no order of the axes of {row.layout.view}")
        if row.split and not row.layers:
            raise ValueError(f"name map: {row.path}: {row.file} is numbered by layer, but the row has no layers")
        if row.numbers and (len(row.numbers) != row.layers or not row.split):
            raise ValueError(f"name map: {row.path}: {row.layers} layers of {row.file} have numbers {row.numbers}")
    groups = _sharing(table)
    named = Counter(name for group in groups for name in group[0].in_file())
    if twice := sorted(name for name, count in named.items() if count > 1):
        raise ValueError(f"name map: rows with other numbers use {', '.join(twice)}, too")
    for sharing in groups:
        file = sharing[0].file
        if len({(row.layout.file, row.layers) for row in sharing}) > 1:
            raise ValueError(f"name map: rows of {file} disagree about its shape")
        covered, end = [row.layout.rows for row in sharing], 0
        for start, stop in covered:
            if start != end:
                raise ValueError(f"name map: {file}: parts {covered} overlap or leave a gap")
            end = stop
        if end != (sharing[0].layout.file[0] if sharing[0].layout.file else 1):
            raise ValueError(f"name map: {file}: parts {covered} of {sharing[0].layout.file} leave a gap")


def _sharing(table: Sequence[TensorMap]) -> list[list[TensorMap]]:
    """The rows by the file's tensors that they are parts of, in the order of these."""
    groups: dict[tuple[str, tuple[int, ...]], list[TensorMap]] = {}
    for row in table:
        groups.setdefault((row.file, row.numbers), []).append(row)
    return [sorted(group, key=lambda row: row.layout.rows) for group in groups.values()]


def check(shapes: Mapping[str, Shape], table: Sequence[TensorMap], source: str) -> None:
    """All the names of a file against its map: every unknown, missing and mis-shaped tensor in one UserError."""
    check_map(table)
    expected = {name: shape for row in table for name, shape in row.in_file().items()}
    allowed = expected | {row.tied: row.layout.file for row in table if row.tied and row.tied in shapes}
    missing = [name for name in expected if name not in shapes]
    unknown = [name for name in shapes if name not in allowed]
    wrong = [
        f"{name}: the file has {list(shapes[name])}, the model wants {list(shape)}"
        for name, shape in allowed.items()
        if name in shapes and tuple(shapes[name]) != tuple(shape)
    ]
    if not (missing or unknown or wrong):
        return
    lines = [f"{source} does not hold this model's weights."]
    for title, names in (("missing", collapse(missing)), ("unknown", collapse(unknown)), ("mis-shaped", wrong)):
        if names:
            lines += [f"  {title} ({len(names)}):", *(f"    {name}" for name in names)]
    lines.append("  Give the model this file belongs to, or download it again (01-download_models.py).")
    raise UserError("\n".join(lines))


def collapse(names: Iterable[str]) -> list[str]:
    """Names that differ in one number only, as one line: `layers.{0..17}.norm` (nothing is left out)."""
    groups: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"(?<=[._])\d+(?=[./])", name)
        key = name if number is None else name[: number.start()] + "\0" + name[number.end() :]
        groups.setdefault(key, []).append(-1 if number is None else int(number.group()))
    lines = []
    for key, numbers in groups.items():
        numbers.sort()
        run = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
        shown = f"{{{numbers[0]}..{numbers[-1]}}}" if run else "{" + ",".join(map(str, numbers)) + "}"
        lines.append(key.replace("\0", shown if len(numbers) > 1 else str(numbers[0])))
    return lines


def stream(
    lazy: Mapping[str, Lazy], table: Sequence[TensorMap], dtype: Any = None, source: str = "the file"
) -> Iterator[tuple[str, np.ndarray]]:
    """Our tensors one after the other, converted to `dtype` (None: as in the file), a layer at a time.

    Beside the tensor that is being made, no more than one layer of it or CHUNK elements is held, so that a caller who
    sends each tensor to a device as it comes needs the memory of the largest one only.
    """
    check({name: tensor.shape for name, tensor in lazy.items()}, table, source)
    for row in table:
        yield row.path, read(lazy, row, dtype, source)


def read(lazy: Mapping[str, Lazy], row: TensorMap, dtype: Any = None, source: str = "the file") -> np.ndarray:
    """One of our tensors out of a file that was checked (`check`)."""
    first = lazy[next(iter(row.in_file()))]
    if row.tied and row.tied in lazy:
        _same(lazy[row.file], lazy[row.tied], row, source)
    out = np.empty(row.ours, np.dtype(dtype) if dtype is not None else first.dtype)
    for layer in range(max(row.layers, 1)):
        tensor = lazy[row.name(layer)]
        _fill(tensor, row, 0 if row.split else layer, out[layer] if row.layers else out)
    return out


def read_layer(lazy: Mapping[str, Lazy], row: TensorMap, layer: int) -> np.ndarray:
    """One layer of our tensor (a tensor without layers: all of it, as layer 0), in the file's dtype."""
    tensor = lazy[row.name(layer)]
    out = np.empty(row.shape, tensor.dtype)
    _fill(tensor, row, 0 if row.split else layer, out)
    return out


def _fill(tensor: Lazy, row: TensorMap, layer: int, out: np.ndarray) -> None:
    layout, inner = row.layout, math.prod(row.layout.file[1:])
    start = layer * math.prod(layout.file) + layout.rows[0] * inner
    size = math.prod(layout.part)
    if not layout.plain:
        turned = layout.to_ours(tensor.read(start, start + size).reshape(layout.part), row.shape)
        if out.ndim != 2 or layout.order != (1, 0):
            out[...] = turned
            return
        if turned.dtype == out.dtype:  # as plain bits: NumPy copies bfloat16 number by number
            bits = np.dtype(f"u{out.itemsize}")
            turned, out = turned.view(bits), out.view(bits)
        # A whole matrix turned at once jumps a page at every number: squares stay in the processor's cache.
        for top in range(0, out.shape[0], SQUARE):
            for left in range(0, out.shape[1], SQUARE):
                here = np.s_[top : top + SQUARE, left : left + SQUARE]
                out[here] = turned[here]
        return
    flat = out.reshape(-1)  # a view: `out` is contiguous
    for at in range(0, size, CHUNK):
        end = min(at + CHUNK, size)
        if tensor.dtype == flat.dtype:
            tensor.read(start + at, start + end, flat[at:end])
        else:
            flat[at:end] = tensor.read(start + at, start + end)


def _same(tensor: Lazy, copy: Lazy, row: TensorMap, source: str) -> None:
    size = math.prod(tensor.shape)
    for at in range(0, size, CHUNK):
        end = min(at + CHUNK, size)
        if tensor.read(at, end).tobytes() != copy.read(at, end).tobytes():
            raise UserError(
                f"{source}: {row.tied} differs from {row.file}, but this model uses one tensor for both, so the file's "
                f"second one would be lost. It was fine-tuned untied; use the original model instead."
            )


def load_tree(
    lazy: Mapping[str, Lazy], table: Sequence[TensorMap], dtype: Any = None, source: str = "the file"
) -> dict:
    """All of our tensors as nested dicts of NumPy arrays."""
    return nest(stream(lazy, table, dtype, source))


def nest(items: Iterable[tuple[str, Any]]) -> dict:
    tree: dict = {}
    for path, leaf in items:
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return tree


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def to_file(tree: Mapping, table: Sequence[TensorMap], dtype: Any = None) -> dict[str, Pieces]:
    """The tree in the file's names and shapes, ready to be written a layer at a time (`dtype` None: as it is).

    Leaves may be NumPy or JAX arrays; a JAX array is brought to the host one layer at a time.
    """
    check_map(table)
    flat = flatten(tree)
    if problems := [f"missing {row.path}" for row in table if row.path not in flat]:
        raise ValueError(f"the tree does not match its map: {', '.join(problems)}")
    if extra := sorted(flat.keys() - {row.path for row in table}):
        raise ValueError(f"the tree does not match its map: unknown {', '.join(extra)}")
    if wrong := [row.path for row in table if tuple(flat[row.path].shape) != row.ours]:
        raise ValueError(f"the tree does not match its map: mis-shaped {', '.join(wrong)}")
    entries: dict[str, Pieces] = {}
    for group in _sharing(table):
        kind = np.dtype(dtype) if dtype is not None else np.dtype(flat[group[0].path].dtype)
        leaves = [(row, flat[row.path]) for row in group]
        for number, (name, shape) in enumerate(group[0].in_file().items()):
            numbers = [number] if group[0].split else range(max(group[0].layers, 1))
            entries[name] = Pieces(shape, kind, _pieces(leaves, numbers, kind))
    return entries


def _pieces(leaves: list[tuple[TensorMap, Any]], numbers: Iterable[int], kind: np.dtype) -> Callable:
    def chunks() -> Iterator[np.ndarray]:
        for number in numbers:
            for row, leaf in leaves:
                ours = leaf[number] if row.layers else leaf
                if row.layout.plain:
                    flat = ours.reshape(-1)
                    for at in range(0, flat.shape[0], CHUNK):
                        yield np.ascontiguousarray(np.asarray(flat[at : at + CHUNK]).astype(kind, copy=False))
                else:
                    turned = row.layout.to_file(np.asarray(ours)).reshape(-1)
                    yield np.ascontiguousarray(turned.astype(kind, copy=False))

    return chunks
