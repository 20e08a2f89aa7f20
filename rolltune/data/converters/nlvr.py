"""NLVR and NLVR2: is a sentence true of one picture, of three boxes, or of a pair of photos?"""

import re
from pathlib import Path

from PIL import Image

from rolltune.data.converters.output import Output, json_lines
from rolltune.data.images import open_image
from rolltune.errors import UserError

ONE = "True or false? {sentence}"
THREE = "The three pictures are three boxes, left to right. True or false? {sentence}"
PAIR = "The two pictures are left and right. True or false? {sentence}"
BOXES = ((0, 0, 100, 100), (150, 0, 250, 100), (300, 0, 400, 100))  # of NLVR's 400 x 100 picture


def convert_nlvr(
    source: Path, out: Path, *, images: Path | None = None, boxes: bool = False, split: str = ""
) -> Output:
    """`source` is the published file (dev.json, a row of JSON a line) of either set; out/data.jsonl.

    Pictures are looked for by name under `images` (the file's folder by default). `boxes` cuts NLVR's
    one picture into its three. Rows about the same pictures are one group.
    """
    rows = list(json_lines(source))
    output = Output(out, source, split)
    root = images or source.parent
    at = {path.name: path for path in sorted(root.rglob("*.png"))}
    published = source.stem.split("_")[0]
    result = []
    for line, row in rows:
        where = f"{source.name}:{line}"
        lacking = [key for key in ("identifier", "sentence", "label") if not str(row.get(key, "")).strip()]
        if lacking:
            output.problem(where, f"the row lacks {', '.join(lacking)} (test sets are published without labels)")
            continue
        identifier, sentence = str(row["identifier"]), str(row["sentence"])
        names = _names(identifier, published)
        missing = [name for name in names if name not in at]
        if missing:
            output.problem(where, f"there is no picture {', '.join(missing)} under {root}", "give --images")
            continue
        paths = [at[name] for name in names]
        try:
            pictures = _pictures(output, paths, boxes and len(paths) == 1)
        except UserError as error:
            output.problem(where, str(error))
            continue
        question = {1: ONE, 2: PAIR, 3: THREE}[len(pictures)].format(sentence=sentence)
        key = {"image": pictures[0]} if len(pictures) == 1 else {"images": pictures}
        group = names[0].rpartition("-")[0]
        made = {"prefix": question, "suffix": str(row["label"]).lower(), **key, "id": identifier, "group": group}
        result.append(made)
    output.finish(result)
    return output


def _names(identifier: str, split: str) -> list[str]:
    """NLVR2's identifiers begin with the split (dev-850-0-0), NLVR's do not (850-0)."""
    if re.fullmatch(r"[a-z]+\d*-\d+-\d+-\d+", identifier):
        pair = identifier.rpartition("-")[0]
        return [f"{pair}-img0.png", f"{pair}-img1.png"]
    return [f"{split}-{identifier}-0.png"]


def _pictures(output: Output, paths: list[Path], boxes: bool) -> list[str]:
    if not boxes:
        return [output.copy(path, path.name) for path in paths]
    with Image.open(paths[0]) as image:
        if image.size != (400, 100):
            raise UserError(
                f"{paths[0]}: {image.size[0]} x {image.size[1]}, expected NLVR's 400 x 100 with three boxes"
            )
    whole = open_image(paths[0])
    return [
        output.save(whole.crop(box), f"{paths[0].stem}-box{number}.png", f"{paths[0]}#{number}")
        for number, box in enumerate(BOXES)
    ]
