"""Hugging Face checkpoints: one safetensors file or shards with an index, under any of three generations of names.

Those that bitsandbytes packed to four bits read as what they were before.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from rolltune.atomic import folder_aside
from rolltune.errors import UserError
from rolltune.weights import bitsandbytes
from rolltune.weights.files import StoredTensor
from rolltune.weights.names import DTYPES, Lazy, Pieces, collapse
from rolltune.weights.npz import as_pieces

CODES = {"F32": DTYPES["float32"], "F16": DTYPES["float16"], "BF16": DTYPES["bfloat16"], "U8": np.dtype(np.uint8)}
SHARD = 5_000_000_000  # bytes, as the published files
INDEX, SINGLE, CONFIG = "model.safetensors.index.json", "model.safetensors", "config.json"
PREPROCESSOR = "preprocessor_config.json"


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Each name, and what the files published in 2024 call it: `language_model.model.X`, `vision_tower.vision_model.X`.

    transformers 5 writes `vision_tower.X`, and its own module tree says `model.language_model.X` and `lm_head`. Names
    that are none of these (text-only models) stay as they are.
    """
    names = list(names)
    several_parts = any(name.startswith(("language_model.", "model.language_model.")) for name in names)
    made = {}
    for name in names:
        new = name
        if several_parts:
            rest = name.removeprefix("model.")
            if rest.split(".")[0] in PARTS:
                new = rest
            if new.startswith("lm_head."):
                new = f"language_model.{new}"
            elif new.startswith("language_model.") and not new.startswith(KEPT):
                new = f"language_model.model.{new.removeprefix('language_model.')}"
            elif new.startswith("vision_tower.") and not new.startswith("vision_tower.vision_model."):
                new = f"vision_tower.vision_model.{new.removeprefix('vision_tower.')}"
        made[name] = new
    return made


def module_name(name: str) -> str:
    """What transformers 5 calls the module, or the tensor, of this published name: the inverse of `published_names`.

    Of a text-only model (`model.layers.0.mlp`) it is the same.
    """
    part = name.split(".")[0]
    if part not in PARTS:
        return name
    if f"{name}.".startswith(KEPT[1]):
        return name.removeprefix("language_model.")
    for published, inner in (
        ("language_model.model.", "language_model."),
        ("vision_tower.vision_model.", "vision_tower."),
    ):
        if name.startswith(published):
            name = inner + name.removeprefix(published)
    return f"model.{name}"


# What transformers before 4.31 saved beside the weights: counted or computed, not learned. Read by nobody.
BUFFERS = (".embeddings.position_ids", ".rotary_emb.inv_freq")
PARTS = ("language_model", "vision_tower", "multi_modal_projector", "vision_model", "image_newline")
KEPT = ("language_model.model.", "language_model.lm_head.")


def read_hf(path: Path | str) -> dict[str, Lazy]:
    """The tensors of a checkpoint folder (or of one safetensors file) under their published names, none read yet."""
    path = Path(path)
    tensors: dict[str, StoredTensor] = {}
    for file, listed in _shards(path).items():
        found = read_safetensors(file)
        if listed is not None and (lost := [n for n in listed if n not in found and not n.endswith(BUFFERS)]):
            raise UserError(f"{file} lacks what its index promises: {', '.join(collapse(lost))}. Download it again.")
        if twice := [name for name in found if name in tensors]:
            raise UserError(f"{file} repeats tensors of another shard: {', '.join(collapse(twice))}")
        tensors |= found
    renamed = published_names(tensors)
    if len(set(renamed.values())) < len(renamed):
        seen: dict[str, str] = {}
        pairs = [f"{name} and {seen[new]}" for name, new in renamed.items() if seen.setdefault(new, name) != name]
        raise UserError(f"{path} holds the same tensor under two names: {', '.join(pairs)}")
    return dict(bitsandbytes.joined({renamed[name]: tensor for name, tensor in tensors.items()}, str(path)))


