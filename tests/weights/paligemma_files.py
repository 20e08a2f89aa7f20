"""Opens a PaliGemma file with the map that its own sizes give: shared by the tests of this room."""

import json
from pathlib import Path
from types import SimpleNamespace

from rolltune.families import paligemma_config
from rolltune.families import paligemma_names as names
from rolltune.weights.hf import read_hf
from rolltune.weights.npz import read_npz


def sizes_of(numbers: dict) -> SimpleNamespace:
    return SimpleNamespace(vision=SimpleNamespace(**numbers["vision"]), text=SimpleNamespace(**numbers["text"]))


def open_npz(path: Path):
    lazy = read_npz(path)
    sizes = sizes_of(names.sizes_from_npz({name: tensor.shape for name, tensor in lazy.items()}))
    return lazy, names.rows_for(lazy, sizes), sizes


def open_hf(folder: Path):
    lazy = read_hf(folder)
    sizes = sizes_of(paligemma_config.sizes_from_hf(json.loads((folder / "config.json").read_text())))
    return lazy, names.rows_for(lazy, sizes), sizes
