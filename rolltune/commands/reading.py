"""What a command can be told about its data: which column is which, what is asked, what classes are called."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rolltune.data.answers import is_blank
from rolltune.data.files import parse_json, read_json
from rolltune.data.findings import quoted
from rolltune.errors import UserError

COLUMNS = ("prefix", "suffix", "image", "images", "id", "group", "answers")


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """The flags --columns, --question and --names; `reading_of` makes of them what the readers take."""
    parser.add_argument("--columns", metavar="A=B,...", help="which is which: prefix=question,suffix=label,image=file")
    parser.add_argument("--question", help="what is asked where rows ask nothing; {answers} is the list of classes")
    parser.add_argument("--names", metavar="JSON", help="other names of class folders: JSON text, or a file of it")


def reading_of(options: argparse.Namespace) -> dict[str, Any]:
    """The keywords `columns`, `question` and `names` of `read_examples`; None for what is not given."""
    return {
        "columns": columns_of(options.columns) if options.columns else None,
        "question": options.question,
        "names": texts_by_name(options.names, "--names", '{"ragno": "spider"}') if options.names else None,
    }


def columns_of(text: str) -> dict[str, str]:
    """ "prefix=question,suffix=label" as {"prefix": "question", "suffix": "label"}: our name, then the data's."""
    pairs = [[side.strip() for side in part.partition("=")[::2]] for part in text.split(",")]
    if not all(ours and theirs for ours, theirs in pairs):
        raise UserError(f"--columns {text!r}: expected pairs such as prefix=question,suffix=label")
    unknown = [ours for ours, _ in pairs if ours not in COLUMNS]
    if unknown:
        raise UserError(f"--columns {text!r}: {unknown[0]!r} is none of {', '.join(COLUMNS)}, which stand before the =")
    return dict(pairs)


def texts_by_name(text: str, flag: str, example: str) -> Mapping[str, str]:
    """An object of texts out of JSON text, or out of a file of it."""
    if text.lstrip().startswith("{"):
        value = parse_json(text, f"{flag} {quoted(text)}")
    elif Path(text).is_file():
        value = read_json(text)
    else:
        raise UserError(f"{flag} {quoted(text)}: neither JSON text nor a file of it; for example {example}")
    if not isinstance(value, dict) or not all(isinstance(one, str) and not is_blank(one) for one in value.values()):
        raise UserError(f"{flag}: expected an object of texts that are not empty, such as {example}")
    return value
