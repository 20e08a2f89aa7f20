"""A recipe as a file of Python, as in big_vision: found, run, and the line of each of its entries."""

import ast
import contextlib
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rolltune.errors import UserError

EXAMPLES = Path(__file__).parent / "recipes"  # a link to those of playground/; a wheel holds them as files


def find(path: Path) -> Path:
    """The file that `path` names: one that is there, or else recipes/NAME.py of those that come with rolltune."""
    if path.is_file():
        return path
    if path.parent == Path("recipes") and (EXAMPLES / path.name).is_file():
        return EXAMPLES / path.name
    known = ", ".join(f"recipes/{file.name}" for file in sorted(EXAMPLES.glob("*.py")))
    raise UserError(f"{path}: no such recipe; those that come with rolltune: {known or 'none'}")


def values_of(path: Path) -> dict[str, Any]:
    """What the file's `get_config()` gives, by name. Raises UserError, with the line, for whatever goes wrong in it."""
    path = find(path)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a command's own output may be read by a program
            found = runpy.run_path(str(path))
            config = found["get_config"]() if callable(found.get("get_config")) else None
            values = config.to_dict() if isinstance(config, ConfigDict) else None
    except (Exception, SystemExit) as error:  # whatever the person's file raises, they need its name and line, not ours
        own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else (own or [None])[-1]
        what = error.msg if isinstance(error, SyntaxError) else error
        ended = "; a recipe must not end the program" if isinstance(error, SystemExit) else ""
        raise UserError(f"{path}{f':{line}' if line else ''}: {type(error).__name__}: {what}{ended}") from error
    if values is None:
        raise UserError(f"{path}: expected a function get_config() that returns an ml_collections.ConfigDict")
    return {str(name): value for name, value in values.items()}


def place_in(path: Path, name: str) -> str:
    """ "FILE:LINE: NAME" of an entry in a recipe file: where it is last assigned, or stands in a dict."""
    path = find(path)
    tree = ast.parse(path.read_bytes())  # it has run: it can be parsed
    lines = [0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == name:
            lines.append(node.lineno)
        elif isinstance(node, ast.Dict):
            lines += [key.lineno for key in node.keys if isinstance(key, ast.Constant) and key.value == name]
        elif isinstance(node, ast.keyword) and node.arg == name:
            lines.append(node.value.lineno)
    return f"{path}:{max(lines)}: {name}" if max(lines) else f"{path}: {name}"
