"""How what rows show reaches the step: out of a table on the device, from the disk, or as tiles for the tower."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rolltune.batch import NOTHING, Batch, Row, Source
from rolltune.data.batches import collate
from rolltune.data.shapes import Shape, shape_of
from rolltune.inputs.disk import Files
from rolltune.inputs.pictures import Key, Pictures


def _keys(row: Row) -> tuple[Key, ...]:
    """The pictures of a row that points at no states."""
    return row.pictures  # type: ignore[return-value]


def _beginning_at(row: Row, starts: Mapping[Any, int]) -> np.ndarray:
    """Where each of a row's own picture rows is, if those of a picture begin at its start."""
    if len(row.pictures) == 1:
        return starts[row.pictures[0]] + np.arange(row.counts[0])
    return np.concatenate([starts[key] + np.arange(count) for key, count in zip(row.pictures, row.counts, strict=True)])


@dataclass(frozen=True)
class TableFeed:
    """All rows lie in one table on the device. Without any, rows are text alone."""

    learned: int
    source: Source
    starts: Mapping[Any, int]  # of a picture's key, or a row's name

    def shape(self, row: Row) -> Shape:
        return shape_of(row)

    def make(self, rows: Sequence[Row], shape: Shape, size: int) -> tuple[Batch, Source]:
        return collate(rows, shape, size, self.learned, lambda row: _beginning_at(row, self.starts)), self.source


@dataclass(frozen=True)
class DiskFeed:
    """Each step brings the rows of its own pictures, read from files."""

    learned: int
    files: Files

    def shape(self, row: Row) -> Shape:
        return shape_of(row, rows=sum(row.counts))

    def make(self, rows: Sequence[Row], shape: Shape, size: int) -> tuple[Batch, Source]:
        starts: dict[Hashable, int] = {}
        values = np.zeros((size * shape.rows, self.files.width), self.files.dtype)
        end = 0
        for key, count in ((key, n) for row in rows for key, n in zip(row.pictures, row.counts, strict=True)):
            if key not in starts:
                starts[key], end = end, end + count
                values[starts[key] : end] = self.files.read(key)
        return collate(rows, shape, size, self.learned, lambda row: _beginning_at(row, starts)), Source(values)


@dataclass(frozen=True)
class TileFeed:
    """Each step brings decoded pictures, and the tower runs in it."""

    learned: int
    pictures: Pictures
    _decoded: dict[Key, Any] = field(default_factory=dict, repr=False, compare=False)  # up to KEPT_BYTES of them

    KEPT_BYTES = 2**30

    def shape(self, row: Row) -> Shape:
        tiles = sum(self.pictures.tiles(key) for key in _keys(row))
        return shape_of(row, tiles=tiles)

    def make(self, rows: Sequence[Row], shape: Shape, size: int) -> tuple[Batch, Source]:
        batch = collate(rows, shape, size, self.learned, self._places)
        if not shape.tiles:
            return batch, NOTHING
        opened = [[self._open(key) for key in row.pictures] for row in rows]
        filled = [*opened, *[opened[-1]] * (size - len(rows))]
        # Rows without pictures in a shape that has tiles bring empty ones, as large as any picture's.
        some_picture = lambda: self._open(next(iter(self.pictures.places))).pixels
        shown = [tiles.pixels for some in opened for tiles in some] or [some_picture()]
        values = np.zeros((size, shape.tiles, *shown[0].shape[1:]), np.result_type(*shown))
        aspect = np.zeros((size, shape.pictures), np.int32)
        for place, some in enumerate(filled):
            if some:
                joined = np.concatenate([tiles.pixels for tiles in some])
                values[place, : len(joined)] = joined
                aspect[place, : len(some)] = [tiles.aspect for tiles in some]
        return batch._replace(tiles=values, aspect=aspect), NOTHING

    def _places(self, row: Row) -> np.ndarray:
        """A row's pictures keep some of their rows; here all rows of all tiles lie one after the other."""
        found, before = [], 0
        for key in _keys(row):
            found.append(before + self.pictures.places[key].used)
            before += self.pictures.tiles(key) * self.pictures.tile_rows
        return np.concatenate(found)

    def _open(self, key: Any) -> Any:
        known = self._decoded.get(key)
        if known is None:
            known = self.pictures.open(key)
            # Nothing is put out again: in a round through all rows, what was used longest ago is needed next.
            if (len(self._decoded) + 1) * known.pixels.nbytes <= self.KEPT_BYTES:
                self._decoded[key] = known
        return known
