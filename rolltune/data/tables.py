"""CSV and TSV tables: our own column names, any others by a mapping, and the LMSYS arena's columns by sight."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from rolltune.data.examples import Scan
from rolltune.data.files import read_text, without_halves
from rolltune.data.findings import quoted
from rolltune.data.image_paths import RowProblem, image_roots, unread_pictures
from rolltune.data.jsonl import add_rows
from rolltune.data.rows import is_captioned, picture_key
from rolltune.errors import UserError

ARENA_COLUMNS = ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie")
ARENA_QUESTION = "Which answer is better, A, B or tie?"
ARENA_ANSWERS = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
KNOWN = ("id", "prefix", "suffix", "image", "images", "answers", "group", "video")
_LONGEST_CELL = 2**31 - 1  # the csv module's own limit of 131,072 is less than an arena conversation


def scan_csv(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    question: str | None = None,
    image_root: str | Path | None = None,
    answered: bool = True,
) -> Scan:
    """Reads a table with a header line; `columns` says {"prefix": "question", "suffix": "label", "image": "file"}.

    With `answered` False rows may lack their answers.
    """
    rows = table_rows(path)
    header = next(rows)[1]
    twice = sorted(name for name, count in Counter(header).items() if count > 1 and name)
    if twice:
        raise UserError(
            f"{path}: the column {', '.join(map(quoted, twice))} is in the header twice: rename or drop one"
        )
    arena = not columns and set(ARENA_COLUMNS) <= set(header)
    scan = Scan("CSV with the LMSYS arena's columns" if arena else "CSV", path.parent)
    mapping = {name: name for name in KNOWN if name in header}
    if is_captioned(header):
        mapping["suffix"], question = "text", question or ""
    mapping.update(columns or {})
    missing = [theirs for theirs in mapping.values() if theirs not in header]
    complete = "suffix" in mapping and ("prefix" in mapping or question is not None)
    asks = not answered and (mapping or picture_key(dict.fromkeys(header, "x.png")))
    if missing or not (arena or complete or asks):
        lack = f"has no column {', '.join(map(repr, missing))}" if missing else "lacks columns named prefix and suffix"
        raise UserError(
            f"{path}: the table {lack}; it has {', '.join(map(repr, header))}: say which is which with "
            "columns={'prefix': 'question', 'suffix': 'label', 'image': 'file'} (--columns prefix=question,suffix=...)"
        )

    roots = image_roots(path.parent, image_root)

    def named(cells: list[str]) -> dict:
        if len(cells) != len(header):
            raise RowProblem(f"{len(cells)} cells where the header has {len(header)}: is a quote or comma missing?")
        row = dict(zip(header, cells, strict=True))
        return _arena_row(row, question) if arena else _plain_row(row, mapping, question, path.parent, roots)

    add_rows(scan, path, rows, named, roots, answered)
    return scan


def table_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line on which the row begins, cells), the header first; blank lines are left out."""
    text = io.StringIO(read_text(path), newline="")
    before = csv.field_size_limit(_LONGEST_CELL)
    begins = 1
    try:
        reader = csv.reader(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        empty = True
        for cells in reader:
            if cells:
                empty = False
                yield begins, cells
            begins = reader.line_num + 1
        if empty:
            raise UserError(f"{path}: the table is empty")
    except csv.Error as error:
        raise UserError(f"{path}:{begins}: not a CSV row: {error}") from error
    finally:
        csv.field_size_limit(before)


def _plain_row(
    named: dict[str, str], mapping: dict[str, str], question: str | None, folder: Path, roots: tuple[Path, ...]
) -> dict:
    row: dict = {ours: named[theirs] for ours, theirs in mapping.items()}
    if question is not None:
        row.setdefault("prefix", question)
    for key in ("images", "answers"):
        if key in row:
            row[key] = _listed(key, row[key])
    # An empty cell is how a table leaves a key out.
    row = {key: value for key, value in row.items() if value not in ("", []) or key in ("prefix", "suffix")}
    others = {name: cell for name, cell in named.items() if cell and name not in mapping.values()}
    if "image" not in row and "images" not in row and (key := picture_key(others)):
        return {**row, "image": others[key]}
    stated = [row["image"]] if "image" in row else row.get("images", [])
    if problems := unread_pictures(others, stated, folder, roots):
        raise RowProblem(*problems)
    return row


def _listed(column: str, cell: str) -> list:
    """A cell that holds a list as JSON, or one plain text."""
    if not cell.startswith("["):
        return [cell] if cell else []
    try:
        value = without_halves(json.loads(cell))
    except (ValueError, RecursionError) as error:
        raise RowProblem(f'"{column}" begins like a list but is not JSON: {error}') from error
    return value if isinstance(value, list) else [value]


def _arena_row(named: dict[str, str], question: str | None) -> dict:
    """A comparison of two conversations as one question, with a, b or tie as the answer."""
    conversations, winner = arena_comparison(named)
    parts = [question or ARENA_QUESTION]
    for texts in zip(*conversations, strict=True):
        parts += [f"{title}:\n{text}" for title, text in zip(("Prompt", "Answer A", "Answer B"), texts, strict=True)]
    row = {"prefix": "\n\n".join(parts), "suffix": winner}
    return {**row, "id": named["id"]} if named.get("id") else row


def arena_comparison(named: dict[str, str]) -> tuple[list[list[str]], str]:
    """What was asked, what A and what B said, a text a round each; and the winner: a, b or tie.

    Raises RowProblem, which tells what is wrong with the row.
    """
    marks = {column: named[column].strip().lower() for column in ARENA_ANSWERS}
    won = [ARENA_ANSWERS[column] for column, mark in marks.items() if mark in ("1", "1.0", "true")]
    if len(won) != 1 or any(mark not in ("0", "0.0", "false", "1", "1.0", "true") for mark in marks.values()):
        shown = ", ".join(f"{column}={quoted(named[column])}" for column in marks)
        raise RowProblem(f"exactly one winner column must be 1 and the others 0, got {shown}")
    said, replies_a, replies_b = conversations = [_listed(column, named[column]) for column in ARENA_COLUMNS[:3]]
    if not len(said) == len(replies_a) == len(replies_b) or not said:
        counts = f"{len(said)} prompts, {len(replies_a)} answers of A, {len(replies_b)} of B"
        raise RowProblem(f"the three lists of one conversation differ in length: {counts}")
    for text in (text for texts in conversations for text in texts):
        if text is not None and not isinstance(text, str):
            raise RowProblem(f"a text of the conversation is {quoted(text)}")
    # The arena writes null for an answer that never came.
    return [[text or "" for text in texts] for texts in conversations], won[0]
