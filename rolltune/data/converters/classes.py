"""Folders of pictures, a class each, to JSONL: PlantDoc, Animals-10, and any other."""

from collections.abc import Mapping
from pathlib import Path

from rolltune.data.converters.output import Output
from rolltune.data.examples import QUESTION
from rolltune.data.findings import ERROR, NOTE, raise_errors
from rolltune.data.folders import scan_folder
from rolltune.data.layouts import split_of, splits_in

PLANT_QUESTION = "What does this leaf picture show? Name the plant and its disease, if any."
ANIMAL_QUESTION = "Which animal is in this picture? Answer with one word."

# The folders of Animals-10 have Italian names.
ANIMALS = {
    "cane": "dog",
    "cavallo": "horse",
    "elefante": "elephant",
    "farfalla": "butterfly",
    "gallina": "chicken",
    "gatto": "cat",
    "mucca": "cow",
    "pecora": "sheep",
    "ragno": "spider",
    "scoiattolo": "squirrel",
}


def convert_classes(
    source: Path, out: Path, *, question: str = QUESTION, names: Mapping[str, str] | None = None, pool: bool = False
) -> Output:
    """`source`/CLASS/picture, or `source`/train/CLASS/picture and its like: out/data.jsonl, or one JSONL a split.

    With `pool` the published splits become one data.jsonl, to be split anew. File names with `?`, `&`, `%` and what
    else Windows or a shell trips over are made safe; "original" in each row records the name it had.
    """
    output = Output(out, source)
    splits = {name: place for name, place in splits_in(source).items() if place.is_dir()}
    beside = sorted(place for place in source.iterdir() if splits and place.is_dir() and split_of(place.name))
    output.notes += [
        f"{place.name}/ was left out: it has no folder a class, and pictures without answers can't be learnt from"
        for place in beside
        if place not in splits.values()
    ]
    results = []
    for name, place in (splits or {"": source}).items():
        scan = scan_folder(place, question=question, names=names)
        raise_errors([finding for finding in scan.findings if finding.level == ERROR], str(place))
        output.notes += [str(finding) for finding in scan.findings if finding.level == NOTE]
        rows = []
        for row in scan.rows:
            within = f"{name}/{row['image']}" if name else row["image"]
            image = output.copy(place / row["image"], within)
            original = f"{place.name}/{row['image']}" if name else row["image"]
            rows.append({"prefix": row["prefix"], "suffix": row["suffix"], "image": image, "original": original})
        results.append((rows, f"{name}.jsonl" if name else "data.jsonl"))
    if pool:
        results = [([row for rows, _ in results for row in rows], "data.jsonl")]
    for rows, name in results:
        output.finish(rows, name)
    return output
