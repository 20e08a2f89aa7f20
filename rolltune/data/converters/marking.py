"""Pictures with marked boxes, whatever form they had: what is checked of each, and the rows that are made of them."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rolltune.data.boxes import NOTHING, Box, PixelBox, of_pixels, written
from rolltune.data.converters.output import Output
from rolltune.data.findings import quoted
from rolltune.data.image_paths import RowProblem, find_image, image_roots
from rolltune.data.images import image_size
from rolltune.errors import UserError

QUESTION = "detect {labels}"


@dataclass(frozen=True)
class Wanted:
    """How rows are made of boxes."""

    question: str = QUESTION  # "{labels}" becomes the labels, `;` between them
    each: bool = False  # a row a picture and label, which asks for that one alone
    empty: bool = False  # rows of what is not there, too: their answer is "none"


ALL_LABELS = Wanted()


@dataclass
class Marked:
    """A picture and its boxes, shares of its sides."""

    path: Path
    boxes: list[Box] = field(default_factory=list)


def check_ids(output: Output, where: str, named: Sequence[tuple[str, object]]) -> None:
    """Files that were put together may have an id twice: whose are its boxes?"""
    first: dict[str, object] = {}
    for id, name in named:
        if first.setdefault(id, name) != name:
            output.problem(where, f"the id {id} is of {quoted(first[id])} and of {quoted(name)}")


def finish(
    output: Output, marked: Iterable[Marked], labels: Sequence[str], wanted: Wanted, left_out: Counter[str]
) -> Output:
    """Copies the pictures and writes the rows: boxes by label in the order of the question, then from the top left."""
    output.refuse()  # before a picture is copied
    order, rows, bare = {label: place for place, label in enumerate(dict.fromkeys(labels))}, [], 0
    for one in marked:
        boxes = sorted(one.boxes, key=lambda box: (order[box.label], box.top, box.left))
        found = {label: [box for box in boxes if box.label == label] for label in order} if wanted.each else {"": boxes}
        asked = {label: some for label, some in found.items() if some or wanted.empty}
        bare += not boxes
        if not asked:
            continue
        image = output.copy(one.path, one.path.name)
        for label, some in asked.items():
            prefix = wanted.question.replace("{labels}", label or " ; ".join(order))
            rows.append({"prefix": prefix, "suffix": written(some), "image": image})
    output.notes += [f"{count} {what}" for what, count in left_out.items()]
    if bare and not wanted.empty:
        output.notes.append(f"{bare} pictures without boxes are left out (--empty takes them, answered {NOTHING!r})")
    output.finish(rows)
    return output


def add(output: Output, where: str, one: Marked, box: PixelBox, size: tuple[float, float]) -> None:
    """Puts a box on its picture of `size` (height, width); what sticks out is cut off."""
    height, width = size
    if box.xmax <= box.xmin or box.ymax <= box.ymin:
        output.problem(where, f"the box {list(box[1:])} has no area")
    elif box.xmin >= width or box.ymin >= height or box.xmax <= 0 or box.ymax <= 0:
        output.problem(where, f"the box {list(box[1:])} lies outside its picture of {width:g} x {height:g}")
    else:
        one.boxes.append(of_pixels(box, height, width))


def found(output: Output, where: str, value: object, root: Path, advice: str = "") -> Path | None:
    try:
        return find_image(value, root, image_roots(root))
    except RowProblem as problem:
        output.problem(where, str(problem), advice)
        return None


def size(output: Output, where: str, path: Path, width: object, height: object) -> tuple[float, float] | None:
    """(height, width) that the boxes were drawn for: as stated, where the upright picture has these proportions."""
    try:
        real = image_size(path)
        stated = float(str(height)), float(str(width))
    except UserError as error:
        output.problem(where, str(error))
        return None
    except ValueError:  # nothing stated: the file's own
        return real
    if not all(0 < side < math.inf for side in stated):
        return real
    if abs(stated[0] * real[1] - stated[1] * real[0]) > 0.02 * stated[1] * real[0]:
        turned = abs(stated[1] * real[1] - stated[0] * real[0]) <= 0.02 * stated[1] * real[1]
        hint = " (EXIF turns it: save it upright, and its boxes with it)" if turned else ""
        output.problem(
            where,
            f"its boxes are for a picture of {stated[1]:g} x {stated[0]:g}, {path.name} is {real[1]} x {real[0]}{hint}",
        )
        return None
    return stated


def numbers(output: Output, where: str, values: object, count: int = 4) -> list[float] | None:
    try:
        if isinstance(values, list | tuple) and len(values) == count and count:
            numbers = [float(str(value)) for value in values]
            if all(map(math.isfinite, numbers)):
                return numbers
    except ValueError:
        pass
    output.problem(where, f"the box is {quoted(values)}: expected {count or 4} numbers")
    return None


def label(output: Output, where: str, name: object, others: Mapping[str, str]) -> str:
    """What a label is called, by `others` where they call it otherwise; "" for one that would break an answer."""
    label = " ".join(str(name or "").split())
    label = others.get(label, label)
    if not label or any(sign in label for sign in ";<>"):
        output.problem(
            where, f"the label {quoted(name)}: expected words without ; < and >", "--names calls it otherwise"
        )
        return ""
    return label
