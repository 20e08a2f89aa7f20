"""Every picture of the data: which places of a text its rows take, known from its size, and how it is opened."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rolltune.data.batches import prefetch
from rolltune.data.examples import Example
from rolltune.data.images import image_size, open_image
from rolltune.data.views import UNTOUCHED, View
from rolltune.models.family import Family, Size, Tiles
from rolltune.tracking import progress

NO_KEYS = np.zeros(0, np.int32)


class Key(NamedTuple):
    """What is shown: an image file, its frame, and how it is changed for training."""

    path: Path
    frame: int | None = None
    view: View = UNTOUCHED


class Places(NamedTuple):
    """Where a picture's rows stand. `slots` and `keys` count the rows that are used, not all that the tower makes."""

    slots: np.ndarray  # int32 [p]; -1 a token | 0..E-1 learned | E+i row i of those used
    keys: np.ndarray  # int32 [x]; E+i
    used: np.ndarray  # int64 [u]; the rows of the tower's output that some slot or key means


@dataclasses.dataclass(frozen=True)
class Pictures:
    family: Family
    config: Any
    sizes: Mapping[Key, Size]
    places: Mapping[Key, Places]

    @property
    def tile_rows(self) -> int:
        return self.family.tile_rows(self.config) if self.family.tile_rows else 0

    def tiles(self, key: Key) -> int:
        assert self.family.tiles
        return self.family.tiles(self.config, self.sizes[key])

    def open(self, key: Key) -> Tiles:
        assert self.family.picture
        return self.family.picture(self.config, key.view.of(open_image(key.path, key.frame)))


def keys_of(example: Example) -> list[Key]:
    return list(map(Key, example.images, example.frames or (None,) * len(example.images)))


def read_pictures(family: Family, config: Any, examples: Sequence[Example]) -> Pictures:
    """The pictures of these rows, each once. Reads their headers, decodes none."""
    keys = list(dict.fromkeys(key for example in examples for key in keys_of(example)))
    found = prefetch(lambda key: image_size(key.path, key.frame), keys)
    sizes = dict(zip(keys, progress(found, "looking at images", len(keys)), strict=True))
    by_size = {size: places_of(family, config, size) for size in set(sizes.values())}
    return Pictures(family, config, sizes, {key: by_size[size] for key, size in sizes.items()})


def with_views(pictures: Pictures, keys: Collection[Key], views: Sequence[View]) -> Pictures:
    """Beside the pictures, these views of those of `keys`: each takes the places of its picture, whose size it has."""
    of = {key._replace(view=view): key for view in views for key in keys}
    sizes = {own: pictures.sizes[key] for own, key in of.items()}
    places = {own: pictures.places[key] for own, key in of.items()}
    return dataclasses.replace(pictures, sizes={**pictures.sizes, **sizes}, places={**pictures.places, **places})


def places_of(family: Family, config: Any, size: Size) -> Places:
    """A family's slots and keys for a picture of that size, with the rows that nothing means left out."""
    assert family.slots
    learned = family.learned_count
    slots = family.slots(config, size)
    keys = family.keys(config, size) if family.keys else NO_KEYS
    used = np.unique(np.concatenate([slots[slots >= learned], keys]) - learned)
    renumber = lambda x: np.where(x >= learned, learned + np.searchsorted(used, x - learned), x).astype(np.int32)
    return Places(renumber(slots), renumber(keys), used)
