"""big_vision's npz files: names joined by "/", layers stacked, bfloat16 as two raw bytes. Read and written in parts."""

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from rolltune import atomic
from rolltune.errors import UserError
from rolltune.weights.files import FortranTensor, StoredTensor
from rolltune.weights.names import DTYPES, Lazy, Pieces

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
META = "__rolltune__"  # the entry that marks a roll
# All that NumPy, zipfile and json raise over bytes that they didn't write themselves: cut headers, flags that say
# encrypted, unknown compression, shapes past any memory, JSON that is nested too deep.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, SyntaxError),
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError),
    *(OSError, EOFError, RuntimeError, MemoryError),
)


@dataclass
class CompressedTensor:
    """A tensor in a compressed member: decoded front to back, started again when an earlier part is asked for.

    So two tensors that share a member (gate and up) cost two passes over it, and memory stays that of one part.
    """

    path: Path
    member: str
    header: int
    shape: tuple[int, ...]
    dtype: np.dtype
    at: int = 0
    stream: Any = field(default=None, repr=False)

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            out = np.empty(stop - start, self.dtype)
        first, into = self.header + start * self.dtype.itemsize, memoryview(out.view(np.uint8))
        try:
            if self.stream is None or self.at > first:
                self.close()
                archive = zipfile.ZipFile(self.path)
                self.stream, self.at = (archive, archive.open(self.member)), 0
            while self.at < first:
                self.at += self._some(min(first - self.at, 1 << 22))
            done = 0
            while done < len(into):
                count = self.stream[1].readinto(into[done : done + (1 << 22)])
                if not count:
                    raise EOFError
                done += count
            self.at += done
        except DAMAGE as error:
            self.close()
            raise UserError(f"{self.path}: {self.member} is damaged. Download or save it again.") from error
        if stop == math.prod(self.shape):
            self.close()
        return out

    def _some(self, size: int) -> int:
        count = len(self.stream[1].read(size))
        if not count:
            raise EOFError
        return count

    def close(self) -> None:
        if self.stream is not None:
            archive, member = self.stream
            member.close()
            archive.close()
        self.stream, self.at = None, 0


def read_npz(path: Path | str) -> dict[str, Lazy]:
    """The tensors of a npz by name, `params/` stripped, none of them read yet. Pickled objects are refused.

    Members stored without compression (what big_vision and `np.savez` write) are read in place; these bytes are not
    checked against the zip's CRC (a download has its SHA-256 checked instead), compressed ones are.
    """
    path = Path(path)
    tensors: dict[str, Lazy] = {}
    problems: list[str] = []
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name == META:
                    raise UserError(
                        f"{path} is a roll (a trained adapter), not a base model. Give it to 04-validate.py with -m; "
                        f"the base model is the one it was trained on."
                    )
                if name == info.filename:
                    problems.append(f"{name}: not an array (.npy)")
                    continue
                name = name.removeprefix("params/")
                if name in tensors:
                    problems.append(f"{name}: twice in the file")
                    continue
                tensor = _tensor(path, file, archive, info)
                if isinstance(tensor, str):
                    problems.append(f"{name}: {tensor}")
                else:
                    tensors[name] = tensor
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist. Download it with 01-download_models.py, or correct the path."
        ) from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, expected a .npz file") from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read (no permission)") from error
    except DAMAGE as error:
        raise UserError(
            f"{path} is no readable npz ({str(error)[:200]}): damaged, cut off or of another kind. Download or save it "
            "again."
        ) from error
    if problems:
        raise UserError(f"{path} holds what is no weight:\n  " + "\n  ".join(problems))
    return tensors


def _tensor(path: Path, file: Any, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Lazy | str:
    """The tensor of one member, or what is wrong with it."""
    with archive.open(info) as member:
        version = npy.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            return f"npy format {version} is not known"
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(member)
        header = member.tell()
    if dtype.hasobject:
        return "Python objects (pickle), which are never loaded"
    if dtype.str[1:] == "V2":
        dtype = BFLOAT16
    if dtype not in DTYPES.values():
        return f"dtype {dtype}, expected {', '.join(DTYPES)}"
    if any(size < 0 for size in shape):
        return f"a shape with a negative size, {list(shape)}"
    if header + math.prod(shape) * dtype.itemsize != info.file_size:
        return f"{info.file_size - header} bytes, expected {math.prod(shape) * dtype.itemsize} for shape {list(shape)}"
    stored = shape[::-1] if fortran and len(shape) > 1 else shape
    if info.compress_type == zipfile.ZIP_STORED:
        file.seek(info.header_offset)
        local = file.read(30)
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"no local header for {info.filename}")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
        tensor: Any = StoredTensor(path, start + header, stored, dtype)
    else:
        tensor = CompressedTensor(path, info.filename, header, stored, dtype)
    return FortranTensor(tensor) if stored is not shape else tensor


def write_npz(path: Path | str, tensors: Mapping[str, np.ndarray | Pieces], prefix: str = "") -> None:
    """Writes arrays by name (bfloat16 as `|V2`, as big_vision does), a part at a time, whole or not at all.

    With prefix "params/" the names are those of the published files, without it those of big_vision's demo; it reads
    both. `np.load` reads either.
    """
    with atomic.aside(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in tensors.items():
            pieces = tensor if isinstance(tensor, Pieces) else as_pieces(tensor)
            descr = "|V2" if pieces.dtype == BFLOAT16 else npy.dtype_to_descr(pieces.dtype)
            with archive.open(f"{prefix}{name}.npy", "w", force_zip64=True) as member:
                head = {"descr": descr, "fortran_order": False, "shape": tuple(pieces.shape)}
                npy.write_array_header_1_0(member, head)
                written = sum(_write(member, chunk) for chunk in pieces.chunks())
            if written != math.prod(pieces.shape) * pieces.dtype.itemsize:
                raise ValueError(f"{name}: {written} bytes were written for {pieces.dtype} {pieces.shape}")


def _write(member: Any, chunk: np.ndarray) -> int:
    return member.write(memoryview(chunk.reshape(-1).view(np.uint8)))


def as_pieces(array: Any) -> Pieces:
    """An array that is there already, as one piece."""
    array = np.asarray(array)
    return Pieces(array.shape, array.dtype, lambda: iter([np.ascontiguousarray(array).reshape(-1)]))
