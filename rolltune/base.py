"""A base model, ready to use: its family, sizes, tokenizer and identity; and its parameters on the device."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
from rolltune.models.cut import uncut
from rolltune.models.family import Family
from rolltune.text import encode
from rolltune.text import tokenizer as text
from rolltune.text.tokenizer import Tokenizer
from rolltune.tracking import note
from rolltune.weights import packed, whole
from rolltune.weights.bitsandbytes import packed_shapes, stream_packed
from rolltune.weights.card import Base, RollCard
from rolltune.weights.checkpoint import Checkpoint, open_checkpoint, open_shapes
from rolltune.weights.identity import TreeDigest, base_hash
from rolltune.weights.names import TensorMap, to_file

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
    quantized: Mapping[str, str] = dataclasses.field(default_factory=dict)  # path -> word, of what was while loading

    @property
    def stacks(self) -> trees.Stacks:
        return self.family.stacks(self.config)


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint whose headers were read and checked, and none of its weights."""

    model: Model  # without its identity, which is that of the weights
    checkpoint: Checkpoint
    table: list[TensorMap]
    words: Mapping[str, str]  # path -> what is quantized while it is loaded, see `quantize.words_for`
    dtype: str  # of the weights; that of activations is the config's

    @property
    def kind(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype)

    def rows_of(self, row: TensorMap) -> int | None:
        """How many rows of a tensor are the model's; None: all of them.

        Rows past the tokenizer's are Hugging Face's padding. big_vision's form of the same model has none, and with
        them every probability would be another: with the same hash, a model is the same.
        """
        cut = row.path == EMBEDDING and self.model.family.npz is not None
        return self.model.tokenizer.size if cut else None

    def shapes(self) -> dict[str, Any]:
        """path -> what `load_opened` puts on the device there, as shapes alone; packed matrices are trees of them."""
        found: dict[str, Any] = {}
        for row in self.table:
            there = packed_shapes(self.checkpoint.tensors, row)
            rows = self.rows_of(row)
            plain = jax.ShapeDtypeStruct(row.ours if rows is None else (rows, *row.ours[1:]), self.kind)
            word = self.words.get(row.path, packing.KEEP)
            if there is not None:
                found[row.path] = packing.multiplied_as(there, word)
            else:
                found[row.path] = plain if word == packing.KEEP else packing.quantized_shapes(plain, word)
        return found


def load(
    path: str,
    tokenizer: str = "",
    dtype: str = "auto",
    quantize: Sequence[tuple[str, str]] = (),
    crops: int = 0,
    listed: bool = False,
) -> tuple[Model, dict]:
    """Opens and checks a checkpoint, and puts it on the device: `open_model`, then `load_opened`."""
    return load_opened(open_model(path, tokenizer, dtype, quantize, crops), listed)


def open_model(
    path: str,
    tokenizer: str = "",
    dtype: str = "auto",
    quantize: Sequence[tuple[str, str]] = (),
    crops: int = 0,
    stand_in: Callable[[int], Tokenizer] | None = None,
) -> Opened:
    """Opens and checks a checkpoint (big_vision npz or Hugging Face): its headers, config and tokenizer.

    Matrices that the file has in four bits stay packed; `quantize` are rules (path regex, word) for the others, see
    `quantize.words_for`, and say of those whether products are of eight bits (`quantize.multiplied_as`). `crops` are
    the tiles that a picture may be cut into, where the model has such a number; 0: as its files say. With `stand_in`,
    which makes a tokenizer for so many ids, none is looked for, and a folder without weights serves, too: its
    config.json says their shapes.

    Raises UserError for a file that is missing, damaged or of another model, naming each odd tensor.
    """
    dtype = choose_dtype(dtype)
    activations = "float32" if dtype == "float16" else dtype
    place = TINY / "paligemma-tiny.npz" if path == "tiny" else Path(path)
    checkpoint = open_checkpoint(place) if stand_in is None else open_shapes(place)
    source = str(checkpoint.path)
    family = catalogue.family_of(checkpoint)
    config = dataclasses.replace(family.config(checkpoint.config, checkpoint.shapes, source), dtype=activations)
    if crops:
        if family.with_crops is None:
            raise UserError(
                f"num_crops: {crops}, but {family.name} ({source}) has no such number: it sees pictures at its own "
                "sizes. Leave it out"
            )
        config = family.with_crops(config, crops)
    if stand_in is None:
        opened = text.load(Path(tokenizer) if tokenizer else _tokenizer_beside(checkpoint, path, family))
        text.check(
            opened, config.text.vocab, family.special_ids or _stated_ids(checkpoint), f"{source} ({family.name})"
        )
    else:
        opened = stand_in(config.text.vocab)
    if family.other_templates:
        template = encode.fitting((family.template, *family.other_templates), opened)
        family = dataclasses.replace(family, template=template)
    table = family.tensors(config, checkpoint.tensors)
    words = packing.words_for(quantize, {row.path: row.ours for row in table}) if quantize else {}
    if family.npz is not None:
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab=opened.size))
    name = "tiny" if path == "tiny" else checkpoint.name
    packed_here = {path: word for path, word in words.items() if word != packing.KEEP}
    model = Model(family, config, opened, Base(name, ""), quantized=packed_here)
    return Opened(model, checkpoint, table, words, dtype)


