"""A base model, ready to use: its family, sizes, tokenizer and identity; and its parameters on the device."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from rolltune import trees
from rolltune.device import choose_dtype
from rolltune.errors import UserError
from rolltune.families import catalogue
from rolltune.models.family import Family
from rolltune.text import tokenizer as text
from rolltune.text.tokenizer import Tokenizer
from rolltune.weights.checkpoint import open_checkpoint
from rolltune.weights.identity import TreeDigest
from rolltune.weights.names import stream
from rolltune.weights.roll_file import Base

TINY = Path(__file__).parent / "tiny"  # the model that comes with rolltune


@dataclasses.dataclass(frozen=True)
class Model:
    """All about a model but its parameters, which somebody owns, cuts up and lets go of."""

    family: Family
    config: Any
    tokenizer: Tokenizer
    base: Base
    exact: str = ""  # in a float32 run, the hash of what is below the bfloat16 that the base's hash is of

    @property
    def stacks(self) -> trees.Stacks:
        return self.family.stacks(self.config)


def load(path: str, tokenizer: str = "", dtype: str = "auto") -> tuple[Model, dict]:
    """Opens and checks a checkpoint (big_vision npz or Hugging Face), and puts it on the device leaf by leaf.

    The weights are digested while they are read: whoever saves a roll later knows what it belongs to.

    Raises UserError for a file that is missing, damaged or of another model, naming each odd tensor.
    """
    dtype = choose_dtype(dtype)
    checkpoint = open_checkpoint(TINY / "paligemma-tiny.npz" if path == "tiny" else Path(path))
    source = str(checkpoint.path)
    family = catalogue.family_of(checkpoint)
    config = dataclasses.replace(family.config(checkpoint.config, checkpoint.shapes, source), dtype=dtype)
    place = Path(tokenizer) if tokenizer else _tokenizer_beside(checkpoint.path, path, family)
    opened = text.load(place)
    text.check(opened, config.text.vocab, family.special_ids, source)
    digest = TreeDigest({"text/embed/embedding": opened.size})
    table = family.tensors(config, checkpoint.tensors)
    kind = np.dtype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
    params = {}
    for leaf, array in stream(checkpoint.tensors, table, kind, source):
        digest.add(leaf, array)
        params[leaf] = jax.device_put(array)
    name = "tiny" if path == "tiny" else checkpoint.name
    base = Base(name, digest.hexdigest())
    return Model(family, config, opened, base, digest.exact()), trees.unflatten(params)


def _tokenizer_beside(weights: Path, model: str, family: Family) -> Path:
    if model == "tiny":
        return TINY / "tokenizer.model"
    folder = weights if weights.is_dir() else weights.parent
    for place in (folder, folder.parent):
        for name in family.tokenizers:
            if (place / name).is_file():
                return place / name
    raise UserError(f"{folder}: no {family.tokenizers[0]} beside the weights; name it with --config.tokenizer=PATH")
