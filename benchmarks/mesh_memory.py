"""What each card needs where one model is cut over many, by the compiler for cards that are only described.

    pip install 'jax[cuda12]'; python benchmarks/mesh_memory.py --cards 8 32 --card h100
    python benchmarks/mesh_memory.py --model phi-3.5-vision --only adapters --cards 8

Phi-3.5-vision's published trainings are the settings: all weights, the vision tower frozen, adapters; 64 rows a step in
all, with remat. Compiled with four and with six of the layers, from which all of them follow. Prints GiB a card: what
lies there (weights, what is trained, what the optimizer remembers), and what the step sets aside. No card is needed.
"""

import argparse
import dataclasses
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
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from published import CONFIGS, PICTURES

from rolltune import base, device, gpus
from rolltune.models.cut import Cut, Places, places_for, specs_of
from rolltune.recipe import Recipe
from rolltune.sharding import CARDS, FSDP, ROLLS, WHOLE
from rolltune.training import outline
from rolltune.training.outline import NoTokenizer, Outline, Shaped, Stated, stated_data
from rolltune.training.step import roll_specs

ROWS = 64
DEPTHS = (4, 6)  # with fewer there is no layer that remat works out again
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


def described(card: str, count: int) -> Mesh:
    """One group of so many cards of a kind."""
    kind = gpus.find(card)
    target = dict(platform="cuda", topology_name=kind.name, topology=f"1x1x{count}", target_config=kind.described())
    devices = topologies.get_topology_desc(**target).devices
    return Mesh(np.array(devices).reshape(1, count), (ROLLS, CARDS))


def cut_tree(tree: Any, path: str, places: Places) -> Any:
    """The base as `Places.put` would lay it, of shapes."""
    if isinstance(tree, dict):
        return {name: cut_tree(leaf, f"{path}/{name}" if path else name, places) for name, leaf in tree.items()}
    if isinstance(tree, list):
        return [cut_tree(leaf, path, places) for leaf in tree]
    return Cut(tree) if path in places.paths else tree


def with_places(tree: Any, specs: Any, mesh: Mesh) -> Any:
    """The shapes with where they lie; a spec stands for all that is below it."""
    is_spec = lambda leaf: isinstance(leaf, PartitionSpec)
    lay = lambda leaf, spec: Shaped(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
    below = lambda spec, part: jax.tree.map(lambda leaf: lay(leaf, spec), part)
    return jax.tree.map(below, specs, tree, is_leaf=is_spec)


def measured(made: Outline, mesh: Mesh) -> tuple[float, float]:
    """(GiB that lie on a card, GiB that the step sets aside there)."""
    shapes = made.opened.shapes()
    places = places_for(mesh, dict.fromkeys(shapes, FSDP), shapes)
    cut = places.paths.intersection(made.plan.paths("full"))
    cached = made.cached
    network = dataclasses.replace(cached.network, cut=cut)
    laid = cut_tree(cached.base, "", places)
    cached = dataclasses.replace(cached, base=laid, network=network, mesh=mesh)
    run, _ = outline.programs(dataclasses.replace(made, cached=cached))
    optimizer = run.config.optimizer
    whole = dataclasses.replace(run.config, optimizer=dataclasses.replace(optimizer, cut=frozenset()))
    rolls = outline.rolls_of(dataclasses.replace(run, config=whole, mesh=None), 1)
    batch, source = outline.batch_of(cached.training.feed, cached.training.shapes[-1], (1, 1, made.recipe.batch))
    args = (
        with_places(laid, specs_of(laid), mesh),
        with_places(source, WHOLE, mesh),
        with_places(rolls, roll_specs(optimizer, rolls.trainable, (ROLLS,)), mesh),
        with_places(batch, PartitionSpec(ROLLS, None, CARDS), mesh),
    )
    found = run.step.lower(*args).compile().memory_analysis()
    more = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes / 2**30, more / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="phi-3.5-vision", choices=CONFIGS)
    parser.add_argument("--card", default="h100")
    parser.add_argument("--cards", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--text", type=int, default=256, help="text tokens a row, half of them the answer")
    parser.add_argument("--only", default="", help="a part of a setting's name")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    with tempfile.TemporaryDirectory() as folder, device.described_gpu():
        (Path(folder) / "config.json").write_text(json.dumps(CONFIGS[args.model]))
        for name, values in SETTINGS.items():
            if args.only not in name:
                continue
            recipe = Recipe(model=folder, batch=ROWS, remat=True, dtype="bfloat16", average="token", **values)
            opened = base.open_model(folder, "", recipe.dtype, recipe.packing, recipe.num_crops, NoTokenizer)
            shown = (PICTURES[args.model],) if args.model in PICTURES else ()
            data, inputs = stated_data(opened.model, recipe, Stated(args.text, args.text // 2, shown, ROWS))
            made = outline.outline(opened, recipe, data, inputs)
            for count in args.cards:
                mesh = described(args.card, count)
                few, more = (measured(outline.cut_depth(made, depth), mesh) for depth in DEPTHS)
                each = made.depth - DEPTHS[1]
                all_layers = [b + (b - a) / (DEPTHS[1] - DEPTHS[0]) * each for a, b in zip(few, more, strict=True)]
                lies, step = (round(one, 2) for one in all_layers)
                record = {"setting": name, "cards": count, "card": args.card, "lies": lies, "step": step}
                print(json.dumps(record | {"gib": round(lies + step, 1)}), flush=True)


if __name__ == "__main__":
    main()
