"""A base that was quantized while it was loaded, kept on the disk: the next start reads a quarter of the bytes.

It lies in `cache_folder()/packed/WHAT_MADE_IT/`: `weights.bin` has the arrays of all leaves one after the other as they
lie on the device, each followed by its CRC-32 in four bytes; `about.json` says what made them, and the digest of the
weights that they were made of. Files are told apart by path, size and time: whoever changes weights under an old time
goes on with the packed ones, which carry the hash of what they are. Any of it may be deleted between runs.
"""

import contextlib
import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from rolltune import atomic
from rolltune.device import cache_folder
from rolltune.sharding import fetched, is_here
from rolltune.tracking import note

VERSION = 1  # to be raised when the same rules give other numbers, or the file another order
SPARE = 2**30  # bytes of the disk that are left to others
CHECKSUM = 4  # bytes
ABANDONED = 24 * 3600  # seconds
ABOUT, WEIGHTS = "about.json", "weights.bin"


def made_of(path: Path, words: Mapping[str, str], shapes: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the numbers: the checkpoint's files, and what becomes of each leaf."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    stat = {str(file.resolve()): [(about := file.stat()).st_size, about.st_mtime_ns] for file in files}
    leaves = {leaf: [words.get(leaf, "keep"), str(jax.tree.leaves(own))] for leaf, own in shapes.items()}
    leaves_hash = hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()
    return {"version": VERSION, "files": stat, "words": sorted(set(words.values())), "leaves": leaves_hash}


def folder_of(said: Mapping[str, Any]) -> Path:
    return cache_folder() / "packed" / hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def read(
    said: Mapping[str, Any], shapes: Mapping[str, Any], put: Callable[[str, Any], Any]
) -> tuple[dict[str, str], dict[str, Any]] | None:
    """(the digests, `put(path, leaf)` of each leaf), or None where nothing is kept, or it is damaged, which is said.

    A leaf comes as a tree of NumPy arrays, of `shapes`' structure.
    """
    folder = folder_of(said)
    try:
        digests = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["digests"]
        with open(folder / WEIGHTS, "rb") as file:
            params = {path: put(path, jax.tree.map(lambda one: _take(file, one), own)) for path, own in shapes.items()}
            if (
                file.read(1)
                or set(digests) != {"hash", "exact"}
                or not all(isinstance(d, str) for d in digests.values())
            ):
                raise ValueError("it says more than it should")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        note(f"{folder}: the packed weights are damaged ({error}); they are made again")
        return None
    return digests, params


def keep(
    said: Mapping[str, Any], shapes: Mapping[str, Any], params: Mapping[str, Any], digests: dict[str, str]
) -> bool:
    """Writes what `read` reads, and says whether it did. Where there is no room, or nothing can be written, that is
    noted and no more. Nothing is kept of a base of which this host has a part."""
    if not all(map(is_here, jax.tree.leaves(dict(params)))):
        return False
    folder = folder_of(said)
    size = sum(leaf.nbytes + CHECKSUM for leaf in jax.tree.leaves(dict(params)))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear(folder.parent)
        free = shutil.disk_usage(folder.parent).free
        if size + SPARE > free:
            note(
                f"the packed weights take {size / 2**30:.1f} GiB and {folder.parent} has {free / 2**30:.1f} GiB free: "
                "they are packed anew at each start. Make room, or name another folder: ROLLTUNE_CACHE=/path"
            )
            return False
        with atomic.folder_aside(folder, replace=True) as aside:
            with open(aside / WEIGHTS, "wb") as file:
                for path, own in shapes.items():
                    for number in range(len(jax.tree.leaves(own))):
                        _give(file, params[path], number)
            (aside / ABOUT).write_text(json.dumps({"digests": digests, "made_of": said}, indent=2), encoding="utf-8")
    except OSError as error:
        note(
            f"{folder}: the packed weights are not kept there ({error.strerror or error}): the next start takes as long"
        )
        return False
    return True


def _clear(folder: Path) -> None:
    """Removes what starts left that were killed while they wrote: gigabytes that nobody reads. One that still writes
    has written within the day."""
    for left in folder.glob(".*.part*"):
        with contextlib.suppress(FileNotFoundError):  # its own start has just given it its name
            written = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
            if time.time() - written > ABANDONED:
                shutil.rmtree(left)


def _give(file: BinaryIO, leaf: Any, number: int) -> None:
    """Writes one of the arrays of a leaf, of all of its layers where they are a list, then the checksum."""
    total = 0
    for layer in leaf if isinstance(leaf, list) else [leaf]:
        data = np.ascontiguousarray(fetched(jax.tree.leaves(layer)[number])).reshape(-1).view(np.uint8)
        total = zlib.crc32(data, total)
        file.write(data)
    file.write(total.to_bytes(CHECKSUM, "little"))


def _take(file: BinaryIO, shape: jax.ShapeDtypeStruct) -> np.ndarray:
    """Raises ValueError for an array that is cut off or does not agree with its checksum."""
    data = np.fromfile(file, np.uint8, int(np.prod(shape.shape)) * shape.dtype.itemsize)
    checksum = file.read(CHECKSUM)
    if len(checksum) < CHECKSUM or zlib.crc32(data) != int.from_bytes(checksum, "little"):
        raise ValueError("a checksum does not agree")
    return data.view(shape.dtype).reshape(shape.shape)
