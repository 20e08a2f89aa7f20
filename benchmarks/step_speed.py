"""Times the training step at real size with random weights, one setting a process; nothing is downloaded.

    python benchmarks/step_speed.py --batch 2
    python benchmarks/step_speed.py --batch 2 --rolls 8 --text 16 --answer 2 --cached
    python benchmarks/step_speed.py --model tiny --batch 2 --steps 3     # to try it on a CPU

Prints one JSON line: samples/s over all rolls, milliseconds a step, seconds of compiling, peak GiB.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rolltune import adapters, optim, trees
from rolltune.batch import NOTHING, Batch, Source
from rolltune.families import paligemma
from rolltune.models.forward import Network
from rolltune.quantize import DECODER, KEEP, KINDS, quantize_tree
from rolltune.training import rolls as tickets
from rolltune.training import step as training
from rolltune.training.rolls import InitialWeights, Lottery
from rolltune.training.step import StepConfig
from rolltune.weights.names import TensorMap

PICTURES = 86


def random_params(table: Sequence[TensorMap], dtype: Any) -> dict:
    """A tree of the name map's shapes, a leaf at a time in its final dtype."""
    draw = jax.jit(lambda key, shape: jax.random.normal(key, shape, dtype) * 0.02, static_argnums=1)
    keys = jax.random.split(jax.random.key(0), len(table))
    return trees.unflatten({row.path: draw(key, row.ours) for key, row in zip(keys, table, strict=True)})


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Of a row: picture rows before the text, text tokens, and how many of these are the answer."""

    images: int
    text: int
    answer: int

    @property
    def tokens(self) -> int:
        return self.images + self.text


def random_batch(net: Network, lead: tuple[int, ...], lengths: Lengths, cached: bool) -> Batch:
    """A batch [*lead, ...] of one picture a row, in a table of all pictures or as the row's own pixels."""
    rng, count, start = np.random.default_rng(0), lengths.tokens, lengths.tokens - lengths.answer
    fill = lambda values, *tail: np.broadcast_to(np.asarray(values, np.int32), (*lead, *tail)).copy()
    each = lengths.images if not net.first else count  # rows of the table for each picture, or for each row
    picture = rng.integers(0, PICTURES if cached else 1, (*lead, 1)) * each
    slots = fill(-1, count)
    slots[..., :each] = picture + np.arange(each)
    side = net.config.vision.image_size
    tiles = (0, 1, 1) if cached else (1, side, side)
    return Batch(
        tokens=rng.integers(4, net.text.vocab, (*lead, count), dtype=np.int32),
        positions=fill(np.arange(count), count),
        blocks=fill(np.r_[np.zeros(start), np.arange(1, lengths.answer + 1)], count),
        segments=fill(np.r_[np.zeros(start), np.ones(lengths.answer)], count),
        slots=slots,
        predict=fill(np.arange(start - 1, start - 1 + lengths.answer), lengths.answer),
        targets=rng.integers(4, net.text.vocab, (*lead, lengths.answer), dtype=np.int32),
        candidates=fill(0, lengths.answer),
        weights=np.ones((*lead, lengths.answer), np.float32),
        label=fill(0),
        valid=np.ones(lead, bool),
        keys=fill(0, 0),
        seen=fill(0, 0, 2),
        tiles=rng.integers(0, 256, (*lead, *tiles, 3), dtype=np.uint8),
        aspect=fill(0, 0 if cached else 1),
    )


