"""Times the training step at real size with random weights, one setting a process; nothing is downloaded.

    python benchmarks/step_speed.py --batch 2
    python benchmarks/step_speed.py --batch 2 --rolls 8 --text 16 --answer 2 --cached
    python benchmarks/step_speed.py --model tiny --batch 2 --steps 3     # to try it on a CPU

Prints one JSON line: samples/s over all rolls, milliseconds a step, seconds of compiling, peak GiB.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rolltune import adapters, optim
from rolltune.data.batches import IMAGE, Batch
from rolltune.families import paligemma
from rolltune.recipe import Recipe
from rolltune.training import rolls as lottery
from rolltune.training import step as training


def random_params(config: paligemma.Config, dtype) -> dict:
    """The tree that `paligemma.init` makes, a leaf at a time in its final dtype."""
    shapes = adapters.flatten(jax.eval_shape(partial(paligemma.init, config), jax.random.key(0)))
    draw = jax.jit(lambda key, shape: jax.random.normal(key, shape, dtype) * 0.02, static_argnums=1)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return adapters.unflatten({n: draw(k, s.shape) for k, (n, s) in zip(keys, shapes.items(), strict=True)})


def random_batch(config: paligemma.Config, lead: tuple[int, ...], rows: int, text: int, answer: int, cached: bool):
    rng = np.random.default_rng(0)
    images, prefix = config.image_tokens, text - answer
    time_ = images + text
    shape = (*lead, rows)
    fill = lambda values, *tail: np.broadcast_to(np.asarray(values, np.int32), (*shape, *tail)).copy()
    start = images + prefix
    tokens = rng.integers(4, config.text.vocab, (*shape, time_), dtype=np.int32)
    tokens[..., :images] = IMAGE
    return Batch(
        tokens=tokens,
        positions=fill(np.arange(time_), time_),
        blocks=fill(np.r_[np.zeros(start), np.arange(1, answer + 1)], time_),
        segments=fill(np.r_[np.zeros(start), np.ones(answer)], time_),
        predict=fill(np.arange(start - 1, start - 1 + answer), answer),
        targets=rng.integers(4, config.text.vocab, (*shape, answer), dtype=np.int32),
        candidates=fill(0, answer),
        weights=np.ones((*shape, answer), np.float32),
        label=fill(0),
        valid=np.ones(shape, bool),
        images=rng.integers(0, 86, (*shape, 1), dtype=np.int32)
        if cached
        else rng.integers(0, 256, (*shape, 1, config.vision.image_size, config.vision.image_size, 3), dtype=np.uint8),
    )


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
    parser.add_argument("--trace", help="folder for a profiler's trace of three steps")
    parser.add_argument("--tag", default="", help="a word for the table")
    args = parser.parse_args()

    dtype = "float32" if args.model == "tiny" else "bfloat16"
    config = paligemma.CONFIGS[args.model]
    config = paligemma.dataclasses.replace(config, dtype=dtype)
    params = random_params(config, dtype)
    words = adapters.plan(adapters.METHODS[args.method], list(adapters.flatten(params)))
    params = adapters.split_layers(params, args.first_layer)
    table = None
    time_ = config.image_tokens + args.text
    if args.cached:
        del params["vision"]
        if args.first_layer:
            del params["text"]["lower"]
        shape = (86, time_ if args.first_layer else config.image_tokens, config.text.width)
        kind = paligemma.States if args.first_layer else paligemma.Features
        table = kind(jax.random.normal(jax.random.key(1), shape, dtype))
    shapes = {p: x.shape for p, x in adapters.flatten(params).items() if words.get(p) == "lora"}
    base, trained = adapters.partition(params, words)
    del params
    trained = {path: np.asarray(leaf, np.float32) for path, leaf in trained.items()}
    if args.layers == "list":
        base = adapters.unstack_layers(base)
    adam = args.method == "lora"
    transform = optim.transform("adamw" if adam else "sgd", 1.0 if adam else None)
    plan = training.Plan(optim.Schedule("cosine", 1000, 100), transform)

    recipe = Recipe(rank=args.rank, alpha=2.0 * args.rank, rate=1e-4)
    draws = [lottery.draw(recipe, number) for number in range(args.rolls)]
    rolls = lottery.begin(recipe, plan, lottery.Start(shapes, trained), draws)
    trained.clear()
    forward = training.Forward(partial(paligemma.log_probs, config, remat=args.remat))
    step = training.compile_step(plan, forward)
    batch = jax.device_put(
        random_batch(config, (args.rolls, args.accumulate), args.batch, args.text, args.answer, args.cached)
    )
    jax.block_until_ready((base, rolls, table))
    held = (jax.devices()[0].memory_stats() or {}).get("bytes_in_use", 0)
    started = time.perf_counter()
    compiled = step.lower(base, table, rolls, batch).compile()
    compile_s = time.perf_counter() - started
    for _ in range(3):
        rolls, report = compiled(base, table, rolls, batch)
    jax.block_until_ready(report)
    times = []
    for _ in range(3):  # thirds: their spread shows the noise
        started = time.perf_counter()
        for _ in range(max(args.steps // 3, 1)):
            rolls, report = compiled(base, table, rolls, batch)
        jax.block_until_ready(report)
        times.append((time.perf_counter() - started) / max(args.steps // 3, 1))
    seconds = sorted(times)[1]
    if args.trace:
        with jax.profiler.trace(args.trace, create_perfetto_trace=True):
            for _ in range(3):
                rolls, report = compiled(base, table, rolls, batch)
            jax.block_until_ready(report)
    analysis = compiled.memory_analysis()
    stats = jax.devices()[0].memory_stats() or {}
    record = vars(args) | {
        "samples_s": round(args.rolls * args.accumulate * args.batch / seconds, 2),
        "step_ms": round(seconds * 1e3, 2),
        "spread_ms": round((max(times) - min(times)) * 1e3, 2),
        "compile_s": round(compile_s, 1),
        "held_gib": round(held / 2**30, 2),
        "peak_gib": round(stats.get("peak_bytes_in_use", 0) / 2**30, 2),
        "temporary_gib": round(analysis.temp_size_in_bytes / 2**30, 2),
        "loss": round(float(report.loss[0]), 4),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
