"""What frozen layers make of the data, kept on the disk: computed once, for all later runs.

It lies in `cache_folder()/KIND/WHAT_MADE_IT/NAME`, one file a picture or row: the numbers [N, C] as they are, in the
model's dtype, then a CRC-32 of the file's name and of them in four bytes. `about.json` beside them says in words what
made them. Nothing is ever changed in place: what was made of something else, or by another model, has another name. Any
of it may be deleted between runs.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rolltune import atomic
from rolltune.data.batches import prefetch
from rolltune.device import cache_folder
from rolltune.errors import UserError
from rolltune.tracking import note, progress

SPARE = 2**30  # bytes of the disk that are left to others
CHECKSUM = 4  # bytes


@dataclass(frozen=True)
class Files:
    """Numbers [N, width] of each key, read and checked when a batch is made of them."""

    paths: Mapping[Hashable, Path]
    lengths: Mapping[Hashable, int]
    width: int
    dtype: Any

    def read(self, key: Hashable) -> np.ndarray:
        path = self.paths[key]
        found = _read(path, self.lengths[key] * self.width * np.dtype(self.dtype).itemsize)
        if found is None:
            raise UserError(f"{path}: it was deleted or damaged during the run; start it again, it is computed anew")
        return found.view(self.dtype).reshape(-1, self.width)


@dataclass(frozen=True)
class About:
    """What is kept: `kind` is its folder, `what` its name in words; `made_by` decides what comes out."""

    kind: str
    what: str
    model: str
    made_by: Mapping[str, Any]


def keep(
    about: About,
    names: Mapping[Any, str],
    lengths: Mapping[Any, int],
    width: int,
    dtype: Any,
    compute: Callable[[list[Any]], Iterable[tuple[Any, np.ndarray]]],
    on_some: Callable[[np.ndarray], np.ndarray] = lambda flags: flags,
) -> Files | None:
    """The arrays [length, width] of these keys as files, by the names of what they are made of.

    Those that are missing or damaged are computed first: `compute(keys)` gives (key, array) in any order. None, and a
    note, where the disk has no room for them. Hosts that compute together do so for what one of them lacks, or none
    has them on its disk: `on_some` says which of some flags are so on any of them.

    Raises UserError where the folder cannot be written.
    """
    hashed = hashlib.sha256(json.dumps(about.made_by, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder() / about.kind / hashed
    files = {key: folder / name for key, name in names.items()}
    sizes = {key: length * width * np.dtype(dtype).itemsize for key, length in lengths.items()}
    there = [key for key, file in files.items() if file.is_file()]
    checked = prefetch(lambda key: _read(files[key], sizes[key]) is not None, there)
    whole = dict(zip(there, progress(checked, f"checking {about.what}", len(there)), strict=True))
    lacking = on_some(np.array([not whole.get(key) for key in files]))
    missing = {file: key for (key, file), lacks in zip(files.items(), lacking, strict=True) if lacks}
    needed = sum(sizes[key] + CHECKSUM for key in missing.values())
    if damaged := sum(not good for good in whole.values()):
        note(f"{folder}: {damaged} files of {about.what} are damaged; they are computed again")
    try:
        atomic.write_json(folder / "about.json", {"model": about.model, **about.made_by})
        free = shutil.disk_usage(folder).free
        if on_some(np.array([bool(missing) and needed + SPARE > free])).any():
            note(
                f"{about.what} take {needed / 2**30:.1f} GiB ({len(missing)} files) and {folder} has "
                f"{free / 2**30:.1f} GiB free: they are computed anew for each batch, which is slower. Make room "
                "there, or name a folder on a larger disk: ROLLTUNE_CACHE=/path"
            )
            return None
        # Each is waited for as it is brought to the disk: on threads, the device goes on meanwhile.
        written = prefetch(lambda pair: _write(files[pair[0]], pair[1]), compute(list(missing.values())))
        for _ in progress(written if missing else iter(()), about.what, len(missing)):
            pass
    except OSError as error:
        advice = "make room there, or name another folder: ROLLTUNE_CACHE=/path"
        raise UserError(f"{folder}: {about.what} cannot be kept there ({error.strerror}); {advice}") from error
    return Files(files, lengths, width, dtype)


def _write(path: Path, array: np.ndarray) -> None:
    data = np.ascontiguousarray(array).tobytes()
    atomic.write_bytes(path, data + _checksum(path, data).to_bytes(CHECKSUM, "little"))


def _checksum(path: Path, data: Any) -> int:
    """Of the file's place as well: another picture's file, copied over this one, does not agree."""
    return zlib.crc32(data, zlib.crc32(f"{path.parent.name}/{path.name}".encode()))


def _read(path: Path, size: int) -> np.ndarray | None:
    """The file's bytes without their checksum; None where it is missing, of another size, or does not agree."""
    try:
        read = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        return None
    if read.size != size + CHECKSUM:
        return None
    data = read[:size]
    return data if _checksum(path, data) == int.from_bytes(read[size:].tobytes(), "little") else None
