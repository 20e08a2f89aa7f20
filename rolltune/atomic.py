"""Files are written aside and renamed, so that a kill at any moment leaves the earlier file whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rolltune import plain_json
from rolltune.errors import UserError


@contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """Yields a path to write to; it takes the place of `path` when the block ends without an error.

    The yielded path has the same file name, in a fresh hidden folder beside `path`: the same file
    system, so the rename is one step, and no glob such as `checkpoints/*.npz` meets a half-written
    file. After an error, nothing is left and `path` is as it was. A process that is killed leaves
    the hidden folder `.NAME.*.part`, which can be deleted. A symbolic link stays one: its target
    is replaced.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        part = folder / target.name
        yield part
        # Without this a power cut can leave the new name on an empty file.
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(folder)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yields a fresh folder beside `path` that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    old = part.with_suffix(".old")
    try:
        yield part
        os.chmod(part, 0o777 & ~_umask())
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(part, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone already where the rename worked
    if old.exists():
        shutil.rmtree(old)


def check_folder(folder: Path) -> None:
    """Raises UserError where nothing can be written in this folder: before hours of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "look whose it is, and what is mounted there" if folder.is_dir() else "move away what has its name"
        raise UserError(f"{folder}: nothing can be written there ({error.strerror}); {advice}") from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder; its rename is journalled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: str | Path, data: bytes) -> None:
    with aside(path) as part:
        part.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: object) -> None:
    """Indented, for people to read; what is not finite becomes a string (see `plain_json`)."""
    write_text(path, plain_json.dumps(value, indent=2) + "\n")
