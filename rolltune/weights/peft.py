"""LoRA adapters in the layout of the PEFT library, so that transformers users can load what was trained here, and back.

An adapter is named after the modules of the transformers version that loads it. What is written has the names of
transformers 5; what is read may have those of any.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rolltune.adapters import CLASSES
from rolltune.errors import UserError
from rolltune.weights.hf import module_name, read_json, read_safetensors, write_safetensors
from rolltune.weights.names import Lazy, TensorMap, collapse, turn
from rolltune.weights.npz import as_pieces

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
HEAD = "score"  # a classifier's, as transformers' text models name it
SIDES = {"a": "lora_A", "b": "lora_B"}
# Entries of adapter_config.json that change what the factors mean, with the values that leave them what they are.
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
}


@dataclass(frozen=True)
class Scaling:
    rank: int
    alpha: float
    rslora: bool


def head_row(width: int, classes: int) -> TensorMap:
    """The head of classes as transformers' text models have it."""
    return TensorMap(CLASSES, f"{HEAD}.weight", (width, classes), turn((classes, width), (1, 0)))


def write_adapter(
    folder: Path,
    trained: Mapping[str, Any],
    table: Sequence[TensorMap],
    starts: Mapping[str, int],
    scaling: Scaling,
    base_name: str,
) -> dict[str, np.ndarray]:
    """adapter_config.json and adapter_model.safetensors, into a folder that is there; returns the tensors by name.

    `trained` holds {"a": [L, in, r], "b": [L, r, out]} at the path of each adapted weight, and a classifier's head
    as it is; its layers are those from `starts[path]` up (absent: all). `table` is the model's Hugging Face map.

    Raises UserError for what PEFT's layout has no place for.
    """
    tensors, modules = {}, []
    for module, side, array in _named(trained, table, starts):
        tensors[f"{PREFIX}{module}.{side}.weight" if side else f"{PREFIX}{module}.weight"] = array
        modules += [module] if side == SIDES["a"] else []
    if not modules:
        raise UserError("there is no LoRA factor to be written for PEFT: write the merged model instead, with --to hf")
    classifies = CLASSES in trained
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if classifies else "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": scaling.rank,
        "lora_alpha": scaling.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": scaling.rslora,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        # Each by its full name. A pattern over kinds would meet others, too: towers inside of decoders, layers below
        # the first that was trained, MLPs of layers of the other kind, which differ by their numbers alone.
        "target_modules": modules,
        "modules_to_save": [HEAD] if classifies else None,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    pieces = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_safetensors(folder / TENSORS, {name: as_pieces(array) for name, array in pieces.items()})
    return pieces


