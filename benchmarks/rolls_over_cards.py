"""Times the step of many rolls on one card and over several, in one run: real size, random weights, nothing downloaded.

    python benchmarks/rolls_over_cards.py                       # PaliGemma-3B, 16 rolls, on 1 and 2 cards
    python benchmarks/rolls_over_cards.py --cards 1 2 4 8 --rolls 64
    XLA_FLAGS=--xla_force_host_platform_device_count=2 python benchmarks/rolls_over_cards.py --model tiny --steps 3

The rows are those of step_speed.py: two a roll, image features in a table on each card. They come from the host anew
at every step, as in a training, each card's own rolls' to it. Prints a JSON line for each number of cards: samples/s
over all rolls, milliseconds a step, GiB on the fullest card, the program's collectives by name; then the ratios of
samples/s to the first line's. All cards but those in use are idle meanwhile.
"""

import argparse
import dataclasses
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from step_speed import PICTURES, Lengths, paced, random_batch, random_params

from rolltune import adapters, optim, sharding, trees
from rolltune.batch import Source
from rolltune.families import paligemma
from rolltune.models.forward import Network
from rolltune.training import rolls as tickets
from rolltune.training.rolls import InitialWeights, Lottery
from rolltune.training.step import StepConfig, compile_step

COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|all-to-all|reduce-scatter|collective-\w+|send|recv)(?:-start)?\(", re.MULTILINE
)


@dataclasses.dataclass(frozen=True)
class Job:
    """What is the same on any number of cards. `base` and `source` lie on the first card until they are moved."""

    config: StepConfig
    base: dict
    source: Source
    shapes: dict[str, tuple[int, ...]]
    batch: Any
    rank: int


def job_of(args: argparse.Namespace) -> Job:
    dtype = "float32" if args.model == "tiny" else "bfloat16"
    family, config = paligemma.FAMILY, dataclasses.replace(paligemma.CONFIGS[args.model], dtype=dtype)
    params = random_params(paligemma.names.npz_rows(config), dtype)
    del params["vision"]
    stacks = family.stacks(config)
    flat = trees.flatten(params)
    words = adapters.trainability(adapters.METHODS["lora"], list(flat))
    shapes = {path: tuple(flat[path].shape) for path in flat if words[path] == "lora"}
    del flat
    lengths = Lengths(config.vision.patches, args.text, args.answer)
    net = Network(family, config)
    table = (PICTURES * lengths.images, config.vision.width)
    source = Source(jax.random.normal(jax.random.key(1), table, dtype))
    base = trees.arrange(params, stacks, 0, True)
    optimizer = optim.Optimizer("adamw", 1.0, stacks=tuple(stacks))
    step_config = StepConfig(net, stacks, optim.Schedule("cosine", 1000, 100), optimizer)
    batch = random_batch(net, (args.rolls, 1, args.batch), lengths, True)
    return Job(step_config, base, source, shapes, batch, args.rank)


def timed(job: Job, cards: int, rolls: int, steps: int) -> dict[str, Any]:
    """A line of figures. Leaves the base on these cards: on the first ones that the next, larger number has as well."""
    here = sharding.cards_here()[:cards]
    mesh = Mesh(np.array(here), (sharding.ROLLS,)) if cards > 1 else None
    began = time.perf_counter()
    source = job.source
    if mesh is not None:
        sharding.whole_on_each(job.base, mesh)
        source = jax.device_put(source, NamedSharding(mesh, sharding.WHOLE))
    jax.block_until_ready((job.base, source))
    placing = time.perf_counter() - began
    lottery = Lottery(0, (1e-4,), (2.0 * job.rank,), (0.0,), job.rank)
    draws = [lottery.draw(number) for number in range(rolls)]
    state = tickets.begin(lottery, job.config, InitialWeights(job.shapes, {}), draws, mesh)
    began = time.perf_counter()
    compiled = compile_step(job.config, mesh).lower(job.base, source, state, job.batch).compile()
    compiling = time.perf_counter() - began
    splits = None if mesh is None else NamedSharding(mesh, sharding.SPLIT)

    def once() -> Any:
        # Sent while the steps before it still run, as the jitted program does with what comes from the host.
        nonlocal state, report
        state, report = compiled(job.base, source, state, jax.device_put(job.batch, splits))
        return report.loss

    report = None
    jax.block_until_ready(once())
    seconds, spread = paced(once, steps)
    peaks = [(one.memory_stats() or {}).get("peak_bytes_in_use", 0) for one in here]
    return {
        "cards": cards,
        "rolls": rolls,
        "samples_s": round(job.batch.tokens[..., 0].size / seconds, 2),
        "step_ms": round(seconds * 1e3, 2),
        "spread_ms": round(spread * 1e3, 2),
        "compile_s": round(compiling, 1),
        "placing_s": round(placing, 1),
        "peak_gib": [round(peak / 2**30, 2) for peak in peaks],
        "temporary_gib": round(compiled.memory_analysis().temp_size_in_bytes / 2**30, 2),
        "collectives": dict(Counter(COLLECTIVE.findall(compiled.as_text()))),
        "losses": [round(float(loss), 4) for loss in np.asarray(report.loss)[[0, -1]]],
        "device": here[0].device_kind,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="paligemma-3b-224", choices=paligemma.CONFIGS)
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2], help="rising: the base stays where it was put")
    parser.add_argument("--rolls", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--text", type=int, default=16, help="text tokens a row")
    parser.add_argument("--answer", type=int, default=2, help="of these, tokens of the answer")
    parser.add_argument("--steps", type=int, default=30, help="that are measured")
    args = parser.parse_args()
    there = len(sharding.cards_here())
    if sorted(args.cards) != args.cards or args.cards[-1] > there:
        parser.error(f"--cards {args.cards}: expected rising numbers, up to the {there} that are here")
    if odd := [count for count in args.cards if args.rolls % count]:
        parser.error(f"--rolls {args.rolls} can't be laid on {odd[0]} cards evenly")
    job, first = job_of(args), None
    for count in args.cards:
        record = timed(job, count, args.rolls, args.steps)
        first = first or record
        print(json.dumps(record | {"ratio": round(record["samples_s"] / first["samples_s"], 3)}), flush=True)


if __name__ == "__main__":
    main()
