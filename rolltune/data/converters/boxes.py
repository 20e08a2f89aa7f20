"""Boxes of other programs (COCO, Pascal VOC, YOLO, Hugging Face) to PaliGemma's answers: see data/boxes.py."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

import yaml

from rolltune.data.boxes import PixelBox
from rolltune.data.converters import marking
from rolltune.data.converters.marking import ALL_LABELS, Marked, Wanted
from rolltune.data.converters.output import Output, json_lines
from rolltune.data.files import read_json, read_text, relative
from rolltune.data.findings import quoted
from rolltune.data.image_paths import ENDINGS
from rolltune.data.images import image_size
from rolltune.data.layouts import split_of
from rolltune.data.rows import picture_key
from rolltune.errors import UserError

VOC_SETS = {"train": ("train",), "valid": ("val", "valid"), "test": ("test",)}
VOC_SIDES = ("xmin", "ymin", "xmax", "ymax")
MOST_XML = 8 * 2**20  # bytes of one picture's annotation


def convert_coco(
    source: Path,
    out: Path,
    *,
    images: Path | None = None,
    names: Mapping[str, str] | None = None,
    wanted: Wanted = ALL_LABELS,
    split: str = "",
) -> Output:
    """COCO's instances_train2017.json and its like; pictures are looked for below `images`, or beside the file.

    Crowds are left out: they are areas, and nobody counts what is in them.
    """
    if (inside := source / "_annotations.coco.json").is_file():  # a split's folder of Roboflow's
        source = inside
    data = read_json(source)
    parts = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(_are_objects(data.get(part)) for part in parts):
        raise UserError(f"{source}: expected COCO's object with the lists images, annotations and categories")
    output, root, renamed = Output(out, images or source, split), images or source.parent, names or {}
    said = lambda entry, key: str(entry.get(key))[:80]  # ids are numbers or texts, in a broken file anything
    for part, name in (("images", "file_name"), ("categories", "name")):
        marking.check_ids(
            output, f"{source.name}, {part}", [(said(entry, "id"), entry.get(name)) for entry in data[part]]
        )
    names = {
        said(entry, "id"): marking.label(
            output, f"{source.name}, category {said(entry, 'id')}", entry.get("name"), renamed
        )
        for entry in data["categories"]
    }
    marked: dict[str, Marked] = {}
    sizes: dict[str, tuple[float, float]] = {}
    for entry in data["images"]:
        where = f"{source.name}, image {said(entry, 'id')}"
        path = marking.found(output, where, entry.get("file_name"), root, "--images says where pictures are")
        size = path and marking.size(output, where, path, entry.get("width"), entry.get("height"))
        if path and size:
            marked[said(entry, "id")], sizes[said(entry, "id")] = Marked(path), size
    left_out, known = Counter[str](), {said(entry, "id") for entry in data["images"]}
    for entry in data["annotations"]:
        where = f"{source.name}, annotation {said(entry, 'id')}"
        image, category = said(entry, "image_id"), said(entry, "category_id")
        if image not in known or category not in names:
            what, id = ("image", image) if image not in known else ("category", category)
            output.problem(where, f"its {what} {id} is not in the file")
        elif entry.get("iscrowd"):
            left_out["crowds (areas of many) are left out"] += 1
        elif image in marked and (numbers := marking.numbers(output, where, entry.get("bbox"))):
            x, y, width, height = numbers
            marking.add(
                output, where, marked[image], PixelBox(names[category], x, y, x + width, y + height), sizes[image]
            )
    used = {names.get(said(entry, "category_id")) for entry in data["annotations"]}
    above = {said(entry, "supercategory") for entry in data["categories"]}
    # Roboflow lists the set's own name as a category above all others, of which there is no box.
    labels = [name for name in names.values() if name in used or name not in above]
    return marking.finish(output, marked.values(), labels, wanted, left_out)


def convert_voc(
    source: Path,
    out: Path,
    *,
    images: Path | None = None,
    names: Mapping[str, str] | None = None,
    wanted: Wanted = ALL_LABELS,
    split: str = "",
) -> Output:
    """A folder of Pascal VOC: Annotations/ and JPEGImages/, or the XML files beside the pictures.

    With a `split` the pictures that ImageSets/Main names for it, where there is such a list. VOC counts pixels from 1,
    and its last row and column belong to the box.
    """
    if not source.is_dir():
        raise UserError(f"{source}: expected a folder of Pascal VOC (Annotations/ and JPEGImages/)")
    notes = sorted((source / "Annotations" if (source / "Annotations").is_dir() else source).rglob("*.xml"))
    listed = _listed(source, split)
    output, left_out = Output(out, source, split), Counter[str]()
    marked: list[Marked] = []
    labels: set[str] = set()
    for note in notes:
        if listed is not None and note.stem not in listed:
            continue
        where = relative(note, source)
        tree = _parsed(output, where, note)
        path = None if tree is None else _voc_picture(output, where, tree, note, images or source)
        if tree is None or path is None:
            continue
        size = marking.size(output, where, path, *(_inside(tree, f"size/{side}") for side in ("width", "height")))
        if size is None:
            continue
        one = Marked(path)
        for number, thing in enumerate(tree.iter("object"), 1):
            place = f"{where}, object {number}"
            label = marking.label(output, place, _inside(thing, "name"), names or {})
            edges = marking.numbers(output, place, [_inside(thing, f"bndbox/{side}") for side in VOC_SIDES])
            if edges and label:
                labels.add(label)
                marking.add(output, place, one, PixelBox(label, edges[0] - 1, edges[1] - 1, edges[2], edges[3]), size)
        marked.append(one)
    return marking.finish(output, marked, sorted(labels), wanted, left_out)


def convert_yolo(
    source: Path, out: Path, *, names: Mapping[str, str] | None = None, wanted: Wanted = ALL_LABELS, split: str = ""
) -> Output:
    """A folder of YOLO's: images/ and labels/ (also inside train/, val/, ...), and data.yaml or classes.txt.

    A picture without a text file has no boxes. Outlines (of segmentation) become the boxes around them.
    """
    if not source.is_dir():
        raise UserError(f"{source}: expected a folder of YOLO's, with images/ and labels/ in it")
    output = Output(out, source, split)
    called = _yolo_names(output, source, names)
    marked = []
    for path in sorted(source.rglob("*")):
        parts = path.relative_to(source).parts
        if path.suffix.lower() not in ENDINGS or "images" not in parts or any(part.startswith(".") for part in parts):
            continue
        if split and split not in {split_of(part) for part in parts[:-1]}:
            continue
        last = len(parts) - 1 - parts[::-1].index("images")
        note = source.joinpath(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
        one = Marked(path)
        lines = read_text(note).splitlines() if note.is_file() else []
        for number, line in enumerate(lines, 1):
            if line.strip():
                _add_yolo(output, f"{relative(note, source)}:{number}", one, line.split(), called)
        marked.append(one)
    return marking.finish(output, marked, list(dict.fromkeys(called.values())), wanted, Counter())


def convert_objects(
    source: Path, out: Path, *, names: Mapping[str, str] | None = None, wanted: Wanted = ALL_LABELS, split: str = ""
) -> Output:
    """Rows of a Hugging Face image folder, {"file_name", "objects": {"bbox": [[x, y, width, height]], "categories"}}.

    Numbers in the place of names are called by `names`, {"0": "cat"}.
    """
    output = Output(out, source, split)
    marked, labels = [], dict[str, None]()
    for line, row in json_lines(source):
        where, objects = f"{source.name}:{line}", row.get("objects")
        path = marking.found(output, where, row.get("image", row.get(picture_key(row) or "image")), source.parent)
        if path is None:
            continue
        one, size = Marked(path), image_size(path)
        edges, kinds = _lists(objects)
        if edges is None or kinds is None or len(edges) != len(kinds):
            expected = '{"bbox": [[x, y, width, height], ...], "categories": [...]}'
            output.problem(where, f'"objects" is not {expected}, of the same length')
            continue
        for number, (box, kind) in enumerate(zip(edges, kinds, strict=True), 1):
            place = f"{where}, box {number}"
            if not isinstance(kind, str) and (not isinstance(kind, int) or str(kind) not in (names or {})):
                output.problem(place, f"category {quoted(kind)} has no name", '--names \'{"0": "cat"}\'')
                continue
            label = marking.label(output, place, str(kind), names or {})
            if label and (numbers := marking.numbers(output, place, box)):
                x, y, width, height = numbers
                labels[label] = None
                marking.add(output, place, one, PixelBox(label, x, y, x + width, y + height), size)
        marked.append(one)
    return marking.finish(output, marked, sorted(labels), wanted, Counter())


def _add_yolo(output: Output, where: str, one: Marked, words: Sequence[str], called: Mapping[str, str]) -> None:
    numbers = marking.numbers(output, where, words[1:], len(words) - 1)
    if numbers is None:
        return
    if words[0] not in called:
        output.problem(where, f"class {quoted(words[0])} is not in the list of names")
    elif len(numbers) == 4:
        x, y, width, height = numbers
        edges = PixelBox(called[words[0]], x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        marking.add(output, where, one, edges, (1, 1))
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:
        xs, ys = numbers[::2], numbers[1::2]
        marking.add(output, where, one, PixelBox(called[words[0]], min(xs), min(ys), max(xs), max(ys)), (1, 1))
    else:
        output.problem(where, f"{len(numbers)} numbers after the class: expected x, y, width, height, or an outline")


def _yolo_names(output: Output, source: Path, names: Mapping[str, str] | None) -> dict[str, str]:
    """What the classes are called, by their numbers as text; `names` call them otherwise."""
    listed: Any = None
    file = next((path for name in ("data.yaml", "data.yml") if (path := source / name).is_file()), None)
    plain = next((path for name in ("classes.txt", "obj.names") if (path := source / name).is_file()), None)
    if file is not None:
        try:
            held = yaml.safe_load(read_text(file))
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise UserError(f"{file}: not YAML that can be read: {error}") from error
        listed = held.get("names") if isinstance(held, dict) else None
    elif plain is not None:
        listed = [line.strip() for line in read_text(plain).splitlines() if line.strip()]
    elif names:
        listed = dict(names)
    called = dict(enumerate(listed)) if isinstance(listed, list) else listed
    if not isinstance(called, dict) or not called or not all(isinstance(name, str | int) for name in called.values()):
        advice = 'give data.yaml with names, classes.txt, or --names \'{"0": "cat"}\''
        raise UserError(f"{file or plain or source}: no list of names of the classes: {advice}")
    others = names or {}
    told = {str(key): marking.label(output, f"class {key}", str(name), others) for key, name in called.items()}
    return {key: others.get(key, name) for key, name in told.items()}


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _lists(objects: object) -> tuple[list | None, list | None]:
    """The boxes and the categories; both empty where a picture has none."""
    if objects is None or objects == {}:
        return [], []
    if not isinstance(objects, dict):
        return None, None
    kinds = objects.get("categories", objects.get("category", objects.get("label")))
    edges = objects.get("bbox")
    return (edges if isinstance(edges, list) else None), (kinds if isinstance(kinds, list) else None)


def _inside(tree: ElementTree.Element, place: str) -> str:
    return (tree.findtext(place) or "").strip()


def _parsed(output: Output, where: str, note: Path) -> ElementTree.Element | None:
    if note.stat().st_size > MOST_XML:
        output.problem(where, f"more than the {MOST_XML >> 20} MiB that an annotation may have")
        return None
    data = note.read_bytes()
    try:
        checked = expat.ParserCreate()
        checked.StartDoctypeDeclHandler = _refuse_type  # asked of the parser: in UTF-16 the word is other bytes
        checked.Parse(data, True)
        return ElementTree.fromstring(data)
    except UserError as error:
        output.problem(where, str(error))
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        output.problem(where, f"not XML: {error}")
    return None


def _refuse_type(*_: object) -> None:
    """A document type declares names that stand for texts: no annotation has one, bombs do."""
    raise UserError("it declares a document type, which no annotation of VOC does")


def _voc_picture(output: Output, where: str, tree: ElementTree.Element, note: Path, root: Path) -> Path | None:
    """By the name that the annotation states, or its own: programs state what the file was called before."""
    stated = Path(_inside(tree, "filename").replace("\\", "/")).name
    folders = [folder for folder in (root / "JPEGImages", root / "images", root, note.parent) if folder.is_dir()]
    for folder in folders:
        for name in (stated, *(f"{note.stem}{ending}" for ending in sorted(ENDINGS))):
            if name and (path := folder / name).is_file() and path.suffix.lower() in ENDINGS:
                return path
    output.problem(where, f"its picture {quoted(stated)} is in none of {', '.join(map(str, folders))}", "give --images")
    return None


def _listed(source: Path, split: str) -> set[str] | None:
    """The pictures of a split by ImageSets/Main, without endings; None where there is no list."""
    for name in VOC_SETS.get(split, ()):
        if (file := source / "ImageSets" / "Main" / f"{name}.txt").is_file():
            return {line.split()[0] for line in read_text(file).splitlines() if line.strip()}
    if split and (source / "ImageSets" / "Main").is_dir():
        raise UserError(f"{source / 'ImageSets' / 'Main'}: there is no list of the split {split} in it")
    return None
