"""What every converter writes: pictures under images/, and a JSONL beside them, the same again when run again."""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from rolltune.atomic import write_bytes
from rolltune.data.files import distinct, jsonl_text, parse_json, read_text, safe_name
from rolltune.data.findings import ERROR, Finding, raise_errors
from rolltune.errors import UserError


@dataclass
class Output:
    """A folder to convert into. Nothing is ever written where the originals are.

    Problems are gathered, and raised together by `finish` before a JSONL is written. A file that is there
    already with the same content is left as it is. With a `split`, its name is that of the JSONL and of a folder of
    its own below images/, so that several splits can be written into one folder.
    """

    folder: Path
    originals: Path
    split: str = ""
    beside: bool = False  # it copies no pictures, and may lie beside what it reads: answers.jsonl, found/
    pictures: int = 0
    written: int = 0
    problems: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what a person should know though nothing is wrong
    _taken: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inside, originals = self.folder.resolve(), self.originals.resolve()
        home = originals if originals.is_dir() else originals.parent
        if inside == home or (not self.beside and (inside.is_relative_to(home) or home.is_relative_to(inside))):
            raise UserError(
                f"the output {self.folder} and the originals {home} lie in one another: name another folder"
            )

    def problem(self, where: object, message: str, advice: str = "") -> None:
        self.problems.append(Finding(ERROR, "conversion", str(where), message, advice))

    def copy(self, source: Path, name: str) -> str:
        """Copies a picture as it is to images/`name` (made safe for every system); returns its path for the JSONL."""
        return self._write(source.read_bytes(), name, str(source))

    def save(self, picture: Image.Image, name: str, source: str) -> str:
        """Writes a picture as JPEG or PNG, by the ending of `name`; `source` tells apart what has the same name."""
        data = io.BytesIO()
        if name.endswith(".png"):
            picture.save(data, "PNG")
        else:
            picture.save(data, "JPEG", quality=92)
        return self._write(data.getvalue(), name, source)

    def put(self, name: str, data: bytes) -> None:
        """Writes a file that is no picture, such as another program's notes."""
        self._write_if_new(self.folder / name, data)

    def refuse(self) -> None:
        """Raises everything that went wrong."""
        raise_errors(self.problems, str(self.originals))

    def _write(self, data: bytes, name: str, source: str) -> str:
        parts = [safe_name(part) for part in (f"{self.split}/{name}" if self.split else name).split("/")]
        place = distinct("/".join(["images", *parts]), source, self._taken)
        self.pictures += 1
        self._write_if_new(self.folder / place, data)
        return place

    def _write_if_new(self, path: Path, data: bytes) -> None:
        if not path.is_file() or path.read_bytes() != data:
            write_bytes(path, data)
            self.written += 1

    def finish(self, rows: Iterable[dict], name: str = "") -> Path:
        """Writes the JSONL, or raises everything that went wrong."""
        name = name or f"{self.split or 'data'}.jsonl"
        self.refuse()
        text = jsonl_text(rows)
        if not text:
            raise UserError(f"{self.originals}: there is nothing to convert in it")
        self._write_if_new(self.folder / name, text.encode())
        return self.folder / name


def json_lines(source: Path) -> Iterator[tuple[int, dict]]:
    """(line, object) of a file of JSON Lines; UserError where a line is none."""
    for line, text in enumerate(read_text(source).splitlines(), 1):
        if text.strip():
            row = parse_json(text, f"{source}:{line}")
            if not isinstance(row, dict):
                raise UserError(f"{source}:{line}: expected an object a line, as it was published")
            yield line, row


def words(name: str) -> str:
    """ "ApplyEyeMakeup" or "apply_eye_makeup" as "apply eye makeup"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\s]+", " ", name).strip().lower()
