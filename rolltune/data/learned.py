"""What a roll has learned from, known by what rows show and not by the file that they stand in.

A roll carries a mark of every picture and text that it was trained on, in all of its passes. So a picture is known
again in another split of the same data, in the file that both were cut from, or under another name.
"""

import hashlib
from collections.abc import Collection, Sequence

from rolltune.data.batches import prefetch
from rolltune.data.examples import Example
from rolltune.data.files import sha256_of
from rolltune.data.splits import keys_of, text_key
from rolltune.tracking import progress

Marks = frozenset[str]
LENGTH = 16  # hexadecimal digits of a mark: 64 bits
PICTURE, TEXT, GROUP = "p", "t", "g"


def marks_of(examples: Sequence[Example]) -> list[Marks]:
    """The marks of each row: of its pictures' files and frames, or of its text, and of the group that it belongs to."""
    paths = list(dict.fromkeys(path for example in examples for path in example.images))
    digests = dict(zip(paths, progress(prefetch(sha256_of, paths), "marking images", len(paths)), strict=True))

    def of(example: Example) -> Marks:
        marks = {_mark(PICTURE, f"{digests[path]}{'' if frame is None else frame}") for path, frame in keys_of(example)}
        if not example.images:
            marks.add(_mark(TEXT, text_key(example)))
        if example.group is not None:
            marks.add(_mark(GROUP, example.group))
        return frozenset(marks)

    return [of(example) for example in examples]


def _mark(kind: str, text: str) -> str:
    return kind + hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def learned(marks: Sequence[Marks], known: Collection[str]) -> list[bool]:
    """Whether each row was learned from: its text or its group is known, or more than half of its pictures are.

    A picture that many rows share, such as one to compare with, makes none of them known.
    """
    known = set(known)

    def one(row: Marks) -> bool:
        pictures = [mark for mark in row if mark.startswith(PICTURE)]
        return bool(row & known - set(pictures)) or 2 * len(known.intersection(pictures)) > len(pictures)

    return [one(row) for row in marks]


def learned_text(count: int, of: int) -> str:
    """The sentence about rows that a roll knows already; empty where there are none."""
    if not count:
        return ""
    return f"{count} of {of} of these were learned from: no forecast for new ones"
