"""Image features: what a frozen tower makes of each picture, worked out once. On the disk where there are many."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rolltune.base import Model
from rolltune.data.batches import prefetch
from rolltune.data.files import sha256_of
from rolltune.inputs import disk
from rolltune.inputs.disk import Stored
from rolltune.tracking import progress

Key = tuple[Path, int | None]  # an image file and its frame
VERSION = 1  # to be raised when opening, resizing or the tower change what comes out for the same picture


def work_out(model: Model, pictures: Iterable[np.ndarray], count: int, batch: int = 8) -> Iterator[jax.Array]:
    """Features [n, P, D] of `count` decoded pictures, a few at a time, in one shape."""
    run = jax.jit(lambda params, pixels: model.family.image_features(model.config, params, pixels[:, None]))
    tower = {name: model.params[name] for name in ("vision", "projector")}
    coming = iter(pictures)
    for begin in range(0, count, batch):
        some = [next(coming) for _ in range(min(batch, count - begin))]
        filled = np.stack(some + [some[-1]] * (batch - len(some)))
        yield run(tower, filled)[: len(some)]


def on_disk(model: Model, keys: Sequence[Key], decode: Callable[[Key], np.ndarray]) -> dict[Key, Stored] | None:
    """Every picture's features as files: those that lack are worked out first. None, and a note, without the room."""
    config = model.config

    def make(lacking: list[Key]) -> Iterator[tuple[Key, np.ndarray]]:
        made = work_out(model, prefetch(decode, lacking), len(lacking))
        return zip(lacking, (one for some in made for one in np.asarray(some)), strict=True)

    return disk.keep(
        "features",
        model,
        made_by(model),
        names=content(keys),
        lengths=dict.fromkeys(keys, config.image_tokens),
        shape=(config.image_tokens, config.text.width),
        dtype=jnp.dtype(config.dtype),
        work_out=make,
        what="image features",
    )


def made_by(model: Model) -> dict[str, Any]:
    """All that decides what comes out for a picture. The hash is of all weights, tower and projector among them."""
    config = model.config
    sizes = dataclasses.asdict(config.vision)
    return {"version": VERSION, "weights": model.base.hash, "resize": config.resize, "dtype": config.dtype, **sizes}


def content(keys: Sequence[Key]) -> dict[Key, str]:
    """A name for what each picture shows: of its file's bytes, and of the frame."""
    paths = list(dict.fromkeys(path for path, _ in keys))
    digests = dict(zip(paths, progress(prefetch(sha256_of, paths), "looking at images", len(paths)), strict=True))
    return {(path, frame): frame_name(digests[path], frame) for path, frame in keys}


def frame_name(digest: str, frame: int | None) -> str:
    return digest if frame is None else f"{digest}.frame{frame}"
