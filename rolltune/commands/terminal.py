"""Printing what came out of data: on a console of any encoding, and so that no text can steer it, nor a decoder add to
it."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from rolltune.errors import visible
from rolltune.output import take_any_text
from rolltune.typed import as_typed


def terminal() -> Console:
    """The console of a command."""
    take_any_text()
    return Console(highlight=False, soft_wrap=True)


def tell(console: Console, text: str, style: str | None = None) -> None:
    """Prints a text as it can be typed and shown here, marks of rich not minded."""
    console.print(visible(as_typed(text)), markup=False, style=style)


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """libtiff and others write to stderr about files on which we report anyway; Pillow warns about them.

    What Python writes there itself, such as a progress bar, goes on.
    """
    shown = sys.stderr
    shown.flush()
    with (
        open(os.dup(2), "w", errors="backslashreplace") as kept,
        open(os.devnull, "w") as nowhere,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 2)
        if shown is sys.__stderr__:  # else somebody took its place, who gets all of it already
            sys.stderr = kept
        try:
            yield
        finally:
            sys.stderr = shown
            kept.flush()
            os.dup2(kept.fileno(), 2)
