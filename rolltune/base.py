"""A base model, ready to use: which family, its sizes, its parameters on the device, its tokenizer, its identity."""

import dataclasses
import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import ml_dtypes
import numpy as np

from rolltune import adapters, atomic
from rolltune.errors import UserError
from rolltune.models import decoder, paligemma, paligemma_names, vision
from rolltune.text import tokenizer as text
from rolltune.weights.adapters import Base
from rolltune.weights.checkpoint import open_checkpoint
from rolltune.weights.identity import TreeDigest
from rolltune.weights.names import stream

TINY = Path(__file__).parent / "tiny"  # the model that comes with rolltune
TOKENIZERS = ("tokenizer.model", "paligemma_tokenizer.model")


@dataclasses.dataclass
class Model:
    family: ModuleType
    config: Any
    params: dict
    tokenizer: Any
    name: str
    digest: TreeDigest | None
    remembered: Path  # where the digest is kept from one start to the next

    @cached_property
    def base(self) -> Base:
        """Name and hash. Waits for the digest where this file was never loaded before."""
        if self.digest is None:
            return Base(self.name, json.loads(self.remembered.read_text())["hash"])
        value = self.digest.hexdigest()
        atomic.write_json(self.remembered, {"hash": value})
        return Base(self.name, value)


def cache_folder() -> Path:
    """An empty ROLLTUNE_CACHE is none: it must not become the current folder."""
    return Path(os.environ.get("ROLLTUNE_CACHE") or Path.home() / ".cache" / "rolltune")


def choose_dtype(dtype: str) -> str:
    if dtype != "auto":
        return dtype
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def load(path: str, tokenizer: str = "", dtype: str = "auto") -> Model:
    """Opens and checks a checkpoint (big_vision npz or Hugging Face), and puts it on the device leaf by leaf.

    Raises UserError for a file that is missing, damaged or of another model, naming each odd tensor.
    """
    dtype = choose_dtype(dtype)
    weights = TINY / "paligemma-tiny.npz" if path == "tiny" else Path(path)
    checkpoint = open_checkpoint(weights)
    sizes = paligemma_names.sizes_from(checkpoint.shapes, checkpoint.config, str(checkpoint.path))
    text_sizes = dict(sizes["text"])
    if checkpoint.config is None:  # big_vision, whose format this is, applies neither in training
        text_sizes |= {"final_softcap": None, "sliding_window": None}
    config = paligemma.Config(
        vision.Config(**sizes["vision"]),
        decoder.Config(**text_sizes),
        resize="bilinear" if checkpoint.config is None else "bicubic",
        dtype=dtype,
    )
    opened = text.load(_tokenizer_path(tokenizer, path, checkpoint.path))
    if opened.size > config.text.vocab:
        raise UserError(
            f"{checkpoint.path} has {config.text.vocab} rows of embedding, its tokenizer {opened.size} pieces: "
            "they do not belong together"
        )
    remembered = _remembered(checkpoint.path)
    digest = None if remembered.is_file() else TreeDigest({"text/embed/embedding": opened.size})
    rows = paligemma_names.rows_for(checkpoint.tensors, config)
    kind = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    params = {}
    for leaf, array in stream(checkpoint.tensors, rows, kind, str(checkpoint.path)):
        if digest is not None:
            digest.add(leaf, array)
        params[leaf] = jax.device_put(array)
    name = "tiny" if path == "tiny" else checkpoint.name
    return Model(paligemma, config, adapters.unflatten(params), opened, name, digest, remembered)


def _tokenizer_path(given: str, model: str, weights: Path) -> Path:
    if given:
        return Path(given)
    if model == "tiny":
        return TINY / "tokenizer.model"
    folder = weights if weights.is_dir() else weights.parent
    for place in (folder, folder.parent):
        for name in TOKENIZERS:
            if (place / name).is_file():
                return place / name
    raise UserError(f"{folder}: no {TOKENIZERS[0]} beside the weights; name it with --config.tokenizer=PATH")


def _remembered(path: Path) -> Path:
    """The digest's file, named by what changes whenever a weight file does: names, sizes and times."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stamps = [f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.is_file()]
    return cache_folder() / "identity" / f"{hashlib.sha256(chr(10).join(stamps).encode()).hexdigest()[:32]}.json"
