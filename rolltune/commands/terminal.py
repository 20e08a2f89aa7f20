"""Printing what came out of data: on a console of any encoding, and so that no text can steer it."""

import sys

from rich.console import Console

from rolltune.data.findings import visible


def terminal() -> Console:
    """The console of a command. What its encoding cannot write (a Windows code page, LC_ALL=C) comes as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    return Console(highlight=False, soft_wrap=True)


def tell(console: Console, text: str, style: str | None = None) -> None:
    """Prints a text as it is, marks of rich not minded, signs that would steer the terminal as escapes."""
    console.print(visible(text), markup=False, style=style)
