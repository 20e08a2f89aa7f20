"""Data sets by name, and paths as they are printed."""

import shlex
from pathlib import Path

from rolltune.data.files import safe_name
from rolltune.data.layouts import splits_in
from rolltune.errors import UserError


def find_dataset(name: str, root: Path = Path("dataset")) -> dict[str, Path]:
    """split -> file of a data set: a name below ./dataset, a folder, or one JSONL (which is then all training rows)."""
    path = root / name if not Path(name).exists() else Path(name)
    if path.is_file():
        return {"train": path}
    if not path.is_dir() and not root.is_dir():
        raise UserError(
            f"{name}: no such data set, and no folder {root} in {Path.cwd()}: cd into the folder that has it first "
            "(playground, in the repository)"
        )
    if not path.is_dir():
        there = ", ".join(sets_in(root)) or "none"
        plain = safe_name(name) == name and not name.startswith("-")
        made = f"; ./02-shuffle_data.sh -v 10 -n {shlex.quote(name)} makes it" if plain else ""
        raise UserError(f"{name}: no such file, folder or data set; in {shown(root)} there are: {there}{made}")
    files = {split: file for split, file in splits_in(path).items() if split in ("train", "valid", "test")}
    if "train" not in files:
        raise UserError(f"{path}: no train.jsonl in it; {_instead(path, root)}")
    return files


def sets_in(root: Path) -> list[str]:
    """The names of the sets below a folder, folds of one set among them, as `-d` takes them."""
    places = [path for path in sorted([*root.glob("*"), *root.glob("*/fold*")]) if path.is_dir()]
    return [place.relative_to(root).as_posix() for place in places if _is_set(place)]


def _is_set(place: Path) -> bool:
    try:
        return "train" in splits_in(place)
    except UserError:  # tables in it of which none can be told to be the one that is meant
        return False


def _instead(path: Path, root: Path) -> str:
    """What to do with a folder that holds no training rows by that name."""
    typed = lambda place: shlex.quote(shown(place))
    if inside := sets_in(path):
        return f"it holds {', '.join(inside)}: name one of these, such as -d {typed(path / inside[0])}"
    new = shlex.quote(f"{safe_name(path.name)}-split")
    if (whole := path / "data.jsonl").is_file():
        if path.resolve() == root.resolve():
            return f"./02-shuffle_data.sh -v 10 -n set1 splits {whole}, then -d set1; -d {whole} trains on all of it"
        split = f"./02-shuffle_data.sh {typed(whole)} -v 10 -n {new}"
        return f"{split} splits {whole}, then -d {new}; -d {typed(whole)} trains on all of it"
    if not any(path.iterdir()):
        return "it is empty"
    return f"./02-shuffle_data.sh {typed(path)} -v 10 -n {new} splits what it holds"


def shown(path: Path) -> str:
    """A path as the result lines print it: ./dataset/set1/train.jsonl."""
    text = path.as_posix()
    return text if path.is_absolute() or text.startswith(".") else f"./{text}"
