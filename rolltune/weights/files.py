"""Reading a part of a file: what every checkpoint format here stands on."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rolltune.errors import UserError


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
