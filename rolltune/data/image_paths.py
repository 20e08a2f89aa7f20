"""Which file a row means by the path of an image, what keeps it from being found, and paths moved to another folder."""

import functools
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rolltune.data.examples import Scan
from rolltune.data.files import relative
from rolltune.data.findings import SHOWN, quoted
from rolltune.errors import UserError

MANIFEST = "split.json"  # written beside a split by the shuffle command; says where its images lie
_NAMES = "jpg jpeg jfif png apng gif webp avif bmp tif tiff jp2 j2k ico pbm pgm ppm heic heif"
ENDINGS = frozenset(f".{name}" for name in _NAMES.split())
_ENDINGS = tuple({*ENDINGS, *(ending.upper() for ending in ENDINGS)})
_LONGEST_PATH = 4096
_LONGEST_NAME = 255  # bytes, on every file system that people have
_BASE64 = re.compile(r"[A-Za-z0-9+/\r\n]+={0,2}\s*")  # in one piece, or in lines; words with spaces between are none


class RowProblem(ValueError):
    """What is wrong with one row; the reader adds file and line."""


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names[type(value)]


def image_roots(folder: Path, image_root: str | Path | None = None) -> tuple[Path, ...]:
    """The folders in which the images of a JSONL in `folder` may lie, links followed.

    Its own; the one that `image_root` names; and the one that our own split manifest names, because a
    split's pictures stay where the whole set has them.
    """
    roots = [Path(os.path.realpath(folder))]
    manifest = folder / MANIFEST
    if image_root is not None:
        roots.append(Path(os.path.realpath(image_root)))
    elif manifest.is_file():
        try:
            roots.append(Path(os.path.realpath(folder / json.loads(manifest.read_bytes())["image_root"])))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{manifest}: not a manifest of a split ({error!r}): make the split again") from error
    return tuple(roots)


def find_image(value: object, folder: Path, roots: tuple[Path, ...]) -> Path:
    """The file that a row means, links followed; RowProblem where it is missing or outside `roots`.

    A name that differs from the file's in Unicode form alone (macOS writes accents apart, NFD) is found.
    """
    if not isinstance(value, str) or not value.strip():
        raise RowProblem(f"an image is a path as text, got {kind_of(value) if value != '' else 'empty text'}")
    if value.startswith("data:") or (len(value) > 300 and _BASE64.fullmatch(value)):
        raise RowProblem(f"image {quoted(value)} is the picture itself as text: save it as a file and give its path")
    if re.match(r"[a-z][a-z0-9+]+://", value, re.IGNORECASE):
        raise RowProblem(f"image {quoted(value)} is a web address: download it and give its path")
    if "\0" in value:
        raise RowProblem(f"image {quoted(value)} has a zero byte in its name")
    longest = max(len(part.encode(errors="replace")) for part in value.split("/"))
    if len(value) > _LONGEST_PATH or longest > _LONGEST_NAME or "\n" in value:
        raise RowProblem(f"image {quoted(value)} is no path: it is text of {len(value)} characters")
    path = _inside(value, folder, roots)
    if os.path.isfile(path):
        return path
    alike = _alike(folder, value)
    for other in alike:
        if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", value):
            return _inside(other, folder, roots)
    if os.path.isfile(folder / value.replace("\\", "/")):
        hint = " (write / instead of \\)"
    elif os.path.isdir(path):
        hint = " (it is a folder)"
    elif alike:
        hint = f" (there is {quoted(alike[0])}: letter case and outer spaces count)"
    else:
        hint = ""
    raise RowProblem(f"image {quoted(value)} does not exist in {folder}{hint}")


def _inside(value: str, folder: Path, roots: tuple[Path, ...]) -> Path:
    path = Path(os.path.realpath(os.path.join(folder, value)))
    if not any(path.is_relative_to(root) for root in roots):
        raise RowProblem(
            f"image {quoted(value)} lies outside the data folder {folder} (at {quoted(str(path))}): copy it inside"
        )
    return path


def _alike(folder: Path, value: str) -> list[str]:
    """Files below `folder` whose path is `value` but for Unicode form, letter case and outer spaces."""
    found = [""]
    for part in value.strip().split("/"):
        if part in ("", ".", ".."):
            found = [f"{before}{part}/" for before in found]
            continue
        found = [
            f"{before}{name}/"
            for before in found
            for name in _names_in(str(folder / before), _changed(folder / before)).get(_folded(part), ())
        ]
    paths = [path.removesuffix("/") for path in found]
    return [path for path in paths if os.path.isfile(folder / path)]


@functools.lru_cache(maxsize=16)
def _names_in(folder: str, changed: int) -> Mapping[str, list[str]]:
    """Folded name -> names of the folder's files; read again where the folder has `changed`."""
    names: dict[str, list[str]] = {}
    try:
        for name in sorted(os.listdir(folder)):
            names.setdefault(_folded(name), []).append(name)
    except OSError:
        pass
    return names


def _changed(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def unread_pictures(
    unread: Mapping[str, object], stated: Sequence[object], folder: Path, roots: tuple[Path, ...]
) -> list[str]:
    """A problem for each key that is not read and yet names a picture which is there, and is none of those `stated`."""
    named = {key: _pictures_of(value, folder, roots) for key, value in unread.items()}
    read = set(_pictures_of(list(stated), folder, roots)) if any(named.values()) else set()
    problems = []
    for key, pictures in named.items():
        text = next((text for path, text in pictures.items() if path not in read), None)
        if text is not None:
            problems.append(
                f'{quoted(key)} names the picture {quoted(text)}, but is not read: write "image" (or "images", a '
                f"list), say --columns image={key[:SHOWN]}, or take it out"
            )
    return problems


def _pictures_of(value: object, folder: Path, roots: tuple[Path, ...]) -> dict[Path, str]:
    """The pictures that are there -> the texts in `value` that name them."""
    found = {}
    for text in _texts(value):
        if text.endswith(_ENDINGS):
            try:
                found[find_image(text, folder, roots)] = text
            except RowProblem:
                continue
    return found


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def common_root(scan: Scan) -> Path:
    """The folder in which all images of the scan lie: the data's own where that holds them all."""
    images = [path for example in scan.examples for path in example.images]
    own = Path(os.path.realpath(scan.folder))
    if all(path.is_relative_to(own) for path in images):
        return own
    return Path(os.path.commonpath([path.parent for path in images]))


def moved(value: object, old: Path, new: Path) -> object:
    """An image path, or a list or a content part of them, relative to `old`, made relative to `new`."""
    if isinstance(value, list):
        return [moved(item, old, new) for item in value]
    if isinstance(value, dict):
        places = ("image", "path", "url", "image_url")
        return {key: moved(item, old, new) if key in places else item for key, item in value.items()}
    if not isinstance(value, str):
        return value
    return relative(Path(os.path.abspath(old / value)), Path(os.path.abspath(new)))
