"""Compiles the step of PaliGemma-3B for a GPU that need not be there, and lists what the program moves.

    pip install 'jax[cuda12]'          # the compiler comes with the plugin; no card, no driver
    python benchmarks/compiled_step.py --rolls 8
    python benchmarks/compiled_step.py --rolls 8 --layers 3 --listing step.txt   # every operation, three layers

Prints the temporaries in GiB and, by kind of operation, the bytes read and written, as the compiled program has them: a
gather counts the whole table it picks from, and what a kernel finds in a cache counts too. It is a list to look for
copies and transpositions in, not a timing; choosing kernels by trial is off, since there is nothing to try them on.
"""

import argparse
import collections
import dataclasses
import math
import os
import re
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # it asks the driver
import jax
import jax.numpy as jnp
from jax.experimental import topologies

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from step_speed import PICTURES, Lengths, random_batch

from rolltune import adapters, optim, trees
from rolltune.batch import Source
from rolltune.device import GPU_OPTIONS
from rolltune.families import paligemma
from rolltune.models.forward import Network
from rolltune.training import rolls as tickets
from rolltune.training import step as training
from rolltune.training.rolls import InitialWeights, Lottery
from rolltune.training.step import StepConfig

# What XLA wants to know of a card (its GpuTargetConfigProto): an H100 with 80 GB.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 patch: 0 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
SIZES = {"bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "pred": 1, "s8": 0}  # s8: cuBLAS's workspace
FREE = {"bitcast", "get-tuple-element", "parameter", "tuple", "constant"}


def compile_step(rolls: int, layers: int | None, batch: int, text: int, answer: int, rank: int):
    """The compiled LoRA step with cached image features, out of shapes alone."""
    config = dataclasses.replace(paligemma.CONFIGS["paligemma-3b-224"], dtype="bfloat16")
    if layers:
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, layers=layers))
    net = Network(paligemma.FAMILY, config)
    table = paligemma.names.npz_rows(config)
    flat = {
        row.path: jax.ShapeDtypeStruct(row.ours, jnp.bfloat16) for row in table if not row.path.startswith("vision/")
    }
    params, stacks = trees.unflatten(flat), net.family.stacks(config)
    words = adapters.trainability(adapters.METHODS["lora"], list(flat))
    shapes = {path: leaf.shape for path, leaf in flat.items() if words[path] == "lora"}
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params["text"]["layers"])
    params["text"]["layers"] = [one] * config.text.layers
    step_config = StepConfig(
        net, stacks, optim.Schedule("cosine", 1000, 100), optim.Optimizer("adamw", 1.0, stacks=tuple(stacks))
    )
    lottery = Lottery(0, (1e-4,), (2.0 * rank,), (0.0,), rank)
    draws = [lottery.draw(number) for number in range(rolls)]
    started = jax.eval_shape(lambda: tickets.begin(lottery, step_config, InitialWeights(shapes, {}), draws))
    lengths = Lengths(config.vision.patches, text, answer)
    rows = random_batch(net, (rolls, 1, batch), lengths, cached=True)
    source = Source(jax.ShapeDtypeStruct((PICTURES * lengths.images, config.vision.width), jnp.bfloat16))
    topology = topologies.get_topology_desc(platform="cuda", topology_name="h100", topology="1x1x1", target_config=H100)
    there = jax.sharding.SingleDeviceSharding(topology.devices[0])
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there)
    step = jax.vmap(partial(training.step, step_config), in_axes=(None, None, 0, 0))
    options = GPU_OPTIONS | {"xla_gpu_autotune_level": 0}
    jitted = jax.jit(step, donate_argnums=2, compiler_options=options)
    return jitted.lower(*jax.tree.map(place, (params, source, started, rows))).compile()


def moved(program: str) -> list[tuple[str, int, str]]:
    """(name, bytes in and out, its line) of every operation that the program's entry runs."""
    size = lambda text: sum(
        SIZES.get(kind, 4) * math.prod(map(int, filter(None, shape.split(","))))
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", text)
    )
    made: dict[str, int] = {}
    found = []
    for line in program[program.index("\nENTRY") :].splitlines():
        match = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)", line)
        if match:
            name, shape, kind, inputs = match.groups()
            made[name] = size(shape)
            if kind not in FREE:
                total = made[name] + sum(made.get(one, 0) for one in re.findall(r"%([\w.\-]+)", inputs))
                found.append((name, total, line.strip()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rolls", type=int, default=1)
    parser.add_argument("--layers", type=int, help="of the decoder, for a shorter listing (default: all)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--text", type=int, default=16, help="text tokens a row")
    parser.add_argument("--answer", type=int, default=2, help="of these, tokens of the answer")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--listing", type=Path, help="write every operation here, with its megabytes")
    args = parser.parse_args()
    compiled = compile_step(args.rolls, args.layers, args.batch, args.text, args.answer, args.rank)
    operations = moved(compiled.as_text())
    if args.listing:
        args.listing.write_text("".join(f"{total / 1e6:9.1f} MB  {line}\n" for _, total, line in operations))
    print(f"temporaries {compiled.memory_analysis().temp_size_in_bytes / 2**30:.2f} GiB")
    print(f"moved {sum(total for _, total, _ in operations) / 1e9:.1f} GB by {len(operations)} operations; by kind:")
    kinds: dict[str, list[int]] = collections.defaultdict(list)
    for name, total, _ in operations:
        kinds[re.sub(r"[.\d]+$", "", name)].append(total)
    for kind, sizes in sorted(kinds.items(), key=lambda item: -sum(item[1]))[:20]:
        print(f"{sum(sizes) / 1e9:8.2f} GB {len(sizes):5} x {sum(sizes) / len(sizes) / 1e6:8.1f} MB  {kind}")


if __name__ == "__main__":
    main()
