"""The one door through which rows come in: what a path is, its rows, and whether their images open."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rolltune.data import folders, jsonl, tables, tfds
from rolltune.data.examples import Example, Scan
from rolltune.data.findings import ERROR, Finding, raise_errors
from rolltune.data.images import open_image
from rolltune.data.layouts import WHOLE, splits_in, table_in
from rolltune.errors import UserError
from rolltune.tracking import progress


def scan_source(
    path: str | Path,
    *,
    question: str | None = None,
    names: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    image_root: str | Path | None = None,
    answered: bool = True,
) -> Scan:
    """Finds out what `path` is and reads its rows; problems are gathered in `findings`, images not yet opened.

    With `answered` False the rows of a file may lack their answers.
    """
    if str(path).startswith("tfds:"):
        return tfds.scan_tfds(str(path), question=question, names=names, columns=columns)
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if path.is_dir():
        inside = _only_table(path)
        if inside is None:
            scan = folders.scan_folder(path, question=question, names=names)
            return _idle(scan, "columns", columns, "folders of pictures have none")
        path = inside
    read = {".jsonl": jsonl.scan_jsonl, ".json": jsonl.scan_jsonl, ".ndjson": jsonl.scan_jsonl}
    read |= {".csv": tables.scan_csv, ".tsv": tables.scan_csv}
    if scan_rows := read.get(path.suffix.lower()):
        scan = scan_rows(path, columns=columns, question=question, image_root=image_root, answered=answered)
        return _idle(scan, "names", names, "they are of class folders, and rows say their answers")
    raise UserError(
        f"{path}: rows are read from .jsonl, .json, .csv, .tsv, a folder with one sub-folder an answer, or tfds:NAME; "
        f"{path.suffix or 'a file without an ending'} is none of them"
    )


def _idle(scan: Scan, flag: str, given: object, why: str) -> Scan:
    """The scan, saying of what was given and is not of such data that it counts for nothing."""
    if given:
        scan.note += f"; --{flag} counts for nothing: {why}"
    return scan


def _only_table(folder: Path) -> Path | None:
    """The JSONL or CSV that a folder stands for; None where it is a folder of image folders."""
    splits = splits_in(folder)
    if splits and not any((folder / name).exists() for name in WHOLE):
        told = ", ".join(f"{name}: {place.relative_to(folder)}" for name, place in splits.items())
        typed = shlex.quote(str(folder))
        raise UserError(
            f"{folder} holds several sets, split already ({told}): train on them with ./03-do_learn.py -d {typed}, "
            f"look through them with ./00-doctor.py {typed}, or name one of them here"
        )
    if (folder / "state.json").exists() or any(folder.glob("*.arrow")):
        raise UserError(
            f"{folder} is a Hugging Face datasets folder in Arrow format, which is not read: write it out first, with "
            "datasets.load_from_disk(...) and one row of JSON an example, images saved beside it"
        )
    return table_in(folder)


def check_images(scan: Scan, workers: int | None = None) -> list[Finding]:
    """Opens every image of the scan once, on a few threads; one finding for each row of each that fails."""
    users: dict[tuple[Path, int | None], list[Example]] = {}
    for example in scan.examples:
        for path, frame in zip(example.images, example.frames or (None,) * len(example.images), strict=True):
            users.setdefault((path, frame), []).append(example)

    def problem(key: tuple[Path, int | None]) -> str | None:
        try:
            open_image(*key)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        looked = progress(pool.map(problem, users), "looking at images", len(users))
        found = zip(users.items(), looked, strict=True)
        return [
            Finding(ERROR, "unreadable image", example.source, message, images=(path,))
            for ((path, _), examples), message in found
            if message
            for example in examples
        ]


def read_examples(
    path: str | Path,
    *,
    question: str | None = None,
    names: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    image_root: str | Path | None = None,
    open_images: bool = True,
    say: Callable[[str], None] | None = None,
) -> list[Example]:
    """Every row of a JSONL, JSON or CSV file, an image folder or tfds:NAME[:SPLIT], in its order.

    Strict: all problems are raised at once as one UserError with their lines: malformed rows, missing
    or empty fields, images that are missing, unreadable or outside the data folder, ids used twice.
    `say` is told what the source was understood to be. `question` is asked by image folders and
    rows without one ("{answers}" in it becomes the list of answers), `names` gives class folders
    other names, `columns` says which column is the prefix, suffix or image, `image_root` is where images
    may lie apart from the file's own folder. `open_images=False` skips decoding every image.
    """
    scan = scan_source(path, question=question, names=names, columns=columns, image_root=image_root)
    if say is not None and scan.examples:
        say(f"{path}: {scan.understood}")
    findings = scan.findings + (check_images(scan) if open_images else [])
    raise_errors(findings, str(path))
    return scan.examples
