"""LoRA adapters in the layout of the PEFT library, so that transformers users can load what was trained here."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rolltune.atomic import folder_aside
from rolltune.errors import UserError
from rolltune.weights.hf import write_safetensors
from rolltune.weights.names import Pieces, TensorMap, flatten
from rolltune.weights.npz import as_pieces


def export_peft(
    folder: Path | str,
    lora: Mapping,
    table: Sequence[TensorMap],
    rank: int,
    alpha: float,
    base_name: str,
    rslora: bool = False,
    module_tree: bool = False,
) -> None:
    """A new folder with adapter_config.json and adapter_model.safetensors.

    `lora` holds {"a": [L, in, r], "b": [L, r, out]} at the path of each adapted weight; `table` is the model's Hugging
    Face map. Names follow the published files; `module_tree` True gives those of transformers 5's module tree instead
    (PEFT names an adapter after the modules of the transformers version that loads it).
    """
    tensors, modules = {}, []
    for name, array in _named(lora, table):
        tensors[f"base_model.model.{_module_tree(name) if module_tree else name}"] = array
        modules.append(name.rsplit(".lora_", 1)[0])
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": rslora,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": _targets(modules),
    }
    with folder_aside(folder) as aside:
        (aside / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_safetensors(aside / "adapter_model.safetensors", tensors)


def _named(lora: Mapping, table: Sequence[TensorMap]) -> Iterator[tuple[str, Pieces]]:
    flat, by_path = flatten(lora), {row.path: row for row in table}
    for path, array in flat.items():
        weight, _, side = path.rpartition("/")
        row = by_path.get(weight)
        if row is None or side not in ("a", "b"):
            raise UserError(f"{path} is no LoRA factor of this model: PEFT's layout can't hold it")
        if row.layout.order != (1, 0) or row.layout.part != row.layout.file or not row.file.endswith(".weight"):
            raise UserError(f"{weight} is no linear layer of its own in the published model: PEFT can't adapt it")
        for layer in range(max(row.layers, 1)):
            ours = np.asarray(array[layer] if row.layers else array)
            module = row.name(layer).removesuffix(".weight")
            yield f"{module}.lora_{side.upper()}.weight", as_pieces(np.ascontiguousarray(ours.T))


def _module_tree(name: str) -> str:
    """The published name as transformers 5 has it in its module tree."""
    name = name.replace("language_model.model.", "language_model.").replace(
        "vision_tower.vision_model.", "vision_tower."
    )
    return f"model.{name}"


def _targets(modules: Sequence[str]) -> Any:
    """One pattern for PEFT's full match, which holds under every generation of names: part of the model, then layer."""
    kinds: dict[str, set[str]] = {}
    for module in modules:
        part, _, rest = module.partition(".")
        kinds.setdefault(part, set()).add(re.sub(r"^.*\.\d+\.", "", rest))
    parts = [rf"{part}\..*({'|'.join(re.escape(kind) for kind in sorted(names))})" for part, names in kinds.items()]
    return rf"(.*\.)?({'|'.join(parts)})"
