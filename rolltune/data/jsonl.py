"""Rows of JSON: prefix/suffix rows, and conversations as LLaVA, the Phi recipes and OpenAI write them."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rolltune.data.examples import GROUP_KEYS, Example, Scan, Turn
from rolltune.data.files import relative
from rolltune.data.findings import ERROR, Finding
from rolltune.errors import UserError

MANIFEST = "split.json"  # written beside a split by the shuffle command; says where its images lie
ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "system": "system",
}
_MARK = re.compile(r"<image>|<\|image(?:_\d+)?\|>")
_LEADING_MARKS = re.compile(rf"^(?:\s*(?:{_MARK.pattern}))+\s*")


class RowProblem(ValueError):
    """What is wrong with one row; the reader adds file and line."""


def scan_jsonl(path: Path, *, columns: Mapping[str, str] | None = None, image_root: str | Path | None = None) -> Scan:
    """Reads a .jsonl file (a row a line) or a .json file (one list of rows, as LLaVA's are)."""
    roots = image_roots(path.parent, image_root)
    scan = Scan("JSON list" if path.suffix.lower() == ".json" else "JSON Lines", path.parent)
    lines = _rows_of_list(path) if path.suffix.lower() == ".json" else _rows_of_lines(path)

    def named(row: dict | RowProblem) -> dict:
        if isinstance(row, RowProblem):
            raise row
        return renamed(row, columns)

    add_rows(scan, path, lines, named, roots)
    kinds = {"conversations" for row in scan.rows if "conversations" in row or "messages" in row}
    scan.note = "conversations" if kinds else ""
    return scan


def add_rows(
    scan: Scan, path: Path, lines: Iterable[tuple[int, Any]], make_row: Callable[[Any], dict], roots: tuple[Path, ...]
) -> None:
    """Adds the rows that `make_row` makes of (line, what is there), and a finding for each that is none."""
    for line, raw in lines:
        where = f"{short(path)}:{line}"
        try:
            row = make_row(raw)
            example = parse_row(row, where, f"{path.name}:{line}", path.parent, roots)
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
            message = f"the id {example.id!r} was used already, at {first[example.id]}"
            scan.findings.append(Finding(ERROR, "duplicate id", example.source, message, "give each row its own"))
        first.setdefault(example.id, example.source)


def _rows_of_lines(path: Path) -> Iterator[tuple[int, dict | RowProblem]]:
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: the file is UTF-16 (PowerShell's `>` writes that): save it as UTF-8")
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            yield number, _parsed(line)


def _rows_of_list(path: Path) -> Iterator[tuple[int, dict | RowProblem]]:
    rows = _parsed(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), whole=True)
    if isinstance(rows, RowProblem):
        raise UserError(f"{path}: {rows}")
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows, got {_kind(rows)}; a file with a row a line ends in .jsonl")
    for number, row in enumerate(rows, 1):
        good = isinstance(row, dict)
        yield number, row if good else RowProblem(f"row {number} of the list: expected an object, got {_kind(row)}")


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
    if whole or isinstance(row, dict):
        return row
    return RowProblem(f'expected an object such as {{"prefix": ..., "suffix": ...}}, got {_kind(row)}')


def _around(text: str, place: int) -> str:
    return repr(text[max(0, place - 15) : place + 15])


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise RowProblem(f"the key {', '.join(map(repr, twice))} is given twice")
    return row


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names[type(value)]


def renamed(row: dict, columns: Mapping[str, str] | None) -> dict:
    """The row with the columns that `columns` names ({"suffix": "label"}) under the names we use."""
    ours = {theirs: ours for ours, theirs in (columns or {}).items()}
    if "file_name" in row and "image" not in row:
        ours.setdefault("file_name", "image")  # the metadata.jsonl of a Hugging Face image folder
    return {ours.get(key, key): value for key, value in row.items() if key in ours or key not in ours.values()}


def image_roots(folder: Path, image_root: str | Path | None = None) -> tuple[Path, ...]:
    """The folders in which the images of a JSONL in `folder` may lie, links followed.

    Its own; the one that `image_root` names; and the one that our own split manifest names, because a
    split's pictures stay where the whole set has them.
    """
    roots = [folder]
    manifest = folder / MANIFEST
    if image_root is not None:
        roots.append(Path(image_root))
    elif manifest.is_file():
        try:
            stated = json.loads(manifest.read_bytes())["image_root"]
            roots.append(folder / stated)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{manifest}: not a manifest of a split ({error!r}): make the split again") from error
    return tuple(Path(os.path.realpath(root)) for root in roots)


def find_image(value: object, folder: Path, roots: tuple[Path, ...]) -> Path:
    """The file that a row means, links followed; RowProblem where it is missing or outside `roots`."""
    if not isinstance(value, str) or not value.strip():
        raise RowProblem(f"an image is a path as text, got {_kind(value) if value != '' else 'empty text'}")
    if re.match(r"[a-z][a-z0-9+]+://", value, re.IGNORECASE):
        raise RowProblem(f"image {value!r} is a web address: download it and give its path")
    if "\0" in value:
        raise RowProblem(f"image {value!r} has a zero byte in its name")
    path = Path(os.path.realpath(folder / value))
    if not any(path.is_relative_to(root) for root in roots):
        raise RowProblem(f"image {value!r} lies outside the data folder {folder} (at {path}): copy it inside")
    if not os.path.isfile(path):
        slashes = os.path.isfile(folder / value.replace("\\", "/"))
        hint = " (write / instead of \\)" if slashes else " (it is a folder)" if path.is_dir() else ""
        raise RowProblem(f"image {value!r} does not exist in {folder}{hint}")
    return path


def parse_row(row: dict, where: str, default_id: str, folder: Path, roots: tuple[Path, ...]) -> Example:
    """One row as an Example; a RowProblem carries all that is wrong with it, one text each."""
    problems: list[str] = []

    def gather(work, *arguments):
        try:
            return work(*arguments)
        except RowProblem as problem:
            problems.extend(problem.args)
            return None

    turns, turn_images = gather(_turns, row) or ((), [])
    stated = gather(_stated_images, row) or []
    if stated and turn_images:
        problems.append("images are given both for the row and inside its turns: keep one of them")
    images = [gather(find_image, value, folder, roots) for value in stated or turn_images]
    turns = gather(_without_leading_marks, turns, len(images)) or ()
    accepted = gather(_accepted, row) or ()
    row_id = row.get("id", default_id)
    if isinstance(row_id, bool) or not isinstance(row_id, str | int) or row_id == "":
        problems.append(f'"id" is text or a whole number, got {_kind(row_id) if row_id != "" else "empty text"}')
    groups = [row[key] for key in GROUP_KEYS if row.get(key) is not None]
    if groups and not isinstance(groups[0], str | int):
        problems.append(f'"group" and "video" are text or a number, got {_kind(groups[0])}')
    if problems:
        raise RowProblem(*problems)
    return Example(
        id=str(row_id),
        images=tuple(images),
        turns=turns,
        source=where,
        group=str(groups[0]) if groups else None,
        accepted=accepted,
    )


def clean(text: str) -> str:
    """Text without lone halves of UTF-16 pairs, which JSON can hold (cut emoji) and no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(row: dict, key: str, may_be_empty: bool) -> str:
    if key not in row:
        hint = ' (write "" for an empty question)' if may_be_empty else ""
        raise RowProblem(f'"{key}" is missing{hint}; the row has {", ".join(map(repr, row)) or "no keys"}')
    value = row[key]
    if not isinstance(value, str):
        raise RowProblem(f'"{key}" is {_kind(value)}: expected text in quotes')
    if not may_be_empty and not value.strip():
        raise RowProblem(f'"{key}" is empty: an answer is needed to learn from')
    return clean(value)


def _accepted(row: dict) -> tuple[str, ...]:
    answers = row.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise RowProblem('"answers" is a list of texts that are not empty')
    return tuple(map(clean, answers))


def _stated_images(row: dict) -> list:
    if "image" in row and "images" in row:
        raise RowProblem('"image" and "images" are both given: keep one')
    value = row.get("image", row.get("images"))
    if value is None:
        if "image" in row or "images" in row:
            raise RowProblem('"image" is null: leave the key out of rows without a picture')
        return []
    if value == []:
        raise RowProblem('"images" is an empty list: leave the key out of rows without a picture')
    return value if isinstance(value, list) else [value]


def _turns(row: dict) -> tuple[tuple[Turn, ...], list]:
    """The turns of a row and the images named inside them."""
    key = next((key for key in ("conversations", "messages") if key in row), None)
    if key is None:
        problems: list[str] = []
        texts = []
        for name, may_be_empty in (("prefix", True), ("suffix", False)):
            try:
                texts.append(_text(row, name, may_be_empty))
            except RowProblem as problem:
                problems += problem.args
        if problems:
            raise RowProblem(*problems)
        return (Turn("user", texts[0]), Turn("assistant", texts[1])), []
    if not isinstance(row[key], list) or not row[key]:
        raise RowProblem(f'"{key}" is a list of turns, got {"an empty list" if row[key] == [] else _kind(row[key])}')
    said: list[tuple[str, str]] = []
    images: list = []
    for number, turn in enumerate(row[key], 1):
        if not isinstance(turn, dict):
            raise RowProblem(f"turn {number} is {_kind(turn)}: expected an object")
        said += _sayings(turn, number, images)
    return _alternating(said), images


def _sayings(turn: dict, number: int, images: list) -> list[tuple[str, str]]:
    """(role, text) pairs of one turn object: one, or two where it holds a question and its answer (Phi recipes)."""
    if "user" in turn and "assistant" in turn:
        images += turn.get("images") or []
        return [(role, _text(turn, role, role == "user")) for role in ("user", "assistant")]
    role_key, text_key = ("from", "value") if "from" in turn else ("role", "content")
    role = ROLES.get(turn.get(role_key)) if isinstance(turn.get(role_key), str) else None
    if role is None:
        raise RowProblem(f'turn {number}: "{role_key}" is {turn.get(role_key)!r}: expected one of {", ".join(ROLES)}')
    content = turn.get(text_key)
    if isinstance(content, list):
        return [(role, _joined(content, number, images))]
    return [(role, _text(turn, text_key, may_be_empty=role == "user"))]


def _joined(parts: list, number: int, images: list) -> str:
    """OpenAI's content parts: texts, and images whose place is kept as a mark."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(clean(part["text"]))
        elif kind in ("image", "image_url"):
            value = part.get("image", part.get("path", part.get("image_url")))
            images.append(value.get("url") if isinstance(value, dict) else value)
            texts.append("<image>")
        else:
            raise RowProblem(f'turn {number}: a part of "content" is neither a text nor an image')
    return "\n".join(texts)


def _alternating(said: list[tuple[str, str]]) -> tuple[Turn, ...]:
    """user, assistant, ...; what the system says is put before the first question."""
    system = [text for role, text in said if role == "system"]
    turns = [Turn(role, text) for role, text in said if role != "system"]
    for place, turn in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        if turn.role != expected:
            raise RowProblem(f"turn {place + 1} is the {turn.role}'s, expected the {expected}'s: they take turns")
    if len(turns) % 2 or not turns:
        raise RowProblem("the last turn is the user's: a conversation ends with the answer to learn")
    if system:
        turns[0] = Turn("user", "\n".join([*system, turns[0].text]))
    return tuple(turns)


def _without_leading_marks(turns: tuple[Turn, ...], images: int) -> tuple[Turn, ...]:
    marks = sum(len(_MARK.findall(turn.text)) for turn in turns)
    if marks and marks != images:
        raise RowProblem(f"the text has {marks} image mark{'s' * (marks > 1)}, the row {images} images")
    if not marks:
        return turns
    led = _LEADING_MARKS.match(turns[0].text)
    first = turns[0].text[led.end() :] if led else turns[0].text
    # Where only part of the marks lead, their places matter, and all of them stay.
    if any(_MARK.search(text) for text in (first, *(turn.text for turn in turns[1:]))):
        return tuple(Turn(turn.role, _MARK.sub("<image>", turn.text)) for turn in turns)
    return (Turn("user", first), *turns[1:])


def rebased(row: dict, old: Path, new: Path) -> dict:
    """The row with its image paths, relative to the folder `old`, made relative to `new`."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(item) for item in value]
        if isinstance(value, dict):
            places = ("image", "path", "url", "image_url")
            return {key: moved(item) if key in places else item for key, item in value.items()}
        return relative(Path(os.path.abspath(old / value)), Path(os.path.abspath(new)))

    result = dict(row)
    for key in ("image", "images"):
        if key in row:
            result[key] = moved(row[key])
    for key in ("conversations", "messages"):
        if key in row:
            result[key] = [_rebased_turn(turn, moved) for turn in row[key]]
    return result


def _rebased_turn(turn: dict, moved: Callable[[object], object]) -> dict:
    result = dict(turn)
    if "images" in turn:
        result["images"] = moved(turn["images"])
    if isinstance(turn.get("content"), list):
        result["content"] = [moved(part) if part.get("type") != "text" else part for part in turn["content"]]
    return result


def common_root(scan: Scan) -> Path:
    """The folder in which all images of the scan lie: the data's own where that holds them all."""
    images = [path for example in scan.examples for path in example.images]
    own = Path(os.path.realpath(scan.folder))
    if all(path.is_relative_to(own) for path in images):
        return own
    return Path(os.path.commonpath([path.parent for path in images]))
