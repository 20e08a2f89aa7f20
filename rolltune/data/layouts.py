"""How sets lie in folders: one table, a table or a folder a split, as other tools write them, or a folder a class."""

import re
from pathlib import Path

from rolltune.errors import UserError

_SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
SPLIT_NAMES = tuple(_SPLITS)
TABLES = (".jsonl", ".csv", ".tsv")
WHOLE = ("data.jsonl", "metadata.jsonl", "metadata.csv", "annotations.jsonl", "_annotations.jsonl")  # first one present
_BESIDE = frozenset(["annotations", "annotation", "data", "dataset", "metadata", "labels", "set", "split", "rows"])


def split_of(name: str) -> str | None:
    """ "train", "valid" or "test" where that is what a file's or folder's name says: "val", "_annotations.train"."""
    words = set(re.split(r"[._\-\s]+", name.casefold())) - {""}
    said = words & set(_SPLITS)
    return _SPLITS[said.pop()] if len(said) == 1 and words - set(_SPLITS) <= _BESIDE else None


def splits_in(path: str | Path) -> dict[str, Path]:
    """The splits that a folder holds, train first: a table each, or a folder each; {} where it holds none.

    Understood are train.jsonl and its like, Roboflow's _annotations.train.jsonl, train/ with a table in it
    (annotations.jsonl, metadata.csv), and train/ with a folder a class. A split has the name train, valid or test,
    whatever the set calls it. One folder of such a name among others is a class: trains beside buses.
    """
    places = sorted(place for place in Path(path).iterdir() if not place.name.startswith("."))
    tables = tables_in(Path(path))
    tables.sort(key=lambda place: (place.stem.casefold() not in _SPLITS, TABLES.index(place.suffix.lower())))
    if found := _named([(place.stem, place) for place in tables]):
        return found  # beside train.jsonl, a folder train/ is where its pictures are
    folders = [place for place in places if place.is_dir()]
    said = [folder for folder in folders if split_of(folder.name)]
    if len(said) < 2 and len(said) < len(folders):
        return {}
    return _named([(folder.name, inside) for folder in said if (inside := _rows_of(folder))])


def _named(places: list[tuple[str, Path]]) -> dict[str, Path]:
    """Split -> place, the first of a name. Where two names mean one split (val and dev), the second keeps its own."""
    found: dict[str, Path] = {}
    for name, place in places:
        split = split_of(name)
        if split is not None:
            split = split if split not in found else name.casefold()
            found.setdefault(split, place)
    order = list(dict.fromkeys(_SPLITS.values()))
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _rows_of(folder: Path) -> Path | None:
    """What holds the rows of a split's folder: the one table in it, or itself where it has a folder a class."""
    table = table_in(folder)
    if table is not None:
        return table
    return folder if any(place.is_dir() and not place.name.startswith(".") for place in folder.iterdir()) else None


def tables_in(folder: Path) -> list[Path]:
    """The tables that lie in a folder itself, by name; hidden ones, such as macOS's ._data.jsonl, are none."""
    places = (place for place in folder.iterdir() if place.suffix.lower() in TABLES and not place.is_dir())
    return sorted(place for place in places if not place.name.startswith("."))


def table_in(folder: Path) -> Path | None:
    """The table that a folder stands for; None where it holds none. UserError where it holds several."""
    tables = tables_in(folder)
    for name in WHOLE:
        if folder / name in tables:
            return folder / name
    if len(tables) > 1:
        choice = ", ".join(place.name for place in tables)
        raise UserError(f"{folder} holds several sets: name one of {choice}")
    return tables[0] if tables else None
