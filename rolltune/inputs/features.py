"""Rows of features: what a frozen tower makes of each picture, computed once. On the disk where there are many."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rolltune.base import Model
from rolltune.batch import NOTHING, Source
from rolltune.data.batches import prefetch
from rolltune.data.files import sha256_of
from rolltune.data.views import UNTOUCHED, View
from rolltune.inputs import disk
from rolltune.inputs.disk import Files
from rolltune.inputs.feeds import DiskFeed, TableFeed, TileFeed
from rolltune.inputs.pictures import Key, Pictures
from rolltune.models import forward
from rolltune.models.cut import mesh_in, specs_of
from rolltune.models.forward import Network
from rolltune.sharding import CARDS, WHOLE, anywhere, by_rolls, cards_in_group, fetched, joined, on_all, own_rows
from rolltune.tracking import progress

VERSION = 2  # to be raised when opening, resizing or the tower change what comes out for the same picture
TILES_AT_ONCE = 8
TABLE_MULTIPLE = 2048  # rows: eight pictures of the most usual size


def compute(
    model: Model, params: dict, pictures: Pictures, keys: Sequence[Key], projected: bool
) -> Iterator[tuple[Key, np.ndarray]]:
    """(key, its rows that are used [u, C], or [u, D] past the projector); a few pictures of as many tiles at once.

    Where hosts share a base, each opens the pictures that its own cards show, and all are given all rows.
    """
    mesh = mesh_in(params)
    run, cards = program(model, projected, mesh), cards_in_group(mesh)
    by_tiles: dict[int, list[Key]] = collections.defaultdict(list)
    for key in keys:
        by_tiles[pictures.tiles(key)].append(key)

    needed = {name: part for name, part in params.items() if name != "text"}
    for count, some in by_tiles.items():
        size = -(-at_once(count) // cards) * cards
        here = own_rows(mesh, size)
        parts = [some[begin : begin + size] for begin in range(0, len(some), size)]
        mine = [part[here.start : here.stop] or part[-1:] for part in parts]
        opened = prefetch(pictures.open, [key for part in mine for key in part])
        for now, shown in zip(parts, mine, strict=True):
            tiles = [next(opened) for _ in shown]
            tiles += [tiles[-1]] * (len(here) - len(shown))
            values = np.stack([one.pixels for one in tiles]), np.array([[one.aspect] for one in tiles], np.int32)
            rows = fetched(run(needed, *joined(values, mesh, PartitionSpec(CARDS))))
            for key, own in zip(now, rows, strict=False):
                yield key, own[pictures.places[key].used]


def program(model: Model, projected: bool, mesh: Mesh | None = None) -> Callable[..., Any]:
    """The jitted tower: (parameters without the decoder's, tiles [B, N, h, w, 3], aspect [B, 1]) -> rows. Where the
    parameters are cut over cards, so is B."""
    return _program(Network(model.family, model.config), projected, mesh)


@functools.cache  # once for all calls: a page asks for a picture or two at a time
def _program(net: Network, projected: bool, mesh: Mesh | None) -> Callable[..., Any]:
    def run(params: dict, tiles: Any, aspect: Any) -> Any:
        rows = forward.feature_rows(net, params, tiles, aspect)
        return net.family.project(net.config, params, rows) if projected and net.family.project else rows

    own = PartitionSpec(CARDS)
    return by_rolls(run, mesh, (WHOLE,) * 3, lambda params, tiles, aspect: ((specs_of(params), own, own), own), own)


def at_once(tiles: int) -> int:
    """How many pictures of so many tiles go through the tower together."""
    return max(1, TILES_AT_ONCE // tiles)


def table(model: Model, params: dict, pictures: Pictures, projected: bool) -> TableFeed:
    """Every picture's rows, one after the other, on the device; filled up, so that few pictures are one shape."""
    lengths = {key: len(places.used) for key, places in pictures.places.items()}
    ends = np.cumsum(list(lengths.values()))
    starts = {key: int(end) - length for (key, length), end in zip(lengths.items(), ends, strict=True)}
    values = np.zeros((rows_of_table(pictures), width_of(model, projected)), jnp.dtype(model.config.dtype))
    for key, own in progress(
        compute(model, params, pictures, list(lengths), projected), "image features", len(lengths)
    ):
        values[starts[key] : starts[key] + len(own)] = own
    return TableFeed(model.family.learned_count, Source(on_all(values, mesh_in(params))), starts)


def files(model: Model, params: dict, pictures: Pictures, projected: bool) -> Files | None:
    """Every picture's rows as files: those that are missing are computed first. None, and a note, without the room."""
    keys = list(pictures.places)
    return disk.keep(
        disk.About("features", "image features", model.base.name, made_by(model, projected)),
        names=content(keys),
        lengths={key: len(places.used) for key, places in pictures.places.items()},
        width=width_of(model, projected),
        dtype=jnp.dtype(model.config.dtype),
        compute=lambda missing: compute(model, params, pictures, missing, projected),
        on_some=lambda flags: anywhere(flags, mesh_in(params)),
    )


def feed(
    model: Model, params: dict, pictures: Pictures, projected: bool, in_step: bool, limit_gib: float
) -> TableFeed | DiskFeed | TileFeed:
    """Rows in a table on the device up to `limit_gib`, else on the disk; tiles where the tower runs in the step anyway,
    or where neither has room."""
    learned = model.family.learned_count
    if not pictures.places:
        return TableFeed(learned, NOTHING, {})
    if in_step:
        return TileFeed(learned, pictures)
    if in_table(model, pictures, projected, limit_gib):
        return table(model, params, pictures, projected)
    kept = files(model, params, pictures, projected)
    return TileFeed(learned, pictures) if kept is None else DiskFeed(learned, kept)


def rows_of_table(pictures: Pictures) -> int:
    rows = sum(len(places.used) for places in pictures.places.values())
    return -(-rows // TABLE_MULTIPLE) * TABLE_MULTIPLE


def bytes_of(model: Model, pictures: Pictures, projected: bool) -> int:
    """What the rows of all pictures take."""
    rows = sum(len(places.used) for places in pictures.places.values())
    return rows * width_of(model, projected) * jnp.dtype(model.config.dtype).itemsize


def in_table(model: Model, pictures: Pictures, projected: bool, limit_gib: float) -> bool:
    return bytes_of(model, pictures, projected) <= limit_gib * 2**30


def width_of(model: Model, projected: bool) -> int:
    assert model.family.feature_width
    return model.config.text.width if projected else model.family.feature_width(model.config)


def made_by(model: Model, projected: bool) -> dict[str, Any]:
    """All that decides what comes out for a picture. The hash is of all weights, tower and projector among them; a
    float32 run feels what the hash, which is of their bfloat16 values, does not: it has files of its own, and so has a
    tower that was quantized while it was loaded."""
    config = dataclasses.asdict(model.config)
    config.pop("text")
    words = {path: word for path, word in model.quantized.items() if not path.startswith("text/")}
    said = {"version": VERSION, "weights": model.base.hash, "exact": model.exact, "projected": projected}
    return said | config | ({"quantized": words} if words else {})


def content(keys: Sequence[Key]) -> dict[Key, str]:
    """A name for what each picture shows: of its file's bytes, of the frame, and of how it is changed."""
    paths = list(dict.fromkeys(key.path for key in keys))
    digests = dict(zip(paths, progress(prefetch(sha256_of, paths), "looking at images", len(paths)), strict=True))
    return {key: shown_name(digests[key.path], key.frame, key.view) for key in keys}


def shown_name(digest: str, frame: int | None, view: View = UNTOUCHED) -> str:
    name = digest if frame is None else f"{digest}.frame{frame}"
    return name if view == UNTOUCHED else f"{name}.{view.name}"
