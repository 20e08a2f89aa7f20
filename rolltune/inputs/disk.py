"""What frozen layers make of the data, kept on the disk: worked out once, for all later runs.

It lies in `cache_folder()/KIND/WHAT_MADE_IT/NAME`, one file a picture or row: the numbers [N, D] as they are, in the
model's dtype, no header. `about.json` beside them says in words what made them. Nothing is ever changed in place: what
was made of something else, or by another model, has another name. Any of it may be deleted between runs.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rolltune import atomic
from rolltune.base import Model, cache_folder
from rolltune.data.batches import prefetch
from rolltune.errors import UserError
from rolltune.tracking import note, progress

SPARE = 2**30  # bytes of the disk that are left to others
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Stored:
    """Some files' numbers [I, N, D], read when a batch is made of them: `np.asarray(stored)`."""

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]  # rows of [*, D] in each file; the rest of N is filled up with zeros
    shape: tuple[int, int]  # N, D
    dtype: Any

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def nbytes(self) -> int:
        return len(self) * size_of(self.shape, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.zeros((len(self), *self.shape), self.dtype)
        for place, (path, length) in enumerate(zip(self.paths, self.lengths, strict=True)):
            try:
                read = np.fromfile(path, self.dtype)
            except FileNotFoundError:
                read = np.empty(0)
            if read.size != length * self.shape[1]:
                raise UserError(f"{path}: it was deleted or changed during the run; start it again")
            values[place, :length] = read.reshape(length, -1)
        return values if dtype is None else values.astype(dtype)


def size_of(shape: Sequence[int], dtype: Any) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def keep(
    kind: str,
    model: Model,
    made_by: dict[str, Any],
    names: Mapping[Key, str],
    lengths: Mapping[Key, int],
    shape: tuple[int, int],
    dtype: Any,
    work_out: Callable[[list[Key]], Iterable[tuple[Key, np.ndarray]]],
    what: str,
) -> dict[Key, Stored] | None:
    """The arrays [length, D] of these keys as files, to be read as [N, D] (`shape`).

    Those that lack are worked out first: `work_out(keys)` gives (key, array) in any order. None, and a note that names
    `what`, where the disk has no room for them.

    Raises UserError where the folder cannot be written.
    """
    hashed = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder() / kind / hashed
    files = {key: folder / name for key, name in names.items()}
    sizes = {key: size_of((length, shape[1]), dtype) for key, length in lengths.items()}
    lacking = {file: key for key, file in files.items() if not file.is_file() or file.stat().st_size != sizes[key]}
    needed = sum(sizes[key] for key in lacking.values())
    try:
        atomic.write_json(folder / "about.json", {"model": model.base.name} | made_by)
        free = shutil.disk_usage(folder).free
        if lacking and needed + SPARE > free:
            note(
                f"{what} take {needed / 2**30:.1f} GiB ({len(lacking)} files) and {folder} has {free / 2**30:.1f} GiB "
                "free: they are worked out anew for each batch, which is slower. Make room there, or name a folder on "
                "a larger disk: ROLLTUNE_CACHE=/path"
            )
            return None
        save = lambda pair: atomic.write_bytes(files[pair[0]], pair[1].tobytes())
        # Each is waited for as it is brought to the disk: on threads, the device goes on meanwhile.
        written = prefetch(save, work_out(list(lacking.values()))) if lacking else iter(())
        for _ in progress(written, what, len(lacking)):
            pass
    except OSError as error:
        raise UserError(f"{folder}: {what} cannot be kept there ({error}); ROLLTUNE_CACHE=/path") from error
    return {key: Stored((file,), (lengths[key],), shape, dtype) for key, file in files.items()}
