"""What each card needs where one model is cut over many, by the compiler for cards that are only described.

    pip install 'jax[cuda12]'; python benchmarks/mesh_memory.py --cards 8 32 --card h100
    python benchmarks/mesh_memory.py --model phi-3.5-vision --only adapters --cards 8

Phi-3.5-vision's published trainings are the settings: all weights, the vision tower frozen, adapters; 64 rows a step in
all, with remat. By the plan of memory (`memory.needs_of`), which compiles a few of the layers, from which all of them
follow. Prints GiB a card: what lies there (weights, what is trained, what the optimizer remembers), what the step sets
aside, and the part of a run that needs most. No card is needed.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # there is no driver to ask for its version
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
from published import CONFIGS, PICTURES

from rolltune import base, device, gpus, memory
from rolltune.models.cut import places_for
from rolltune.recipe import Recipe
from rolltune.sharding import FSDP, groups_of
from rolltune.training.outline import NoTokenizer, Stated, outline, stated_data

ROWS = 64
FROZEN_TOWER = (("vision/.*", "frozen"), (".*", "full"))
SETTINGS: dict[str, Mapping[str, Any]] = {
    "all weights in float32": {"method": "full"},
    "all weights in bfloat16, 8-bit AdamW": {
        "method": "full", "trained_dtype": "bfloat16", "optimizer": "adamw8bit",
    },
    "tower frozen, bfloat16, 8-bit AdamW": {
        "method": "rules", "rules": FROZEN_TOWER, "trained_dtype": "bfloat16", "optimizer": "adamw8bit",
    },
    "adapters of rank 32": {"method": "lora", "rank": 32},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="phi-3.5-vision", choices=CONFIGS)
    parser.add_argument("--card", default="h100")
    parser.add_argument("--cards", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--text", type=int, default=256, help="text tokens a row, half of them the answer")
    parser.add_argument("--only", default="", help="a part of a setting's name")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    with tempfile.TemporaryDirectory() as folder, device.described_gpu(gpus.find(args.card).capability):
        (Path(folder) / "config.json").write_text(json.dumps(CONFIGS[args.model]))
        for name, values in SETTINGS.items():
            if args.only not in name:
                continue
            recipe = Recipe(model=folder, batch=ROWS, remat=True, dtype="bfloat16", average="token", **values)
            opened = base.open_model(folder, "", recipe.dtype, recipe.packing, recipe.num_crops, NoTokenizer)
            shown = (PICTURES[args.model],) if args.model in PICTURES else ()
            data, inputs = stated_data(opened.model, recipe, Stated(args.text, args.text // 2, shown, ROWS))
            shapes = opened.shapes()
            for count in args.cards:
                cards = gpus.described(gpus.find(args.card), count)
                places = places_for(groups_of(1, count, cards), dict.fromkeys(shapes, FSDP), shapes)
                made = outline(opened, recipe, data, inputs, places)
                needs = memory.needs_of(made, 1, jax.sharding.SingleDeviceSharding(cards[0]))
                step = next(need for need in needs if need.part == "training step")
                lies = step.weights + step.kept + step.trained + step.optimizer
                record = {"setting": name, "cards": count, "card": args.card, "lies": gib(lies)}
                record |= {"step": gib(step.total - lies), "gib": gib(step.total)}
                most = memory.peak(needs)
                print(json.dumps(record | {"most": gib(most.total), "in": most.part}), flush=True)


def gib(size: int) -> float:
    return round(size / 2**30, 2)


if __name__ == "__main__":
    main()
