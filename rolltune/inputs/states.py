"""States below the first trained layer: computed once for each row, then its slots point at them."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rolltune.base import Model
from rolltune.batch import Row, Source
from rolltune.data.batches import Encoded, evaluation_batches
from rolltune.data.shapes import shapes_for
from rolltune.inputs import disk, features
from rolltune.inputs.disk import Files
from rolltune.inputs.feeds import DiskFeed, TableFeed
from rolltune.models import forward
from rolltune.models.cut import mesh_in, specs_of
from rolltune.models.forward import Network
from rolltune.sharding import CARDS, WHOLE, anywhere, by_rolls, cards_in_group, fetched, on_all, sent
from rolltune.tracking import note, progress
from rolltune.trees import CROSS


def keep(
    model: Model, net: Network, base: dict, encoded: Encoded, first: int, batch: int, limit_gib: float
) -> Encoded | None:
    """Rows that point at what the layers in `text/lower` make of them, all computed here.

    The rows are kept whole, answers included, since no layer below the first trained one ever changes. Up to
    `limit_gib` they stay on the device; more lie on the disk, and each step brings its own. Where layers of
    cross-attention stand above `first`, the rows of the pictures stay beside the states, in the same table.

    None, and a note, where there is no room: then each step runs the lower layers.
    """
    width, dtype = model.config.text.width, jnp.dtype(model.config.dtype)
    crossing, in_memory = placing(model, encoded, first, limit_gib)
    places = _first_places(encoded)
    if crossing and not isinstance(encoded.feed, TableFeed if in_memory else DiskFeed):
        note(
            "states of lower layers are not kept: they and the pictures' rows, which are needed beside them, differ in "
            "where they fit; --config.table_gib says what may stay on the device"
        )
        return None
    names = list(map(str, places)) if in_memory else row_names(encoded.rows)
    lengths = {name: len(row.tokens) for name, row in zip(names, encoded.rows, strict=True)}
    place_of = {name: place for place, name in enumerate(names)}
    mesh = mesh_in(base)
    run = program(net, mesh)

    def compute(missing: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        some = dataclasses.replace(encoded, rows=[encoded.rows[place_of[name]] for name in missing], labels=())
        for numbers, inputs, source in evaluation_batches(some, batch, cards_in_group(mesh)):
            states = fetched(run(base, sent(inputs, mesh, PartitionSpec(CARDS)), source))
            for number, own in zip(numbers, states, strict=False):  # more states than numbers: the batch was filled up
                yield missing[number], own[: lengths[missing[number]]]

    learned = model.family.learned_count
    feed: TableFeed | DiskFeed
    if in_memory:
        starts = dict(zip(lengths, np.cumsum([0, *lengths.values()])[:-1].tolist(), strict=True))
        values = np.zeros((sum(lengths.values()), width), dtype)
        for name, own in progress(compute(list(lengths)), "states of lower layers", len(lengths)):
            values[starts[name] : starts[name] + len(own)] = own
        feed = TableFeed(learned, Source(on_all(values, mesh)), starts)
    else:
        made_by = features.made_by(model, net.projected) | {"text": repr(model.config.text), "first_layer": first}
        made_by |= {"quantized": dict(model.quantized)} if model.quantized else {}
        about = disk.About("states", "states of lower layers", model.base.name, made_by)
        on_some = lambda flags: anywhere(flags, mesh)
        files = disk.keep(about, {name: name for name in lengths}, lengths, width, dtype, compute, on_some)
        if files is None:
            return None
        feed = DiskFeed(learned, files)
    if crossing:
        feed = _beside(feed, encoded.feed)
    return pointing(encoded, feed, names, learned, crossing)


def pointing(
    encoded: Encoded, feed: TableFeed | DiskFeed, names: Sequence[str], learned: int, crossing: bool
) -> Encoded:
    rows = [pointing_at_states(row, name, learned, crossing) for row, name in zip(encoded.rows, names, strict=True)]
    shapes = shapes_for([feed.shape(row) for row in rows])  # the same tokens, but other rows of each step's own
    return dataclasses.replace(encoded, rows=rows, feed=feed, shapes=shapes)


def placing(model: Model, encoded: Encoded, first: int, limit_gib: float) -> tuple[bool, bool]:
    """(whether the rows of the pictures have to stay beside the states, whether the states stay on the device)."""
    crossing = any(number >= first for number in model.stacks.get(CROSS, ()))
    total = sum(len(encoded.rows[place].tokens) for place in set(_first_places(encoded)))
    size = total * model.config.text.width * jnp.dtype(model.config.dtype).itemsize
    return crossing, size <= limit_gib * 2**30


def _first_places(encoded: Encoded) -> list[int]:
    """Of each row, the first place in which it stands: a row that stands in several is kept once."""
    first_of: dict[int, int] = {}
    return [first_of.setdefault(id(row), place) for place, row in enumerate(encoded.rows)]


def program(net: Network, mesh: Mesh | None = None) -> Callable[..., Any]:
    """The jitted layers below the first trained one. Where the base is cut over cards, so are the rows of a batch."""
    own = PartitionSpec(CARDS)
    in_groups = lambda base, some, source: ((specs_of(base), own, WHOLE), own)
    return by_rolls(
        lambda base, some, source: forward.lower_states(net, base, some, source), mesh, (WHOLE,) * 3, in_groups
    )


def _beside(states: TableFeed | DiskFeed, pictures: Any) -> TableFeed | DiskFeed:
    """One feed of both: states first, then the rows of the pictures."""
    if isinstance(states, TableFeed):
        count = states.source.rows.shape[0]
        rows = jnp.concatenate([states.source.rows, pictures.source.rows.astype(states.source.rows.dtype)])
        moved = {key: count + start for key, start in pictures.starts.items()}
        return TableFeed(states.learned, Source(rows), {**states.starts, **moved})
    own, theirs = states.files, pictures.files
    join = lambda a, b: {**a, **b}
    return DiskFeed(
        states.learned, Files(join(own.paths, theirs.paths), join(own.lengths, theirs.lengths), own.width, own.dtype)
    )


def pointing_at_states(row: Row, name: str, learned: int, crossing: bool) -> Row:
    """The row with all of its places in the table of states; with `crossing`, its keys after them."""
    length = len(row.tokens)
    slots = learned + np.arange(length, dtype=np.int32)
    if not crossing:
        nothing = np.zeros(0, np.int32)
        return row._replace(slots=slots, keys=nothing, pictures=(name,), counts=(length,))
    keys = row.keys + np.int32(length)
    return row._replace(slots=slots, keys=keys, pictures=(name, *row.pictures), counts=(length, *row.counts))


def row_names(rows: Sequence[Row]) -> list[str]:
    """A name for all that lower layers see of each row: its pictures, its tokens, and who sees whom."""
    keys: list[Any] = list(dict.fromkeys(key for row in rows for key in row.pictures))
    pictures: Mapping[Any, str] = features.content(keys) if keys else {}
    names = []
    for row in rows:
        seen = hashlib.sha256("\n".join(pictures[key] for key in row.pictures).encode())
        for part in (row.tokens, row.positions, row.blocks, row.segments, row.slots, row.keys, row.seen):
            seen.update(part.tobytes())
        names.append(seen.hexdigest())
    return names