def paced(step: Callable[[], Any], count: int) -> tuple[float, float]:
    """(median, range of the middle half) of the seconds from one step's end to the next one's. The host is two steps
    ahead, as a training's, which asks for its losses now and then only: what it takes to send a step is not waited for.
    """
    ahead = [step(), step()]
    jax.block_until_ready(ahead.pop(0))
    ends = [time.perf_counter()]
    for number in range(count):
        if number < count - 1:
            ahead.append(step())
        jax.block_until_ready(ahead.pop(0))
        ends.append(time.perf_counter())
    times = np.diff(ends)
    low, middle, high = np.percentile(times, [25, 50, 75])
    return float(middle), float(high - low)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="paligemma-3b-224", choices=paligemma.CONFIGS)
    parser.add_argument("--method", default="lora", choices=adapters.METHODS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--rolls", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--text", type=int, default=128, help="text tokens a row")
    parser.add_argument("--answer", type=int, default=64, help="of these, tokens of the answer")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--layers", default="list", choices=["list", "scan"])
    parser.add_argument("--first-layer", type=int, default=0, help="train from this decoder layer up")
    parser.add_argument(
        "--cached", action="store_true", help="image features (states, with --first-layer) on the device"
    )
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--quantize", default="", choices=list(KINDS), help="the decoder's layers")
    parser.add_argument("--trace", help="folder for a profiler's trace of three steps")
    parser.add_argument("--tag", default="", help="a word for the table")
    args = parser.parse_args()

    dtype = "float32" if args.model == "tiny" else "bfloat16"
    family, config = paligemma.FAMILY, dataclasses.replace(paligemma.CONFIGS[args.model], dtype=dtype)
    params = random_params(paligemma.names.npz_rows(config), dtype)
    if args.quantize:
        params = quantize_tree(params, [(DECODER, args.quantize), (".*", KEEP)])
    stacks, first = family.stacks(config), args.first_layer
    words = adapters.trainability(adapters.METHODS[args.method], list(trees.flatten(params)))
    lengths = Lengths(config.vision.patches, args.text, args.answer)
    net = Network(family, config, remat=args.remat)
    source = NOTHING
    if args.cached:
        del params["vision"]
        each, width = (lengths.tokens, config.text.width) if first else (lengths.images, config.vision.width)
        source = Source(jax.random.normal(jax.random.key(1), (PICTURES * each, width), dtype))
        net = dataclasses.replace(net, projected=first > 0, first=first)
    upper = trees.above(stacks, first)
    flat = trees.flatten(params)
    picked = lambda word: [path for path in flat if words[path] == word]
    shapes = {path: (len(upper["text/layers"]), *flat[path].shape[1:]) for path in picked("lora")}
    trained = {path: np.asarray(flat[path][first:], np.float32) for path in picked("full")}
    del flat
    base = trees.arrange(params, stacks, first, args.layers == "list", trained)
    if first and args.cached:
        del base["text"]["lower"]
    adam = args.method == "lora"
    optimizer = optim.Optimizer("adamw" if adam else "sgd", 1.0 if adam else None, stacks=tuple(upper))
    step_config = StepConfig(net, upper, optim.Schedule("cosine", 1000, 100), optimizer)
    lottery = Lottery(0, (1e-4,), (2.0 * args.rank,), (0.0,), args.rank)
    draws = [lottery.draw(number) for number in range(args.rolls)]
    rolls = tickets.begin(lottery, step_config, InitialWeights(shapes, trained), draws)
    trained.clear()
    step = training.compile_step(step_config)
    batch = jax.device_put(random_batch(net, (args.rolls, args.accumulate, args.batch), lengths, args.cached))
    jax.block_until_ready((base, rolls, source))
    held = (jax.devices()[0].memory_stats() or {}).get("bytes_in_use", 0)
    started = time.perf_counter()
    compiled = step.lower(base, source, rolls, batch).compile()
    compile_s = time.perf_counter() - started
    for _ in range(3):
        rolls, report = compiled(base, source, rolls, batch)
    jax.block_until_ready(report)

    def once() -> Any:
        nonlocal rolls
        rolls, report = compiled(base, source, rolls, batch)
        return report.loss

    seconds, spread = paced(once, args.steps)
    if args.trace:
        with jax.profiler.trace(args.trace, create_perfetto_trace=True):
            for _ in range(3):
                rolls, report = compiled(base, source, rolls, batch)
            jax.block_until_ready(report)
    analysis = compiled.memory_analysis()
    stats = jax.devices()[0].memory_stats() or {}
    record = vars(args) | {
        "samples_s": round(args.rolls * args.accumulate * args.batch / seconds, 2),
        "step_ms": round(seconds * 1e3, 2),
        "spread_ms": round(spread * 1e3, 2),
        "compile_s": round(compile_s, 1),
        "held_gib": round(held / 2**30, 2),
        "peak_gib": round(stats.get("peak_bytes_in_use", 0) / 2**30, 2),
        "temporary_gib": round(analysis.temp_size_in_bytes / 2**30, 2),
        "loss": round(float(once()[0]), 4),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
