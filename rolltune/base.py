"""A base model, ready to use: its family, sizes, tokenizer and identity; and its parameters on the device."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from rolltune import quantize as packing
from rolltune import trees
from rolltune.device import choose_dtype
from rolltune.errors import UserError
from rolltune.families import catalogue
from rolltune.models.family import Family
from rolltune.text import encode
from rolltune.text import tokenizer as text
from rolltune.text.tokenizer import Tokenizer
from rolltune.weights import whole
from rolltune.weights.bitsandbytes import stream_packed
from rolltune.weights.card import Base, RollCard
from rolltune.weights.checkpoint import Checkpoint, open_checkpoint
from rolltune.weights.identity import TreeDigest, base_hash
from rolltune.weights.names import to_file

EMBEDDING = "text/embed/embedding"
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


def load(
    path: str,
    tokenizer: str = "",
    dtype: str = "auto",
    quantize: Sequence[tuple[str, str]] = (),
    listed: bool = False,
) -> tuple[Model, dict]:
    """Opens and checks a checkpoint (big_vision npz or Hugging Face), and puts it on the device leaf by leaf.

    The weights are digested while they are read: whoever saves a roll later knows what it belongs to. Matrices that the
    file has in four bits stay packed; `quantize` are rules (path regex, word) for the others, see `quantize.words_for`.
    `listed`: the decoder's layers come as lists of their own arrays, not stacked (see `trees`).

    Raises UserError for a file that is missing, damaged or of another model, naming each odd tensor.
    """
    dtype = choose_dtype(dtype)
    checkpoint = open_checkpoint(TINY / "paligemma-tiny.npz" if path == "tiny" else Path(path))
    source = str(checkpoint.path)
    family = catalogue.family_of(checkpoint)
    config = dataclasses.replace(family.config(checkpoint.config, checkpoint.shapes, source), dtype=dtype)
    place = Path(tokenizer) if tokenizer else _tokenizer_beside(checkpoint, path, family)
    opened = text.load(place)
    text.check(opened, config.text.vocab, family.special_ids or _stated_ids(checkpoint), f"{source} ({family.name})")
    if family.other_templates:
        template = encode.fitting((family.template, *family.other_templates), opened)
        family = dataclasses.replace(family, template=template)
    digest = TreeDigest({EMBEDDING: opened.size})
    table = family.tensors(config, checkpoint.tensors)
    kind = np.dtype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
    words = packing.words_for(quantize, {row.path: row.ours for row in table}) if quantize else {}
    stacks = family.stacks(config)
    params: dict[str, Any] = {}
    for leaf, array in stream_packed(checkpoint.tensors, table, kind, source):
        if isinstance(array, np.ndarray):
            digest.add(leaf, array)
        else:  # four bits are weights of their own, digested as they lie there
            for number, part in enumerate(jax.tree.leaves(array)):
                digest.add(f"{leaf}/{number}", part)
        word = words.get(leaf, packing.KEEP) if isinstance(array, np.ndarray) else packing.KEEP
        put = jax.device_put if word == packing.KEEP else functools.partial(packing.quantized, word=word)
        if listed and trees.stack_of(leaf, stacks):
            params[leaf] = [put(layer) for layer in array]
            continue
        # Rows past the tokenizer's are Hugging Face's padding. big_vision's form of the same model has none, and with
        # them every probability would be another: with the same hash, a model is the same.
        cut = leaf == EMBEDDING and family.npz is not None
        params[leaf] = put(array[: opened.size] if cut else array)
    if family.npz is not None:
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab=opened.size))
    name = "tiny" if path == "tiny" else checkpoint.name
    base = Base(name, digest.hexdigest())
    if whole.is_whole(checkpoint.path) and checkpoint.config and checkpoint.config["weights"] != base.hash:
        raise UserError(
            f"{whole.json_of(checkpoint.path)} belongs to other weights than {source}: one of them was copied or "
            "written without the other. Copy both, or write both again with --whole"
        )
    return Model(family, config, opened, base, digest.exact()), trees.unflatten(params)


def check_whole(model: Model, classifier: bool) -> None:
    """Raises UserError where `save_whole` could not write the model: to be asked before it is trained."""
    if model.family.npz is None:
        raise UserError(f"--whole: {model.family.name} is not published as one npz; leave --whole away")
    if classifier:
        raise UserError("--whole: big_vision's npz has no place for a head of classes; leave --whole away")


def save_whole(path: Path, params: Mapping, model: Model, card: RollCard) -> None:
    """Writes `params`, `model`'s with a roll worked in, as PATH.whole.npz and the JSON file beside it."""
    check_whole(model, "classes" in params["text"])
    assert model.family.npz is not None and model.family.unsaid is not None
    said = {
        "model_type": model.family.model_types[0],
        "config": model.family.unsaid(model.config),
        "tokenizer": str(model.tokenizer.path.resolve()),
    }
    tensors = to_file(params, model.family.npz(model.config))
    whole.write_whole(path, tensors, said, base_hash(params, {EMBEDDING: model.tokenizer.size}), card)


def _stated_ids(checkpoint: Checkpoint) -> dict[str, int]:
    """The beginning token by config.json, of families whose models each have their own."""
    stated = (checkpoint.config or {}).get("bos_token_id")
    return {"bos": stated} if isinstance(stated, int) and not isinstance(stated, bool) else {}


def _tokenizer_beside(checkpoint: Checkpoint, model: str, family: Family) -> Path:
    if model == "tiny":
        return TINY / "tokenizer.model"
    weights = checkpoint.path
    if whole.is_whole(weights) and checkpoint.config and Path(checkpoint.config["tokenizer"]).is_file():
        return Path(checkpoint.config["tokenizer"])
    folder = weights if weights.is_dir() else weights.parent
    for place in (folder, folder.parent):
        for name in family.tokenizers:
            if (place / name).is_file():
                return place / name
    raise UserError(f"{folder}: no {family.tokenizers[0]} beside the weights; name it with --config.tokenizer=PATH")