def load_opened(
    opened: Opened,
    listed: bool = False,
    put: Callable[[str, Any], Any] = lambda path, leaf: jax.device_put(leaf),
    *,
    keep: bool = True,
) -> tuple[Model, dict]:
    """Puts an opened checkpoint on the device leaf by leaf: `put(path, leaf)`, of a list layer by layer.

    The weights are digested while they are read: whoever saves a roll later knows what it belongs to. With `keep`, what
    is quantized here is kept on the disk for the next time. `listed`: the decoder's layers come as lists of their own
    arrays, not stacked (see `trees`).

    Raises UserError for weights that are damaged or not those that were said.
    """
    model, checkpoint = opened.model, opened.checkpoint
    source = str(checkpoint.path)
    in_list = lambda path: listed and trees.stack_of(path, model.stacks)
    quantizes, shapes = set(opened.words.values()) - {packing.KEEP}, opened.shapes()
    in_file = [path for path, leaf in shapes.items() if isinstance(leaf, packing.NF4)]
    if idle := {opened.words.get(path, packing.KEEP) for path in in_file} - {packing.KEEP, *packing.IN_FOUR_BITS}:
        words = ", ".join(sorted(idle))
        note(f"{words} counts for nothing where {source} has matrices in four bits: they stay so (nf4-float8 serves)")
    said = packed.made_of(checkpoint.path, opened.words, shapes) if quantizes else {}
    on_device = lambda path, leaf: (
        [put(path, trees.layer_of(leaf, n)) for n in range(shapes[path].shape[0])] if in_list(path) else put(path, leaf)
    )
    if quantizes and (kept := packed.read(said, shapes, on_device)):
        return _identified(opened, kept[0]), trees.unflatten(kept[1])
    digest = TreeDigest({EMBEDDING: model.tokenizer.size})
    rows = {row.path: opened.rows_of(row) for row in opened.table}
    params: dict[str, Any] = {}
    # A model's identity is that of its bfloat16 numbers, in whatever dtype it runs.
    half = opened.kind == np.float16
    read = np.dtype(ml_dtypes.bfloat16) if half else opened.kind
    for leaf, array in stream_packed(checkpoint.tensors, opened.table, read, source):
        word = packing.KEEP
        if isinstance(array, np.ndarray):
            digest.add(leaf, array)
            word = opened.words.get(leaf, word)
            array = halved(array, leaf, source) if half and word == packing.KEEP else array
        else:  # four bits are weights of their own, digested as they lie there
            array = packing.multiplied_as(array, opened.words.get(leaf, word))
            for number, part in enumerate(jax.tree.leaves(array)):
                digest.add(f"{leaf}/{number}", part)
        made = lambda part, word=word: part if word == packing.KEEP else packing.quantized(part, word)
        if in_list(leaf):
            params[leaf] = [put(leaf, made(layer)) for layer in array]
        else:
            params[leaf] = put(leaf, made(array if rows[leaf] is None else array[: rows[leaf]]))
    digests = {"hash": digest.hexdigest(), "exact": digest.exact()}
    identified = _identified(opened, digests)
    if quantizes and keep and packed.keep(said, shapes, {path: uncut(leaf) for path, leaf in params.items()}, digests):
        # Packing leaves holes between what stays on the device: 1.3 to 2 GiB of Gemma 2's and Llama's 12 on a GPU. What
        # is read from the file, as at every later start, lies close together.
        params.clear()
        if (kept := packed.read(said, shapes, on_device)) is None:
            # Another start puts its own in the place of ours, and for a moment no folder has the name: that is read,
            # then. Or the disk gives back other bytes, which was said: the weights are made again, and stay.
            return load_opened(opened, listed, put, keep=False)
        params = kept[1]
    return identified, trees.unflatten(params)


def halved(array: np.ndarray, path: str, source: str) -> np.ndarray:
    """The numbers in float16. Raises UserError where one is larger than that holds: it would be infinite."""
    with np.errstate(over="ignore"):
        made = array.astype(np.float16)
    if not np.isfinite(made).all():
        count = int(np.sum(~np.isfinite(made)))
        raise UserError(
            f"{source}: {count} numbers of {path} are larger than float16 holds (65504): --config.dtype=float32"
        )
    return made


def _identified(opened: Opened, digests: Mapping[str, str]) -> Model:
    """The model with its identity. Raises UserError where what lies beside a whole model's weights tells another."""
    checkpoint, base = opened.checkpoint, Base(opened.model.base.name, digests["hash"])
    if whole.is_whole(checkpoint.path) and checkpoint.config and checkpoint.config["weights"] != base.hash:
        raise UserError(
            f"{whole.json_of(checkpoint.path)} belongs to other weights than {checkpoint.path}: one of them was "
            "copied or written without the other. Copy both, or write both again with --whole"
        )
    return dataclasses.replace(opened.model, base=base, exact=digests["exact"])


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
