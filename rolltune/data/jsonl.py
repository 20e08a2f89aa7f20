"""Files of JSON rows, a row a line or one list: read line by line, so that one broken row hides no other."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rolltune.data.examples import Scan
from rolltune.data.files import text_bytes, without_halves
from rolltune.data.findings import ERROR, Finding, quoted
from rolltune.data.image_paths import RowProblem, image_roots, kind_of
from rolltune.data.rows import CONVERSATIONS, parse_row, renamed
from rolltune.errors import UserError

DEEPEST = 20  # brackets within brackets of a row
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def scan_jsonl(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    question: str | None = None,
    image_root: str | Path | None = None,
    answered: bool = True,
) -> Scan:
    """Reads a .jsonl file (a row a line) or a .json file (one list of rows, as LLaVA's are).

    With `answered` False rows may lack their answers.
    """
    roots = image_roots(path.parent, image_root)
    scan = Scan("JSON list" if path.suffix.lower() == ".json" else "JSON Lines", path.parent)
    lines = _rows_of_list(path) if path.suffix.lower() == ".json" else _rows_of_lines(path)

    def named(row: dict | RowProblem) -> dict:
        if isinstance(row, RowProblem):
            raise row
        return renamed(row, columns, question)

    add_rows(scan, path, lines, named, roots, answered)
    scan.note = "conversations" if any(key in row for row in scan.rows for key in CONVERSATIONS) else ""
    return scan


def add_rows(
    scan: Scan,
    path: Path,
    lines: Iterable[tuple[int, Any]],
    make_row: Callable[[Any], dict],
    roots: tuple[Path, ...],
    answered: bool = True,
) -> None:
    """Adds the rows that `make_row` makes of (line, what is there), and a finding for each that is none."""
    for line, raw in lines:
        where = f"{short(path)}:{line}"
        try:
            row = make_row(raw)
            example = parse_row(row, where, f"{path.name}:{line}", path.parent, roots, answered)
        except RowProblem as problem:
            scan.findings += [Finding(ERROR, "bad row", where, part) for part in problem.args]
            continue
        scan.examples.append(example)
        scan.rows.append(row)
    add_set_findings(scan, short(path))


def short(path: Path) -> str:
    """The file and its folder: enough to know it by in a message."""
    parent = path.absolute().parent.name
    return f"{parent}/{path.name}" if parent else path.name


def add_set_findings(scan: Scan, name: str) -> None:
    """What only the whole set shows: no rows at all, ids used twice."""
    if not scan.examples and not scan.findings:
        scan.findings.append(Finding(ERROR, "empty set", name, "there are no rows in it"))
    first: dict[str, str] = {}
    for example in scan.examples:
        if example.id in first:
            message = f"the id {quoted(example.id)} was used already, at {first[example.id]}"
            scan.findings.append(Finding(ERROR, "duplicate id", example.source, message, "give each row its own"))
        first.setdefault(example.id, example.source)


def _rows_of_lines(path: Path) -> Iterator[tuple[int, dict | RowProblem]]:
    for number, line in enumerate(text_bytes(path).split(b"\n"), 1):
        if line.strip():
            yield number, _parsed(line)


def _rows_of_list(path: Path) -> Iterator[tuple[int, dict | RowProblem]]:
    rows = _parsed(text_bytes(path), whole=True)
    if isinstance(rows, RowProblem):
        raise UserError(f"{path}: {rows}")
    if isinstance(rows, dict) and {"images", "annotations"} <= set(rows):
        raise UserError(
            f"{path}: this is COCO's format, boxes and pictures in one object: make rows of it with "
            "./06-convert_data.py coco, or export it with a row a picture (Roboflow: PaliGemma)"
        )
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: expected a list of rows, got {kind_of(rows)}; a file with a row a line ends in .jsonl"
        )
    for number, row in enumerate(rows, 1):
        good = isinstance(row, dict)
        yield number, row if good else RowProblem(f"row {number} of the list: expected an object, got {kind_of(row)}")


def _parsed(data: bytes, whole: bool = False) -> Any:
    try:
        row = json.loads(data.decode("utf-8"), object_pairs_hook=_no_key_twice)
    except UnicodeDecodeError as error:
        return RowProblem(
            f"not UTF-8: byte {data[error.start]:#04x} at place {error.start + 1}; save the file as UTF-8"
        )
    except json.JSONDecodeError as error:
        return RowProblem(f"not JSON: {error.msg} at character {error.pos + 1}: {_around(error.doc, error.pos)}")
    except RecursionError:
        return RowProblem("not a row: brackets nested by the hundred")
    except RowProblem as problem:
        return problem
    except ValueError as error:  # a number of thousands of digits
        return RowProblem(f"not JSON that can be read: {error}")
    if data.count(b"[") + data.count(b"{") > DEEPEST and _depth_over(row, DEEPEST + whole):
        return RowProblem(f"brackets are nested more than {DEEPEST} deep")
    if _HALF_PAIR.search(data):
        row = without_halves(row)
    if whole or isinstance(row, dict):
        return row
    return RowProblem(f'expected an object such as {{"prefix": ..., "suffix": ...}}, got {kind_of(row)}')


def _around(text: str, place: int) -> str:
    return repr(text[max(0, place - 15) : place + 15])


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RowProblem(f"the key {', '.join(map(quoted, twice))} is given twice")
    return row


def _depth_over(value: object, most: int) -> bool:
    """Whether brackets are nested deeper than `most`: nobody writes that, and whoever goes through it fails."""
    level = [value]
    for _ in range(most):
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
    return any(isinstance(one, dict | list) for one in level)
