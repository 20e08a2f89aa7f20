"""JSON Lines out, digests, and names that every file system takes."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from rolltune import atomic

# What Windows refuses in a file name, and what shells, URLs and format strings trip over.
_AWKWARD = re.compile(r'[<>:"/\\|?*%&#\x00-\x1f\x7f]+')
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)
_LONGEST = 120  # Windows counts 260 for the whole path


def jsonl_text(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    atomic.write_bytes(path, jsonl_text(rows).encode())


def write_json(path: Path, value: object) -> None:
    atomic.write_bytes(path, (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


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
        stem = f"{stem[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return stem + (dot + ending if ending else "")


def distinct(name: str, original: str, taken: dict[str, str]) -> str:
    """`name`, or `name` with a short hash of `original` where another file has it (letter case ignored)."""
    key = name.casefold()
    if taken.get(key, original) != original:
        stem, dot, ending = name.rpartition(".")
        digest = hashlib.sha256(original.encode()).hexdigest()[:8]
        name = f"{stem}-{digest}{dot}{ending}" if stem else f"{name}-{digest}"
        key = name.casefold()
    taken[key] = original
    return name
