"""What is to be answered: pictures, folders of them, and files of rows that may lack their answers."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rolltune.data.examples import STAND_IN, Example, Scan, Turn
from rolltune.data.findings import ERROR, Finding
from rolltune.data.image_paths import ENDINGS
from rolltune.data.layouts import splits_in, table_in
from rolltune.data.sources import check_images, scan_source
from rolltune.errors import UserError

ROWS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv")


@dataclass(frozen=True)
class Asked:
    """The rows that can be answered, and what keeps the others from it: one finding each, naming its file."""

    examples: list[Example]
    problems: list[Finding]


def read_asked(
    paths: Sequence[str | Path],
    answers: Sequence[str] = (),
    *,
    question: str | None = None,
    names: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Asked:
    """The rows of all these paths, in their order; every picture was decoded once.

    A folder is the one table in it, or else every picture below it. Where all of these lie in sub-folders that are
    called like `answers` (`_` for a space, or what `names` calls them), the folder's name is the picture's answer. The
    other keywords are those of `sources.read_examples`. Nothing is raised for a file: what is wrong is a finding.
    """
    scans = []
    for path in paths:
        try:
            scans.append(_scan(str(path), answers, question=question, names=names, columns=columns))
        except UserError as error:
            scans.append(
                Scan("nothing", Path(), findings=[Finding(ERROR, "bad row", str(path), _without(path, error))])
            )
    examples = [example for scan in scans for example in scan.examples]
    problems = [finding for scan in scans for finding in scan.findings if finding.level == ERROR]
    unread = check_images(Scan("all", Path(), examples))
    broken = {(finding.where, path) for finding in unread for path in finding.images}
    good = [one for one in examples if not any((one.source, path) in broken for path in one.images)]
    return Asked(good, problems + [_told(finding) for finding in unread])


def picture_row(path: Path, source: str, question: str = "", answer: str | None = None) -> Example:
    """A picture that is asked `question`, or what the roll asks."""
    turns = (Turn("user", question.strip()), Turn("assistant", STAND_IN if answer is None else answer))
    return Example(source, (path,), turns, source, answered=answer is not None)


def _scan(path: str, answers: Sequence[str], *, question, names, columns) -> Scan:
    place = Path(path)
    if path.startswith("tfds:") or place.suffix.lower() in ROWS:
        return scan_source(path, question=question, names=names, columns=columns, answered=False)
    if not place.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if not place.is_dir():
        return Scan("picture", place.parent, [picture_row(place, place.as_posix(), question or "")])
    if splits := splits_in(place):
        some = ", ".join(inside.as_posix() for inside in splits.values())
        raise UserError(f"{path}: it holds several sets: name one of {some}")
    if inside := table_in(place):
        return scan_source(inside, question=question, names=names, columns=columns, answered=False)
    return _pictures_below(place, answers, question or "", names or {})


def _pictures_below(folder: Path, answers: Sequence[str], question: str, names: Mapping[str, str]) -> Scan:
    scan = Scan("pictures", folder)
    found = []
    for place in sorted(folder.rglob("*"), key=lambda place: place.relative_to(folder).as_posix()):
        parts = place.relative_to(folder).parts
        if place.suffix.lower() in ENDINGS and place.is_file() and not any(part.startswith(".") for part in parts):
            found.append(place)
    if not found:
        kinds = ", ".join(sorted(ENDINGS))
        raise UserError(f"{folder}: there is no picture in it (files that end in {kinds}), and no table of rows")
    tops = [place.relative_to(folder).parts for place in found]
    called = [names.get(parts[0], parts[0].replace("_", " ")) if len(parts) > 1 else None for parts in tops]
    known = all(name in answers for name in called)
    for place, name in zip(found, called, strict=True):
        scan.examples.append(picture_row(place, place.as_posix(), question, name if known else None))
    return scan


def _without(path: str | Path, error: UserError) -> str:
    """The message without the path that it begins with: a finding names it already."""
    return str(error).removeprefix(f"{path}: ").removeprefix(f"{Path(path)}: ")


def _told(finding: Finding) -> Finding:
    """An unreadable picture that is its own row is named once."""
    (path,) = finding.images
    message = finding.message
    for name in (str(path), os.path.realpath(path)):
        message = message.removeprefix(f"{name}: ")
    alone = finding.where == path.as_posix()
    return Finding(
        finding.level, finding.kind, finding.where, message if alone else f"{path}: {message}", images=(path,)
    )
