"""What a roll has learned from, known by what rows show and not by the file that they stand in.

A roll carries a mark of every picture and text that it was trained on, in all of its passes. So a picture is known
again in another split of the same data, in the file that both were cut from, or under another name. Saved again,
resized, turned or mirrored it is known by the rule by which a split keeps copies on one side: a picture's mark ends in
what that rule needs, its hashes and its 16 x 16 pixels, some 0.7 KB.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from rolltune.data.batches import prefetch
from rolltune.data.examples import Example
from rolltune.data.files import sha256_of
from rolltune.data.fingerprints import SMALL, Fingerprint, Look, fingerprints, near_looks
from rolltune.data.splits import keys_of, text_key
from rolltune.tracking import progress

Marks = frozenset[str]
LENGTH = 16  # hexadecimal digits of a mark: 64 bits
PICTURE, TEXT, GROUP = "p", "t", "g"


def marks_of(examples: Sequence[Example]) -> list[Marks]:
    """The marks of each row: of its pictures' files and frames, or of its text, and of the group that it belongs to."""
    paths = list(dict.fromkeys(path for example in examples for path in example.images))
    digests = dict(zip(paths, progress(prefetch(sha256_of, paths), "marking images", len(paths)), strict=True))
    prints = fingerprints((key for example in examples for key in keys_of(example)), every_frame=False)
    looks = {key: _look_text(one) for key, one in prints.items() if isinstance(one, Fingerprint) and not one.flat}

    def of(example: Example) -> Marks:
        marks = {
            _mark(PICTURE, f"{digests[path]}{'' if frame is None else frame}") + looks.get((path, frame), "")
            for path, frame in keys_of(example)
        }
        if not example.images:
            marks.add(_mark(TEXT, text_key(example)))
        if example.group is not None:
            marks.add(_mark(GROUP, example.group))
        return frozenset(marks)

    return [of(example) for example in examples]


def _mark(kind: str, text: str) -> str:
    return kind + hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def exactly(mark: str) -> str:
    """A mark without what a picture looks like: of this file and no other."""
    return mark[: 1 + LENGTH]


def _look_text(one: Fingerprint) -> str:
    return base64.b85encode(zlib.compress(one.hashes.astype("<u8").tobytes() + one.small.tobytes())).decode()


def _looks(marks: Iterable[str]) -> dict[str, Look]:
    """What the pictures of these marks look like, those that say it."""
    found = {}
    for mark in marks:
        try:
            data = zlib.decompress(base64.b85decode(mark[1 + LENGTH :]))
            small = np.frombuffer(data[64:], np.uint8).reshape(SMALL, SMALL, 3)
            found[mark] = Look(np.frombuffer(data[:64], "<u8"), small)
        except (ValueError, binascii.Error, zlib.error):  # says nothing (one colour all over), or was damaged
            continue
    return found


def learned(marks: Sequence[Marks], known: Collection[str]) -> list[bool]:
    """Whether each row was learned from: its text or its group is known, or more than half of its pictures are.

    A picture that many rows share, such as one to compare with, makes none of them known.
    """
    exact = set(map(exactly, known))
    again = {mark: exactly(mark) in exact for mark in frozenset().union(*marks)}
    new = _looks(mark for mark, there in again.items() if not there)
    if new:
        names, theirs = list(new), list(_looks(known).values())
        again |= {names[place]: True for place, _, _ in near_looks(list(new.values()), theirs)}
    return [_row_learned(row, again) for row in marks]


def _row_learned(row: Marks, again: Mapping[str, bool]) -> bool:
    pictures = [again[mark] for mark in row if mark.startswith(PICTURE)]
    others = [again[mark] for mark in row if not mark.startswith(PICTURE)]
    return any(others) or 2 * sum(pictures) > len(pictures)


def learned_text(count: int, of: int) -> str:
    """The sentence about rows that a roll knows already; empty where there are none."""
    if not count:
        return ""
    return f"{count} of {of} of these were learned from: no forecast for new ones"
