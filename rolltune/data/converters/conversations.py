"""Rows of the Phi recipes, whose pictures lie in a folder beside them, to JSONL: converted UCF-101 and its like."""

import re
from pathlib import Path
from typing import Any

from rolltune.data.converters.output import Output, json_lines
from rolltune.data.converters.video import recording_of
from rolltune.data.findings import quoted
from rolltune.data.image_paths import RowProblem, find_image, image_roots
from rolltune.data.layouts import split_of
from rolltune.errors import UserError

PICTURES = "images"  # the folder beside the files that their paths are relative to


def convert_conversations(source: Path, out: Path, *, images: Path | None = None) -> Output:
    """`source` is a JSONL of {"id", "source", "conversations": [{"images", "user", "assistant"}]}, or a folder of them.

    Each is written as the split that its name speaks of (ucf101_val.jsonl: valid.jsonl), else as data.jsonl. Frames
    that are named as UCF-101's videos are get their recording as "group". Raises UserError, which tells everything.
    """
    files = sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source}: there is no .jsonl in it")
    folder = source if source.is_dir() else source.parent
    root = images or (folder / PICTURES if (folder / PICTURES).is_dir() else folder)
    names = [f"{_split_in(file.stem) or 'data'}.jsonl" for file in files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        same = ", ".join(file.name for file, name in zip(files, names, strict=True) if name == twice)
        raise UserError(f"{source}: {same} would all become {twice}: convert one after the other into own folders")
    output = Output(out, folder)
    results = [[_row(output, root, f"{file.name}:{line}", row) for line, row in json_lines(file)] for file in files]
    for rows, name in zip(results, names, strict=True):
        output.finish(rows, name)
    return output


def _split_in(stem: str) -> str | None:
    """The split that a word of a file's name says: "ucf101_val", "phi-train"."""
    said = {split for word in re.split(r"[._\-\s]+", stem) if (split := split_of(word))}
    return said.pop() if len(said) == 1 else None


def _row(output: Output, root: Path, where: str, row: dict) -> dict:
    """The row with its pictures copied and named anew; what is wrong goes to the output's problems."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        output.problem(where, f'"conversations" is {quoted(turns)}, expected a list of objects')
        return row
    made = {**row, "conversations": [_turn(output, root, where, turn) for turn in turns]}
    named = [image for turn in turns for image in _listed(turn.get("images")) if isinstance(image, str)]
    recordings = {recording for image in named if (recording := recording_of(Path(image).name))}
    return {**made, "group": recordings.pop()} if len(recordings) == 1 and "group" not in row else made


def _turn(output: Output, root: Path, where: str, turn: dict) -> dict:
    if "images" not in turn:
        return turn
    copied = []
    for value in _listed(turn["images"]):
        try:
            copied.append(output.copy(find_image(value, root, image_roots(root)), str(value)))
        except RowProblem as problem:
            output.problem(where, str(problem), "--images says what folder the paths are relative to")
    return {**turn, "images": copied}


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]
