"""Text and JSON that people wrote, JSON Lines out, digests, and names that every file system takes."""

import codecs
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rolltune import atomic
from rolltune.errors import UserError

# What Windows refuses in a file name, and what shells, URLs and format strings trip over.
_AWKWARD = re.compile(r'[<>:"/\\|?*%&#\x00-\x1f\x7f]+')
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)
_LONGEST = 120  # Windows counts 260 for the whole path
_LONE = re.compile("[\\ud800-\\udfff]")
_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def text_bytes(path: str | Path) -> bytes:
    """The UTF-8 bytes of a text file, without the byte order mark that editors put first.

    What says by its mark that it is UTF-16 or UTF-32 (PowerShell's `>` writes that) is recoded. A pipe or a
    device, which would be waited for, is refused. Bytes that are not UTF-8 are the caller's to find.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if not path.is_file():
        raise UserError(f"{path}: not a plain file: {'a folder' if path.is_dir() else 'a pipe or a device'}")
    data = path.read_bytes()
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding).encode()
            except UnicodeError as error:
                raise UserError(f"{path}: begins like {encoding.upper()}, but is not: save it as UTF-8") from error
    return data


def read_text(path: str | Path) -> str:
    """Text that a person wrote, in whatever their editor saved it; UserError with the line where it is not UTF-8.

    Line ends stay as they are: `splitlines` takes them all.
    """
    data = text_bytes(path)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8: byte {data[error.start]:#04x}; save the file as UTF-8") from error


def parse_json(text: str, where: object) -> Any:
    """A JSON document that is no row of data; UserError, naming `where`, for whatever is wrong with it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, character {error.colno}"
        raise UserError(f"{where}: not JSON: {error.msg} ({place})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets by the thousand
        reason = "brackets nested by the hundred" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where}: not JSON that can be read: {reason}") from error


def read_json(path: str | Path) -> Any:
    return parse_json(read_text(path), path)


def without_halves(value: Any) -> Any:
    """A JSON value without lone halves of UTF-16 pairs, which JSON can hold (cut emoji) and no tokenizer takes."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [without_halves(item) for item in value]
    if isinstance(value, dict):
        return {without_halves(key): without_halves(item) for key, item in value.items()}
    return value


def json_text(value: object, indent: int | None = None) -> str:
    """JSON as people read it. Lone halves of UTF-16 pairs, which UTF-8 cannot hold, stand there as escapes."""
    return _LONE.sub(lambda half: f"\\u{ord(half[0]):04x}", json.dumps(value, ensure_ascii=False, indent=indent))


def jsonl_text(rows: Iterable[dict]) -> str:
    return "".join(json_text(row) + "\n" for row in rows)


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    atomic.write_bytes(path, jsonl_text(rows).encode())


def write_json(path: Path, value: object) -> None:
    atomic.write_bytes(path, (json_text(value, indent=2) + "\n").encode())


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative(path: Path, folder: Path) -> str:
    """`path` as written in a JSONL that lies in `folder`: relative with "/", absolute only across Windows drives."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return Path(path).absolute().as_posix()


def safe_name(name: str) -> str:
    """A file name that every system takes: `?`, `&`, `%` and their like become `_`, the ending is kept.

    Two names can become one: whoever writes the files asks `distinct` about it.
    """
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending) > 8:
        stem, dot, ending = name, "", ""
    stem = _AWKWARD.sub("_", stem).strip(" .") or "_"
    ending = _AWKWARD.sub("_", ending).strip(" .")
    if _RESERVED.match(stem.split(".")[0]):
        stem = f"_{stem}"
    if len(stem) > _LONGEST:
        stem = f"{stem[:_LONGEST]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return stem + (dot + ending if ending else "")


def distinct(name: str, original: str, taken: dict[str, str]) -> str:
    """`name`, or `name` with a short hash of `original` where another file has it (letter case ignored)."""
    key = name.casefold()
    if taken.get(key, original) != original:
        stem, dot, ending = name.rpartition(".")
        digest = hashlib.sha256(os.fsencode(original)).hexdigest()[:8]
        name = f"{stem}-{digest}{dot}{ending}" if stem else f"{name}-{digest}"
        key = name.casefold()
    taken[key] = original
    return name
