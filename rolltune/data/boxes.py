"""Boxes as text, in PaliGemma's way: four of <loc0000>..<loc1023> (top, left, bottom, right) and a label each.

    <loc0102><loc0000><loc0870><loc0511> red car ; <loc0512><loc0530><loc1023><loc0990> dog

A number is a share of the picture's height or width in 1,023rds, rounded: 0 is the first edge and 1023 the last
(big_vision's refcoco ops and evaluator). So a box is the same whatever size a picture is resized to, its sides squeezed
or not.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

LAST = 1023
NOTHING = "none"  # the answer of a picture in which nothing is to be found: an empty one cannot be learnt
_MARK = re.compile(r"<loc\d{4}>")
_NUMBER = re.compile(r"<loc(\d{4})>")
# A label has no marks in it; the mask that PaliGemma's `segment` writes behind a box is read over.
_PART = re.compile(r"((?:<loc\d{4}>){4})(?:(?:<seg\d{3}>){16})?([^<>]*)")


class Box(NamedTuple):
    """Edges as shares of the picture's height and width, from its top and left."""

    label: str
    top: float
    left: float
    bottom: float
    right: float


class PixelBox(NamedTuple):
    """Edges in pixels of the upright picture, from its left and top: x first, as most programs have it."""

    label: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Read(NamedTuple):
    """What an answer says: its boxes, and how many of its parts are none."""

    boxes: tuple[Box, ...]
    broken: int = 0


def has_boxes(text: str) -> bool:
    """Whether a text has a place in it, whole or not: turning or cutting the picture would make it wrong."""
    return _MARK.search(text) is not None


def is_boxes(text: str) -> bool:
    """Whether an answer is boxes from end to end, or says that there are none."""
    return not read(text).broken


def read(text: str) -> Read:
    """The boxes of an answer. What a model writes may be broken: three numbers, a number past 1023, edges the wrong way
    round or on each other, words without a place; each such part counts as one that is no box."""
    if _plain(text) in ("", NOTHING):
        return Read(())
    parts = [part for part in text.split(";") if part.strip()]
    found = [_box(part.strip()) for part in parts]
    boxes = tuple(box for box in found if box is not None)
    return Read(boxes, len(found) - len(boxes) + (not parts))


def _box(part: str) -> Box | None:
    match = _PART.fullmatch(part)
    if match is None:
        return None
    top, left, bottom, right = (int(number) for number in _NUMBER.findall(match[1]))
    if max(top, left, bottom, right) > LAST or bottom <= top or right <= left:
        return None
    return Box(" ".join(match[2].split()), top / LAST, left / LAST, bottom / LAST, right / LAST)


def _plain(text: str) -> str:
    return text.strip().rstrip(".").casefold()


def written(boxes: Sequence[Box]) -> str:
    """Boxes as an answer. Edges outside the picture move to its edge; a box too thin to be told is one step wide."""
    return " ; ".join(f"{_marks(box)} {box.label}".rstrip() for box in boxes) or NOTHING


def _marks(box: Box) -> str:
    top, bottom = _steps(box.top, box.bottom)
    left, right = _steps(box.left, box.right)
    return "".join(f"<loc{number:04d}>" for number in (top, left, bottom, right))


def _steps(low: float, high: float) -> tuple[int, int]:
    first, last = (round(min(max(share, 0.0), 1.0) * LAST) for share in (low, high))
    if first < last:
        return first, last
    return min(first, LAST - 1), min(first, LAST - 1) + 1


def in_pixels(box: Box, height: int, width: int) -> PixelBox:
    """The box on an upright picture of this size, to a hundredth of a pixel."""
    edges = (box.left * width, box.top * height, box.right * width, box.bottom * height)
    return PixelBox(box.label, *(round(edge, 2) for edge in edges))


def of_pixels(box: PixelBox, height: float, width: float) -> Box:
    return Box(box.label, box.ymin / height, box.xmin / width, box.ymax / height, box.xmax / width)


def in_words(read_boxes: Read, most: int = 4) -> str:
    """What was found, for people: "2 × cat, dog"; labels as they were written."""
    counts: dict[str, int] = {}
    for box in read_boxes.boxes:
        counts[box.label or "box"] = counts.get(box.label or "box", 0) + 1
    said = [f"{count} × {label}" if count > 1 else label for label, count in list(counts.items())[:most]]
    said += [f"{len(counts) - most} more labels"] if len(counts) > most else []
    said += [f"{read_boxes.broken} broken"] if read_boxes.broken else []
    return ", ".join(said) or "nothing"
