"""Printing what came out of data: on a console of any encoding, and so that no text can steer it."""

import sys

from rich.console import Console

from rolltune.errors import visible
from rolltune.typed import as_typed


def terminal() -> Console:
    """The console of a command. What its encoding cannot write (a Windows code page, LC_ALL=C) comes as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    return Console(highlight=False, soft_wrap=True)


def tell(console: Console, text: str, style: str | None = None) -> None:
    """Prints a text as it can be typed and shown here, marks of rich not minded."""
    console.print(visible(as_typed(text)), markup=False, style=style)
