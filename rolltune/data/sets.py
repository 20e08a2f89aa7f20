"""Data sets by name, and paths as they are printed."""

from pathlib import Path

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
        raise UserError(f"{path}: no such data set; ./02-shuffle_data.sh -v 10 -n {Path(name).name} makes it")
    files = {split: file for split, file in splits_in(path).items() if split in ("train", "valid", "test")}
    if "train" not in files:
        raise UserError(f"{path}: no train.jsonl in it; ./02-shuffle_data.sh -v 10 -n {path.name} makes it")
    return files


def shown(path: Path) -> str:
    """A path as the result lines print it: ./dataset/set1/train.jsonl."""
    text = path.as_posix()
    return text if path.is_absolute() or text.startswith(".") else f"./{text}"
