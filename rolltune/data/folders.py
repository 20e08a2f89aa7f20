"""Folders of pictures, one sub-folder an answer."""

import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from rolltune.data.answers import is_blank
from rolltune.data.examples import QUESTION, Example, Scan, Turn
from rolltune.data.findings import ERROR, NOTE, Finding, quoted
from rolltune.data.image_paths import ENDINGS
from rolltune.data.jsonl import add_set_findings, short
from rolltune.data.layouts import split_of, tables_in

_PARTS = frozenset(["images", "image", "imgs", "labels", "annotations", "masks", "jpegimages", "imagesets"])
WITHOUT_CLASSES = (
    "make a folder an answer (train/cat/1.jpg), or write a data.jsonl with a row of prefix, suffix and image a "
    "picture; boxes become rows by ./06-convert_data.py yolo, voc or coco; Roboflow's format PaliGemma is read as it is"
)
_LONE_BYTES = re.compile("[\\ud800-\\udfff]")  # how Python writes a byte of a name that is no UTF-8


def scan_folder(path: Path, *, question: str | None = None, names: Mapping[str, str] | None = None) -> Scan:
    """`path/CLASS/.../picture.jpg`: the answer is CLASS with `_` as spaces, or what `names` calls it.

    Hidden files and folders are left out; files that are no pictures are told as a note. Order is
    by name, the same on every system.
    """
    scan = Scan("image folders", path)
    # The same letters, however the disk and the keyboard put accents together.
    names = {_composed(folder): answer for folder, answer in (names or {}).items()}
    classes = sorted(place.name for place in path.iterdir() if place.is_dir() and not place.name.startswith("."))
    answers = {folder: names.get(_composed(folder), folder.replace("_", " ")).strip() for folder in classes}
    unused = sorted(set(names) - set(map(_composed, classes)))
    if unused and len(unused) == len(names):
        message = f"no class folder has a name of the name map ({', '.join(unused[:5])})"
        scan.findings.append(Finding(ERROR, "name map", short(path), message, f"the folders are {', '.join(classes)}"))
    text = (question or QUESTION).replace("{answers}", _listed(sorted(set(answers.values()))))
    others = [place.name for place in path.iterdir() if place.is_file() and place.suffix.lower() in ENDINGS]
    if others:
        message = (
            f"{len(others)} pictures lie beside the class folders and have no answer, such as {quoted(min(others))}"
        )
        scan.findings.append(Finding(ERROR, "no answer", short(path), message, "move them into class folders"))
    root = os.path.realpath(path)
    if message := _no_classes(classes):
        scan.findings.append(Finding(ERROR, "no answer", short(path), message, WITHOUT_CLASSES))
        return scan
    if classes and all(tables_in(path / folder) for folder in classes):
        message = f"the folders {', '.join(classes)} are no answers: they hold rows of their own"
        held = ", ".join(f"{path / folder} ({tables_in(path / folder)[0].name})" for folder in classes[:4])
        scan.findings.append(Finding(ERROR, "no answer", short(path), message, f"name one of them: {held}"))
        return scan
    for folder in classes:
        if is_blank(answers[folder]):
            message = f"the folder {quoted(folder)} leaves an empty answer"
            scan.findings.append(Finding(ERROR, "no answer", short(path), message, "rename it, or say --names"))
            continue
        _scan_class(scan, path, folder, answers[folder], text, root)
    if not classes:
        message = "expected one sub-folder an answer, with pictures in it; there are no sub-folders"
        scan.findings.append(Finding(ERROR, "empty set", short(path), message))
    else:
        add_set_findings(scan, short(path))
    return scan


def _no_classes(folders: list[str]) -> str:
    """Why sub-folders of these names are no answers, or "" where they may be."""
    if folders and all(map(split_of, folders)):
        return f"the folders {', '.join(folders)} are splits, and hold neither a table nor a folder an answer"
    if folders and {folder.casefold() for folder in folders} <= _PARTS:
        return f"the folders {', '.join(folders)} are parts of another format (YOLO, VOC, COCO), not answers"
    return ""


def _scan_class(scan: Scan, path: Path, folder: str, answer: str, question: str, root: str) -> None:
    odd, count = [], 0
    for place in sorted((path / folder).rglob("*"), key=lambda place: place.relative_to(path).as_posix()):
        name = place.relative_to(path).as_posix()
        if any(part.startswith(".") for part in Path(name).parts) or not place.is_file():
            continue
        if place.suffix.lower() not in ENDINGS:
            odd.append(name)
            continue
        real = Path(os.path.realpath(place))
        where = f"{short(path)}/{name}"
        if _LONE_BYTES.search(name):
            message = "the file's name is not UTF-8, and no row can name it"
            scan.findings.append(Finding(ERROR, "bad row", where, message, "rename it"))
            continue
        if not real.is_relative_to(root):
            scan.findings.append(
                Finding(ERROR, "bad row", where, f"is a link out of the data folder (to {real})", "copy it inside")
            )
            continue
        count += 1
        turns = (Turn("user", question.strip()), Turn("assistant", answer))
        scan.examples.append(Example(name, (real,), turns, where))
        scan.rows.append({"prefix": question, "suffix": answer, "image": name, "id": name})
    if odd:
        message = f"{len(odd)} files are no pictures by their names and were left out, such as {quoted(odd[0])}"
        scan.findings.append(Finding(NOTE, "left out", f"{short(path)}/{folder}", message))
    if not count:
        scan.findings.append(Finding(ERROR, "empty class", f"{short(path)}/{folder}", "there is no picture in it"))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _listed(answers: list[str]) -> str:
    return answers[0] if len(answers) == 1 else f"{', '.join(answers[:-1])} or {answers[-1]}" if answers else ""
