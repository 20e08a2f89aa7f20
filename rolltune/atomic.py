"""Files are written aside and renamed, so that a kill at any moment leaves the earlier file whole."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rolltune import plain_json
from rolltune.errors import UserError

BEGINNING = 65_536  # bytes of a file by which its kind is known: paths are long
ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
    errno.EFBIG: "the file grew past what this file system or account allows",
    errno.EACCES: "no permission to write there: choose another folder, or change its owner",
    errno.EPERM: "no permission to write there: choose another folder, or change its owner",
    errno.EROFS: "the folder is mounted read-only: choose another one",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "a folder of that name is in the way",
}


class NotWritten(UserError, OSError):
    """Advice for whoever shows it; for whoever knows better what to do, an OSError with its number and file name."""

    def __init__(self, path: Path, cause: OSError) -> None:
        OSError.__init__(self, cause.errno, cause.strerror, str(path))

    def __str__(self) -> str:
        return f"could not write {self.filename}: {ADVICE[self.errno or 0]}. Nothing was changed."


@contextmanager
def aside(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` only when the block ends without an error and it is on the disk.

    It lies beside `path` meanwhile, on the same file system, so that the rename is one step; hidden, with the ending
    ".part", so that no glob for checkpoints meets it. An error removes it, and folders that were made for it; a kill or
    a power cut leaves it behind and the earlier file untouched. A symbolic link stays one: its target is replaced.
    Raises NotWritten where the disk is full or closed to us.
    """
    target = Path(os.path.realpath(path))
    part, missing = _beside(target), _missing(target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            yield file
            # Without this a power cut can leave the new name on an empty file.
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            part.unlink(missing_ok=True)
        _remove_empty(missing)
        _raise_advice(error, Path(path))
        raise


@contextmanager
def folder_aside(folder: str | Path, replace: bool = False) -> Iterator[Path]:
    """The same for a new folder of several files: yields it, to be written to under another name.

    A folder that holds something is refused, unless it is to be replaced: no file system swaps two folders in one step,
    so that a kill in between would leave the earlier one as `.NAME.*.part.old`, and none under its name.
    """
    folder = Path(folder)
    filled = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if filled and not (replace and folder.is_dir()):
        raise UserError(f"{folder} exists and is not an empty folder: choose another name, or move it away first.")
    part, missing = _beside(folder), _missing(folder.parent)
    old = part.with_name(f"{part.name}.old")
    try:
        part.mkdir(parents=True)
        yield part
        for path in [*part.rglob("*"), part]:
            _sync(path)
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(part, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
        _sync(folder.parent)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        _remove_empty(missing)
        _raise_advice(error, folder)
        raise
    if old.exists():
        shutil.rmtree(old)


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.part"


def _missing(folder: Path) -> list[Path]:
    """The folders that have to be made for this one, itself first."""
    return [one for one in (folder, *folder.parents) if not os.path.lexists(one)]


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # somebody else has written there meanwhile
        for folder in folders:
            folder.rmdir()


def _sync(path: Path) -> None:
    """Makes what was written, or a folder's renames, last through a power cut."""
    if path.is_dir() and os.name != "posix":  # Windows cannot open a folder; its rename is journalled
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # some mounted file systems refuse this
            raise
    finally:
        os.close(handle)


def _raise_advice(error: BaseException, path: Path) -> None:
    """Turns the errors of a full or closed disk into NotWritten; other errors are left to the caller."""
    if isinstance(error, OSError) and not isinstance(error, UserError) and error.errno in ADVICE:
        raise NotWritten(path, error) from error


def check_folder(folder: Path) -> None:
    """Raises UserError where nothing can be written in this folder: before hours of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "look whose it is, and what is mounted there" if folder.is_dir() else "move away what has its name"
        raise UserError(f"{folder}: nothing can be written there ({error.strerror}); {advice}") from error


def check_result(path: Path, begins: str, flag: str = "") -> None:
    """Raises UserError where a result can't be written into this file, or would take the place of another kind of file:
    before the work, and before a person's data is replaced by what was made of it. Nothing is written.

    `begins` is a pattern of how such results begin: an earlier one may be replaced. `flag` is what names another file.
    """
    if path.is_dir():
        raise NotWritten(path, IsADirectoryError(errno.EISDIR, "Is a directory"))
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        _raise_advice(error, path)
        raise
    if not path.is_file():
        return
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    if beginning and not re.match(begins.encode(), beginning):
        other = f"another name ({flag} FILE)" if flag else "another name"
        raise UserError(f"{path} is there already, and holds something else: choose {other}, or move it away")


def write_bytes(path: str | Path, data: bytes) -> None:
    with aside(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: object) -> None:
    """Indented, for people to read; what is not finite becomes a string (see `plain_json`)."""
    write_text(path, plain_json.dumps(value, indent=2) + "\n")
