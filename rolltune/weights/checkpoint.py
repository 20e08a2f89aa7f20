"""A base model on the disk, whatever form it has: a npz, a safetensors file, or a folder with either."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolltune.errors import UserError
from rolltune.weights import whole
from rolltune.weights.hf import CONFIG, INDEX, PREPROCESSOR, read_hf, read_json
from rolltune.weights.names import Lazy, Shape
from rolltune.weights.npz import read_npz


@dataclass(frozen=True)
class Checkpoint:
    """Opened, not read. `config` is config.json's content; None beside a npz, but for a whole model's (see `whole`).

    What the folder's preprocessor_config.json says stands in it under that name: some families' sizes are there.
    """

    path: Path
    tensors: Mapping[str, Lazy]
    config: Mapping[str, Any] | None

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def name(self) -> str:
        """What a person calls it: the folder of a Hugging Face model, the npz without its ending."""
        return self.path.stem if self.path.is_file() and self.path.suffix == ".npz" else self.path.resolve().name


def open_shapes(path: Path) -> Checkpoint:
    """As `open_checkpoint`; of a folder whose weights are not there (or of its config.json), what the config says."""
    folder = path.parent if path.name == CONFIG else path
    if not (folder / CONFIG).is_file() or any(folder.glob("*.safetensors")):
        return open_checkpoint(folder)
    return Checkpoint(folder, {}, _config_of(folder))


def _config_of(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    if (folder / PREPROCESSOR).exists():
        config["preprocessor_config"] = read_json(folder / PREPROCESSOR)
    return config


def open_checkpoint(path: Path | str) -> Checkpoint:
    path = Path(path)
    try:
        there = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise UserError(f"{str(path)[:200]}: {error.strerror}; correct the path of the model") from error
    if not there:
        raise UserError(f"{path} does not exist. Download it with 01-download_models.py, or correct the path.")
    if path.is_dir() and not (path / CONFIG).exists() and not (path / INDEX).exists():
        found = sorted(path.glob("*.npz"))
        if len(found) > 1:
            raise UserError(f"{path} holds several models: name one of {', '.join(file.name for file in found)}")
        path = found[0] if found else path
    if path.suffix == ".npz":
        return Checkpoint(path, read_npz(path), whole.beside(path) if whole.is_whole(path) else None)
    if path.is_file() and path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a .npz, a .safetensors file or a folder with {CONFIG}")
    folder = path if path.is_dir() else path.parent
    tensors = read_hf(path)
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} has no {CONFIG}, which says what the tensors are. Download the whole model.")
    return Checkpoint(folder, tensors, _config_of(folder))
