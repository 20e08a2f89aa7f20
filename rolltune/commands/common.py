"""What several commands share: recipes from flags, data sets by name, the compilation cache."""

import argparse
import os
from collections.abc import MutableMapping
from pathlib import Path

from rolltune.data.layouts import splits_in
from rolltune.errors import UserError

EPILOG = argparse.RawDescriptionHelpFormatter


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a recipe, such as recipes/paligemma_ads.py")
    parser.add_argument("--model", help='weights: "tiny" (built in), a .npz, or a Hugging Face folder')


def split_overrides(rest: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The `--config.name=value` arguments; anything else that was not understood is an error."""
    other = [text for text in rest if not text.startswith("--config.")]
    if other:
        parser.error(f"unrecognized arguments: {' '.join(other)}")
    return rest


def find_dataset(name: str, root: Path = Path("dataset")) -> dict[str, Path]:
    """split -> file of a data set: a name below ./dataset, a folder, or one JSONL (which is then all training rows)."""
    path = root / name if not Path(name).exists() else Path(name)
    if path.is_file():
        return {"train": path}
    if not path.is_dir() and not root.is_dir():
        raise UserError(f"{name}: no such data set, and no folder {root} in {Path.cwd()}: cd into playground first")
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


def share_memory(environment: MutableMapping[str, str]) -> None:
    """Says how JAX takes a card's memory, where the person has not: as it is needed, and given back when it is not."""
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # CUDA's own allocator joins what is free in pieces. JAX's usual one can't: loading leaves it holes, in which the
    # few GiB that a step needs in one piece find no place, though there is room enough in all. Nor does CUDA's keep
    # to three quarters of the card, JAX's usual limit: 9 of 12 GiB are less than four rolls take.
    environment.setdefault("XLA_PYTHON_CLIENT_ALLOCATOR", "cuda_async")


def set_up_jax() -> None:
    """Leaves the desktop some memory of its card, and keeps compiled programs from one start to the next."""
    share_memory(os.environ)
    import jax

    from rolltune.base import cache_folder

    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # JAX adds its options when imported
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    # All of them: the many that take a tenth of a second each are as long to wait for as the few long ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
