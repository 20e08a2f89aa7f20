"""Reading a part of a file and replacing a whole one: what every checkpoint format here stands on."""

import contextlib
import errno
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rolltune.errors import UserError

ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
    errno.EFBIG: "the file grew past what this file system or account allows",
    errno.EACCES: "no permission to write there: choose another folder, or change its owner",
    errno.EPERM: "no permission to write there: choose another folder, or change its owner",
    errno.EROFS: "the folder is mounted read-only: choose another one",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "a folder of that name is in the way",
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose bytes lie in a file as they are, in row-major order.

    It is read by offset into memory of our own rather than mapped: mapped pages count as the process's memory while
    they stay in, and a 12 GB card often sits in a 16 GB machine (or in a WSL2 machine that kills what grows past its
    share). The system's file cache holds what is worth holding either way.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            out = np.empty(stop - start, self.dtype)
        into = out.view(np.uint8)
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.offset + start * self.dtype.itemsize)
                at = 0
                while at < into.size:
                    count = file.readinto(into[at:])
                    if not count:
                        raise UserError(f"{self.path} ends too early: it was cut off. Download or save it again.")
                    at += count
        except OSError as error:
            raise UserError(f"{self.path} can't be read any more ({error}): look whether its disk is there") from error
        return out


@dataclass
class FortranTensor:
    """A tensor whose file holds it in column-major order, as `np.savez` writes a transposed array.

    It can't be read in parts, so the whole of it is kept from the first part until the last was read.
    """

    inner: "StoredTensor"  # or any other tensor of reversed shape
    whole: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape[::-1]

    @property
    def dtype(self) -> np.dtype:
        return self.inner.dtype

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        size = math.prod(self.shape)
        if self.whole is None:
            self.whole = np.ascontiguousarray(self.inner.read(0, size).reshape(self.inner.shape).T).reshape(-1)
        part = self.whole[start:stop]
        if stop == size:
            self.whole = None
        if out is None:
            return part.copy()
        out[...] = part
        return out


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` only when it is whole and on the disk.

    It lies beside `path` meanwhile, hidden, with the ending ".part", so that no glob for checkpoints meets it. An error
    removes it; a kill or a power cut leaves it behind and the earlier file untouched.
    """
    path = Path(path)
    aside = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            aside.unlink(missing_ok=True)
        raise_advice(error, path)
        raise


@contextlib.contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """The same for a new folder of several files. A folder that holds something is refused, not replaced:
    no file system swaps two folders in one step, so that a kill in between could leave neither."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: choose another name, or move it away first.")
    aside = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    try:
        aside.mkdir(parents=True)
        yield aside
        for file in aside.iterdir():
            with open(file, "rb+") as open_file:
                os.fsync(open_file.fileno())
        sync_folder(aside)
        if folder.exists():
            folder.rmdir()
        os.replace(aside, folder)
        sync_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise_advice(error, folder)
        raise


def sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut. Windows has no such call (and needs none)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # some mounted file systems refuse this
            raise
    finally:
        os.close(handle)


def raise_advice(error: BaseException, path: Path) -> None:
    """Turns the errors of a full or closed disk into a UserError; other errors are left to the caller."""
    if isinstance(error, OSError) and error.errno in ADVICE:
        raise UserError(f"could not write {path}: {ADVICE[error.errno]}. Nothing was changed.") from error
