"""Image features on the disk, for more pictures than the device's table holds: worked out once, for all later runs.

They lie in `cache_folder()/features/WHAT_MADE_THEM/WHAT_WAS_IN_THE_PICTURE`, one file a picture: the numbers [P, D] as
they are, in the model's dtype, no header. `about.json` beside them says in words what made them. Nothing is ever
changed in place: another picture, frame, size or model has another name. Any of it may be deleted between runs.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rolltune import atomic
from rolltune.base import Model, cache_folder
from rolltune.data.batches import prefetch
from rolltune.data.files import sha256_of
from rolltune.errors import UserError
from rolltune.tracking import note, progress

Key = tuple[Path, int | None]  # an image file and its frame
VERSION = 1  # to be raised when opening, resizing or the tower change what comes out for the same picture
SPARE = 2**30  # bytes of the disk that are left to others


@dataclasses.dataclass(frozen=True)
class Stored:
    """The features [I, P, D] of a row's pictures, read when a batch is made of them: `np.asarray(stored)`."""

    paths: tuple[Path, ...]
    shape: tuple[int, int]  # of one picture
    dtype: Any

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def nbytes(self) -> int:
        return len(self) * size_of(self.shape, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.empty((len(self), *self.shape), self.dtype)
        for place, path in enumerate(self.paths):
            try:
                read = np.fromfile(path, self.dtype)
            except FileNotFoundError:
                read = np.empty(0)
            if read.size != values[place].size:
                raise UserError(f"{path}: these image features were deleted or changed during the run; start it again")
            values[place] = read.reshape(self.shape)
        return values if dtype is None else values.astype(dtype)


def size_of(shape: Sequence[int], dtype: Any) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


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
    config, made_by = model.config, _made_by(model)
    shape, dtype = (config.image_tokens, config.text.width), jnp.dtype(config.dtype)
    size = size_of(shape, dtype)
    folder = cache_folder() / "features" / hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:32]
    paths = list(dict.fromkeys(path for path, _ in keys))
    digests = dict(zip(paths, progress(prefetch(sha256_of, paths), "looking at images", len(paths)), strict=True))
    files = {(path, frame): folder / _name(digests[path], frame) for path, frame in keys}
    lacking = {file: key for key, file in files.items() if not file.is_file() or file.stat().st_size != size}
    try:
        atomic.write_json(folder / "about.json", {"model": model.base.name} | made_by)
        free = shutil.disk_usage(folder).free
        if lacking and len(lacking) * size + SPARE > free:
            note(
                f"the features of {len(lacking)} pictures take {len(lacking) * size / 2**30:.1f} GiB and {folder} has "
                f"{free / 2**30:.1f} GiB free: they are worked out anew for each batch, which is slower. Make room "
                "there, or name a folder on a larger disk: ROLLTUNE_CACHE=/path"
            )
            return None
        _write(model, lacking, decode)
    except OSError as error:
        raise UserError(f"{folder}: image features cannot be kept there ({error}); ROLLTUNE_CACHE=/path") from error
    return {key: Stored((file,), shape, dtype) for key, file in files.items()}


def _write(model: Model, lacking: dict[Path, Key], decode: Callable[[Key], np.ndarray]) -> None:
    decoded = prefetch(decode, lacking.values())
    made = (one for some in work_out(model, decoded, len(lacking)) for one in np.asarray(some))
    save = lambda pair: atomic.write_bytes(pair[0], pair[1].tobytes())
    # Each is waited for as it is brought to the disk: on threads, the tower goes on meanwhile.
    written = prefetch(save, zip(lacking, made, strict=True))
    for _ in progress(written, "image features", len(lacking)):
        pass


def _made_by(model: Model) -> dict[str, Any]:
    """All that decides what comes out for a picture. The hash is of all weights, tower and projector among them."""
    config = model.config
    sizes = dataclasses.asdict(config.vision)
    return {"version": VERSION, "weights": model.base.hash, "resize": config.resize, "dtype": config.dtype, **sizes}


def _name(digest: str, frame: int | None) -> str:
    return digest if frame is None else f"{digest}.frame{frame}"
