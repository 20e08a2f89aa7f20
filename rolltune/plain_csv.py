"""CSV that a spreadsheet shows and does not compute: texts come from data, and its cells may begin as formulas do."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rolltune import plain_json

# What spreadsheets compute, or cut off to find that behind it; of other scripts' wide signs, too.
_FORMULA = re.compile("[=+@\t\r\n\uff0b\uff0d\uff1d\uff20-]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf", re.ASCII)


def dumps(columns: Sequence[Any], rows: Sequence[Mapping[Any, object]]) -> str:
    """A header and a line a row; what a row has beside the columns is left out. Lists and objects are JSON.

    A text that begins as a formula and is no number gets an apostrophe before it: a spreadsheet then takes it for text
    (https://owasp.org/www-community/attacks/CSV_Injection). Who needs texts as they are takes JSON.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(map(_cell, columns))
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, list | tuple | dict):
        return plain_json.dumps(value)
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