def _named(
    trained: Mapping[str, Any], table: Sequence[TensorMap], starts: Mapping[str, int]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(module, lora_A or lora_B or "", torch's tensor) of all that is trained."""
    by_path = {row.path: row for row in table}
    for path, leaf in sorted(trained.items()):
        if path == CLASSES and not isinstance(leaf, Mapping):
            yield HEAD, "", np.asarray(leaf).T
            continue
        if not isinstance(leaf, Mapping) or set(leaf) != set(SIDES):
            raise UserError(f"{path} is trained itself, not by LoRA: PEFT's layout can't hold it. Write the merged "
                            "model instead, with --to hf")  # fmt: skip
        row = by_path.get(path)
        if row is None:
            raise UserError(f"{path} is no weight of the published model: PEFT's layout can't hold an adapter of it")
        if not _is_linear(row):
            raise UserError(f"{path} is no linear layer of its own in the published model: PEFT can't adapt it")
        start = starts.get(path, 0)
        for place in range(max(row.layers - start, 0) if row.layers else 1):
            module = _module(row, place + start)
            for side, name in SIDES.items():
                array = np.asarray(leaf[side])
                yield module, name, (array[place] if row.layers else array).T


def _is_linear(row: TensorMap) -> bool:
    return row.layout.order == (1, 0) and row.layout.part == row.layout.file and row.file.endswith(".weight")


def _module(row: TensorMap, layer: int) -> str:
    return module_name(row.name(layer).removesuffix(".weight"))


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter of the PEFT library."""
    return path.is_dir() and (path / CONFIG).is_file()


def scaling_of(folder: Path) -> tuple[Scaling, str]:
    """(rank, alpha and kind of scale; what the base is called). Raises UserError for adapters of other kinds."""
    entries, source = read_json(folder / CONFIG), folder / CONFIG
    for name, allowed in PLAIN.items():
        if entries.get(name, None if name == "peft_type" else allowed[0]) not in allowed:
            raise UserError(
                f"{source}: {name} is {entries.get(name)!r}; this rolltune reads plain LoRA ({name} "
                f"{' or '.join(map(repr, allowed))})"
            )
    rank, alpha = entries.get("r"), entries.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UserError(f"{source}: r is {rank!r}, expected a whole number from 1")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < float("inf"):
        raise UserError(f"{source}: lora_alpha is {alpha!r}, expected a number above 0")
    return Scaling(rank, float(alpha), bool(entries.get("use_rslora"))), str(entries.get("base_model_name_or_path"))


def read_adapter(folder: Path, table: Sequence[TensorMap]) -> tuple[dict[str, Any], Scaling]:
    """What an adapter trains of a model whose Hugging Face map is `table`: path -> {"a", "b"}, all layers of each.

    Layers that it leaves alone have zeros. Names may be those of any version of transformers.

    Raises UserError for other kinds of adapters, naming each tensor that the model has no place for.
    """
    scaling, _ = scaling_of(folder)
    places: dict[str, tuple[TensorMap, int]] = {}
    for row in table:
        for layer in range(max(row.layers, 1)) if _is_linear(row) else ():
            places |= dict.fromkeys(_spellings(row.name(layer).removesuffix(".weight")), (row, layer))
    lazy = read_safetensors(folder / TENSORS)
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    odd, head = [], None
    for name, tensor in lazy.items():
        module, _, side = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        ours = {theirs: ours for ours, theirs in SIDES.items()}.get(side)
        if name.removeprefix(PREFIX) in (f"{HEAD}.weight", f"{HEAD}.modules_to_save.weight"):
            head = _read(tensor).T
        elif ours is None or module not in places:
            odd.append(f"{name} {list(tensor.shape)}: no linear layer of this model")
        else:
            row, layer = places[module]
            i, o = row.shape
            wanted = (scaling.rank, i) if ours == "a" else (o, scaling.rank)
            if tuple(tensor.shape) != wanted:
                odd.append(f"{name} {list(tensor.shape)}: expected {list(wanted)}")
            found.setdefault(row.path, {}).setdefault(layer, {})[ours] = _read(tensor).T
    halves = [f"{path}: one factor of two" for path, parts in found.items() if any(len(p) < 2 for p in parts.values())]
    if odd or halves or not found:
        told = [*collapse(odd), *halves] or ["no factors at all"]
        raise UserError(f"{folder} is no adapter of this model:\n  " + "\n  ".join(told))
    by_path = {row.path: row for row in table}
    trained: dict[str, Any] = {path: _stacked(by_path[path], parts, scaling.rank) for path, parts in found.items()}
    return trained | ({} if head is None else {CLASSES: head}), scaling


def _stacked(row: TensorMap, parts: Mapping[int, Mapping[str, np.ndarray]], rank: int) -> dict[str, np.ndarray]:
    i, o = row.shape
    shapes = {"a": (i, rank), "b": (rank, o)}
    if not row.layers:
        return dict(parts[0])
    made = {side: np.zeros((row.layers, *shape), np.float32) for side, shape in shapes.items()}
    for layer, own in parts.items():
        for side, array in own.items():
            made[side][layer] = array
    return made


def _spellings(module: str) -> set[str]:
    """What versions of transformers call the module of this published name: of 4.51 and before, 4.52 to 4.57, and 5."""
    middle = module_name(module).replace("model.vision_tower.", "model.vision_tower.vision_model.")
    return {module, module_name(module), middle}


def _read(tensor: Lazy) -> np.ndarray:
    return tensor.read(0, int(np.prod(tensor.shape))).reshape(tensor.shape).astype(np.float32)
