"""Answers with boxes to what other programs read: COCO's one file, or Pascal VOC's file a picture.

Rows of data have them in "suffix", lines of 07-predict.py (--output answers.jsonl) in "answer". Pictures stay where
they are: the files name them from where they lie.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rolltune.data.boxes import PixelBox, has_boxes, in_pixels, read
from rolltune.data.converters.output import Output, json_lines
from rolltune.data.files import distinct, json_text, relative, safe_name
from rolltune.data.image_paths import RowProblem, find_image, image_roots
from rolltune.data.images import image_size
from rolltune.errors import UserError, visible


class Found(NamedTuple):
    """A picture with all that the rows about it say."""

    path: Path
    size: tuple[int, int]  # height, width
    boxes: list[PixelBox]


def to_coco(source: Path, out: Path) -> Output:
    """out/annotations.json: images, categories by name, annotations. Written answers (07) have the score 1 each, which
    COCO's program wants of results; a model that writes gives none."""
    output = Output(out, source, beside=True)
    found, answered = _read(output, source)
    labels = {label: n for n, label in enumerate(sorted({box.label for one in found for box in one.boxes}), 1)}
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(found, 1):
        for box in one.boxes:
            width, height = round(box.xmax - box.xmin, 2), round(box.ymax - box.ymin, 2)
            told: dict[str, Any] = {"id": len(annotations) + 1, "image_id": number, "category_id": labels[box.label]}
            told |= {"bbox": [box.xmin, box.ymin, width, height], "area": round(width * height, 2), "iscrowd": 0}
            annotations.append(told | ({"score": 1.0} if answered else {}))
    images = [
        {"id": number, "file_name": relative(one.path, out.resolve()), "height": one.size[0], "width": one.size[1]}
        for number, one in enumerate(found, 1)
    ]
    categories = [{"id": number, "name": label} for label, number in labels.items()]
    whole = {"images": images, "categories": categories, "annotations": annotations}
    output.put("annotations.json", (json_text(whole, indent=1) + "\n").encode())
    return output


def to_voc(source: Path, out: Path) -> Output:
    """out/Annotations/NAME.xml for each picture. VOC counts pixels from 1, and the last ones belong to the box."""
    output, taken = Output(out, source, beside=True), dict[str, str]()
    for one in _read(output, source)[0]:
        root = ElementTree.Element("annotation")
        for name, text in (("folder", one.path.parent.name), ("filename", one.path.name)):
            ElementTree.SubElement(root, name).text = text
        ElementTree.SubElement(root, "path").text = relative(one.path, out.resolve() / "Annotations")
        _numbers(root, "size", {"width": one.size[1], "height": one.size[0], "depth": 3})
        for box in one.boxes:
            thing = ElementTree.SubElement(root, "object")
            for name, text in (("name", box.label), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
                ElementTree.SubElement(thing, name).text = visible(text)  # XML cannot hold an escape
            left, top = round(box.xmin) + 1, round(box.ymin) + 1
            right, bottom = max(left, round(box.xmax)), max(top, round(box.ymax))
            _numbers(thing, "bndbox", {"xmin": left, "ymin": top, "xmax": right, "ymax": bottom})
        ElementTree.indent(root)
        name = distinct(f"{safe_name(one.path.stem)}.xml", str(one.path), taken)
        output.put(f"Annotations/{name}", ElementTree.tostring(root, encoding="utf-8") + b"\n")
    return output


def _numbers(above: ElementTree.Element, name: str, values: dict[str, int]) -> None:
    inside = ElementTree.SubElement(above, name)
    for key, value in values.items():
        ElementTree.SubElement(inside, key).text = str(value)


def _read(output: Output, source: Path) -> tuple[list[Found], bool]:
    """The pictures in the order of the rows, and whether these are answers of a model."""
    found: dict[Path, Found] = {}
    broken, answered = 0, False
    for where, path, text, written in _answers(output, source):
        answered |= written
        said = read(text)
        if said.broken and not written and not has_boxes(text):
            output.problem(where, "the answer has no <loc0123> and is not 'none': no row of boxes")
            continue
        broken += said.broken
        if path not in found:
            try:
                found[path] = Found(path, image_size(path), [])
            except UserError as error:
                output.problem(where, str(error))
                continue
        found[path].boxes.extend(in_pixels(box, *found[path].size) for box in said.boxes)
    output.refuse()
    if not found or (broken and not any(one.boxes for one in found.values())):
        raise UserError(f"{source}: there is no box in it, and so nothing to convert")
    output.pictures = len(found)
    output.notes += [f"{broken} broken boxes are left out"] if broken else []
    return list(found.values()), answered


def _answers(output: Output, source: Path) -> Iterator[tuple[str, Path, str, bool]]:
    """(where, picture, answer, whether a model wrote it) of each line."""
    roots = image_roots(source.parent)
    for line, row in json_lines(source):
        where, written = f"{source.name}:{line}", "suffix" not in row
        text, images = row.get("answer" if written else "suffix"), row.get("images", row.get("image"))
        images = [images] if isinstance(images, str) else images
        if not isinstance(text, str) or not isinstance(images, list) or len(images) != 1:
            output.problem(
                where, 'expected a row with "image" and "suffix", or a line of 07-predict.py with one picture'
            )
            continue
        try:
            # 07 writes paths as they are typed where it ran; rows have them from their own folder.
            path = _typed(images[0]) if written else find_image(images[0], source.parent, roots)
        except RowProblem as problem:
            output.problem(where, str(problem))
            continue
        yield where, path, text, written


def _typed(value: object) -> Path:
    if not isinstance(value, str) or "\0" in value or not Path(value).is_file():
        raise RowProblem(f"image {value!r} does not exist here: run this where 07-predict.py ran")
    return Path(value).resolve()
