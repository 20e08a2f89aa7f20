"""Folders of pictures, one sub-folder an answer."""

import os
from collections.abc import Mapping
from pathlib import Path

from rolltune.data.examples import QUESTION, Example, Scan, Turn
from rolltune.data.findings import ERROR, NOTE, Finding
from rolltune.data.jsonl import add_set_findings, short

_NAMES = "jpg jpeg jfif png apng gif webp avif bmp tif tiff jp2 j2k ico pbm pgm ppm heic heif"
ENDINGS = frozenset(f".{name}" for name in _NAMES.split())


def scan_folder(path: Path, *, question: str | None = None, names: Mapping[str, str] | None = None) -> Scan:
    """`path/CLASS/.../picture.jpg`: the answer is CLASS with `_` as spaces, or what `names` calls it.

    Hidden files and folders are left out; files that are no pictures are told as a note. Order is
    by name, the same on every system.
    """
    scan = Scan("image folders", path)
    names = dict(names or {})
    classes = sorted(place.name for place in path.iterdir() if place.is_dir() and not place.name.startswith("."))
    answers = {folder: names.get(folder, folder.replace("_", " ").strip()) for folder in classes}
    unused = sorted(set(names) - set(classes))
    if unused and len(unused) == len(names):
        message = f"no class folder has a name of the name map ({', '.join(unused[:5])})"
        scan.findings.append(Finding(ERROR, "name map", short(path), message, f"the folders are {', '.join(classes)}"))
    text = (question or QUESTION).replace("{answers}", _listed(sorted(set(answers.values()))))
    others = [place.name for place in path.iterdir() if place.is_file() and place.suffix.lower() in ENDINGS]
    if others:
        message = f"{len(others)} pictures lie beside the class folders and have no answer, such as {min(others)!r}"
        scan.findings.append(Finding(ERROR, "no answer", short(path), message, "move them into class folders"))
    root = os.path.realpath(path)
    for folder in classes:
        _scan_class(scan, path, folder, answers[folder], text, root)
    if not classes:
        message = "expected one sub-folder an answer, with pictures in it; there are no sub-folders"
        scan.findings.append(Finding(ERROR, "empty set", short(path), message))
    else:
        add_set_findings(scan, short(path))
    return scan


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
        if not real.is_relative_to(root):
            scan.findings.append(
                Finding(ERROR, "bad row", where, f"is a link out of the data folder (to {real})", "copy it inside")
            )
            continue
        count += 1
        scan.examples.append(Example(name, (real,), (Turn("user", question), Turn("assistant", answer)), where))
        scan.rows.append({"prefix": question, "suffix": answer, "image": name, "id": name})
    if odd:
        message = f"{len(odd)} files are no pictures by their names and were left out, such as {odd[0]!r}"
        scan.findings.append(Finding(NOTE, "left out", f"{short(path)}/{folder}", message))
    if not count:
        scan.findings.append(Finding(ERROR, "empty class", f"{short(path)}/{folder}", "there is no picture in it"))


def _listed(answers: list[str]) -> str:
    return answers[0] if len(answers) == 1 else f"{', '.join(answers[:-1])} or {answers[-1]}" if answers else ""
