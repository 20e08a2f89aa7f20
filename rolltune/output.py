"""Printing that outlives its reader, on a console of any encoding: no line about the work is worth the work."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def take_any_text() -> None:
    """What the console's encoding cannot write (a Windows code page, LC_ALL=C) comes as escapes, from here on.

    A text of the data must not end a command, least of all in the table after a training.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def outlived(stream: TextIO | None = None) -> Iterator[None]:
    """What is printed inside is dropped, now and from now on, where nothing takes it any more.

    That is: a reader who has gone (`| head`), a closed terminal, a full disk. The work goes on; what is saved says it
    if its disk is full, too. `stream` None is the standard output.
    """
    stream = sys.stdout if stream is None else stream
    try:
        yield
    except (OSError, SystemExit) as error:  # rich ends the program where a reader has gone
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