def _shards(path: Path) -> dict[Path, list[str] | None]:
    """The safetensors files of a checkpoint, each with the names its index lists (None without an index)."""
    if path.is_file():
        return {path: None}
    if not path.is_dir():
        raise UserError(f"{path} does not exist. Download it with 01-download_models.py, or correct the path.")
    if (path / INDEX).exists():
        listed = read_json(path / INDEX).get("weight_map")
        files = list(listed.values()) if isinstance(listed, dict) else []
        if not isinstance(listed, dict) or not files or not all(_is_name(file) for file in files):
            raise UserError(f"{path / INDEX}: expected a weight_map of tensor names to file names in the same folder")
        names = set(files)
        if lost := sorted(name for name in names if not (path / name).is_file()):
            raise UserError(
                f"{path} lacks {', '.join(lost)}: the download was not finished. Run 01-download_models.py again."
            )
        return {path / file: [name for name, at in listed.items() if at == file] for file in sorted(names)}
    found = [path / SINGLE] if (path / SINGLE).exists() else list(path.glob("*.safetensors"))
    if len(found) == 1:
        return {found[0]: None}
    if found:
        raise UserError(f"{path} holds several safetensors files and no {INDEX}: give one file, or add the index.")
    old = sorted(file.name for file in path.glob("*.bin"))
    raise UserError(
        f"{path} holds no safetensors file"
        + (f" ({', '.join(old)} are pickles, which are never loaded)" if old else "")
        + ". Download the safetensors form with 01-download_models.py."
    )


def _is_name(value: Any) -> bool:
    """Whether it is the name of a file that lies in the folder itself."""
    return isinstance(value, str) and value not in ("", "..") and Path(value).name == value


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file. The library checks the header; its NumPy side would copy whole tensors and
    can't read into memory of ours, so the offsets are taken from the header."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            if start.startswith(b"version "):
                raise UserError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder.")
            with safe_open(path, framework="numpy"):
                pass
            length = struct.unpack("<Q", start)[0]
            header = json.loads(file.read(length))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (SafetensorError, struct.error, OSError) as error:
        raise UserError(
            f"{path} is no readable safetensors file ({error}): damaged, cut off or of another kind. Download it again."
        ) from error
    header = {name: entry for name, entry in header.items() if name != "__metadata__" and not name.endswith(BUFFERS)}
    if odd := [f"{name}: {entry['dtype']}" for name, entry in header.items() if entry["dtype"] not in CODES]:
        raise UserError(
            f"{path} holds tensors that are not {', '.join(DTYPES)} (a model quantized otherwise than in NF4?):\n  "
            + "\n  ".join(odd)
        )
    return {
        name: StoredTensor(path, 8 + length + entry["data_offsets"][0], tuple(entry["shape"]), CODES[entry["dtype"]])
        for name, entry in header.items()
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for a file that can't be read or is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise UserError(f"{path}: no JSON that can be read: {error}. Download it again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_hf(
    folder: Path | str, tensors: Mapping[str, np.ndarray | Pieces], config: Mapping[str, Any], shard: int = SHARD
) -> None:
    """A new folder: the tensors in safetensors files of at most `shard` bytes each, their index, and config.json."""
    with folder_aside(folder) as aside:
        fill_hf(aside, tensors, config, shard)


def fill_hf(
    folder: Path, tensors: Mapping[str, np.ndarray | Pieces], config: Mapping[str, Any], shard: int = SHARD
) -> None:
    """As `write_hf`, into a folder that is there."""
    pieces = {name: value if isinstance(value, Pieces) else as_pieces(value) for name, value in tensors.items()}
    sizes = {name: math.prod(value.shape) * value.dtype.itemsize for name, value in pieces.items()}
    groups: list[list[str]] = [[]]
    room = shard
    for name, size in sizes.items():
        if groups[-1] and size > room:
            groups.append([])
            room = shard
        groups[-1].append(name)
        room -= size
    (folder / CONFIG).write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = SINGLE if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        write_safetensors(folder / name, {key: pieces[key] for key in group})
        weight_map |= dict.fromkeys(group, name)
    if len(groups) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_safetensors(path: Path, tensors: Mapping[str, Pieces]) -> None:
    """One safetensors file, a part at a time (the library wants every tensor of a file in memory)."""
    codes = {dtype: code for code, dtype in CODES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        end = at + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data starts on a multiple of 8, so that others may map it
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        written = 0
        for tensor in tensors.values():
            for chunk in tensor.chunks():
                written += file.write(memoryview(chunk.reshape(-1).view(np.uint8)))
    if written != at:
        raise ValueError(f"{path}: {written} bytes of tensors were written, {at} announced")
