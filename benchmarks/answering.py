"""Times scoring two answers, and writing answers, at real size with random weights; nothing is downloaded.

    python benchmarks/answering.py --task score --batch 8
    python benchmarks/answering.py --task write --batch 8 --rolls 8
    python benchmarks/answering.py --model tiny --batch 2 --steps 2 --tokens 4        # to try it on a CPU
    python benchmarks/answering.py --ratios ours.jsonl peer.jsonl                     # both sides of one run

The tower runs in every call, as a peer's does; with --cached the features are there already, as they are here from the
second look at a picture on. Prints one JSON line: rows/s over all rolls, milliseconds a call, seconds of compiling,
peak GiB. `peer_generate.py` prints the other side's lines.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ratios import read
from step_speed import PICTURES, Lengths, paced, random_batch, random_params

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rolltune import adapters, optim, trees
from rolltune.batch import NOTHING, Batch, Source
from rolltune.evaluation import compiled
from rolltune.families import paligemma
from rolltune.models.forward import Network
from rolltune.quantize import DECODER, KEEP, KINDS, quantize_tree
from rolltune.training import rolls as tickets
from rolltune.training.rolls import InitialWeights, Lottery
from rolltune.training.step import StepConfig


def asked(batch: Batch, task: str) -> Batch:
    """A row of two answers of one token, each with its end, side by side behind the prompt; or the prompt alone."""
    rows, count = batch.tokens.shape
    whole = lambda values: np.broadcast_to(np.asarray(values, np.int32), (rows, len(values))).copy()
    none = np.zeros((rows, 0), np.int32)
    if task == "write":
        prompt = {"blocks": whole(np.zeros(count)), "segments": whole(np.zeros(count))}
        return batch._replace(
            **prompt, predict=none, targets=none, candidates=none, weights=np.zeros((rows, 0), np.float32)
        )
    start = count - 2
    return batch._replace(
        positions=whole(np.r_[np.arange(start), start, start]),
        blocks=whole(np.r_[np.zeros(start), 1, 1]),
        segments=whole(np.r_[np.zeros(start), 1, 2]),
        predict=whole([start - 1, start, start - 1, start + 1]),
        candidates=whole([0, 0, 1, 1]),
        targets=np.random.default_rng(1).integers(4, 1000, (rows, 4), dtype=np.int32),
        weights=np.ones((rows, 4), np.float32),
    )


def measured(args: argparse.Namespace) -> dict[str, Any]:
    dtype = "float32" if args.model == "tiny" else "bfloat16"
    family, config = paligemma.FAMILY, dataclasses.replace(paligemma.CONFIGS[args.model], dtype=dtype)
    params = random_params(paligemma.names.npz_rows(config), dtype)
    stacks = family.stacks(config)
    words = adapters.trainability(adapters.METHODS["lora"], list(trees.flatten(params)))
    lengths = Lengths(config.vision.patches, args.text, 2)
    net, source = Network(family, config), NOTHING
    if args.quantize:
        params = quantize_tree(params, [(DECODER, args.quantize), (".*", KEEP)])
    first = args.first_layer
    if args.cached:
        del params["vision"]
        each, width = (lengths.tokens, config.text.width) if first else (lengths.images, config.vision.width)
        source = Source(jax.random.normal(jax.random.key(1), (PICTURES * each, width), dtype))
        net = dataclasses.replace(net, projected=first > 0, first=first)
    adapted = [] if args.merged else [path for path, word in words.items() if word == "lora"]
    flat = trees.flatten(params)
    shapes = {path: (flat[path].shape[0] - first, *flat[path].shape[1:]) for path in adapted}
    del flat
    base, stacks = trees.arrange(params, stacks, first, jax.default_backend() == "gpu"), trees.above(stacks, first)
    if first:
        del base["text"]["lower"]
    step = StepConfig(net, stacks, optim.Schedule("cosine", 1, 0), optim.Optimizer("sgd", stacks=tuple(stacks)))
    lottery = Lottery(0, (1e-4,), (2.0 * args.rank,), (0.0,), args.rank)
    rolls = tickets.begin(lottery, step, InitialWeights(shapes, {}), [lottery.draw(n) for n in range(args.rolls)])
    noise = lambda leaf: leaf + 0.02 * jax.random.normal(jax.random.key(2), leaf.shape, leaf.dtype)
    trainable, scale = jax.tree.map(noise, rolls.trainable), rolls.scale  # a fresh adapter adds nothing
    batch = jax.device_put(asked(random_batch(net, (args.batch,), lengths, args.cached), args.task))
    program, asking = compiled.compile_score(net, stacks, 2), batch
    if args.task == "write":
        program = compiled.compile_write(net, stacks, args.tokens, (-1,))  # no such token: all is written out
        asking = (batch, np.arange(args.batch, dtype=np.uint32))
    arguments = (base, source, trainable, scale, asking)
    jax.block_until_ready(arguments)
    began = time.perf_counter()
    compiled_program = program.lower(*arguments).compile()
    compile_s = time.perf_counter() - began
    for _ in range(2):
        found = jax.block_until_ready(compiled_program(*arguments))
    seconds, spread = paced(lambda: compiled_program(*arguments), args.steps)
    if args.trace:
        with jax.profiler.trace(args.trace, create_perfetto_trace=True):
            jax.block_until_ready(compiled_program(*arguments))
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "rows_s": round(args.rolls * args.batch / seconds, 1),
        "call_ms": round(seconds * 1e3, 2),
        "spread_ms": round(spread * 1e3, 2),
        "compile_s": round(compile_s, 1),
        "peak_gib": round(stats.get("peak_bytes_in_use", 0) / 2**30, 2),
        "finite": bool(jnp.isfinite(found).all()),
        "distinct": len(np.unique(np.asarray(found))),
        "device": jax.devices()[0].device_kind,
    }


def ratios(ours: str, peer: str) -> None:
    """Each of our settings beside the peer's fastest of the same batch: scoring, one token, and so many tokens."""
    theirs = [row for row in read(peer) if row.get("samples_s")]

    def best(task: str, batch: int, tokens: int = 0, merged: bool = True) -> float:
        same = lambda row: row["task"] == task and row["batch"] == batch and (merged or row["lora"] == "unmerged")
        return max((row["samples_s"] for row in theirs if same(row) and tokens in (0, row["new_tokens"])), default=0.0)

    print(f"{'setting':44}{'rows/s':>10}{'peak GiB':>10}{'peer':>10}{'ratio':>8}{'one token':>11}{'ratio':>8}")
    for row in read(ours):
        write = row["task"] == "write"
        name = f"{row['task']} b{row['batch']}" + (f" x {row['rolls']} rolls" if row["rolls"] > 1 else "")
        name += (f", {row['tokens']} tokens" if write else "") + (", cached" if row["cached"] else "")
        name += (f", {row['quantize']}" if row["quantize"] else "") + (", merged" if row["merged"] else "")
        name += f", from layer {row['first_layer']}" if row["first_layer"] else ""
        pairs = [best("generate" if write else "score", row["batch"], row["tokens"] if write else 0)]
        pairs += [] if write else [best("generate", row["batch"], 1)]
        beside = "".join(f"{one:10.1f}{row['rows_s'] / one:8.2f}" if one else f"{'-':>10}{'-':>8}" for one in pairs)
        print(f"{name:44}{row['rows_s']:10.1f}{row['peak_gib']:10.2f}{beside}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="paligemma-3b-224", choices=paligemma.CONFIGS)
    parser.add_argument("--task", default="score", choices=["score", "write"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rolls", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--text", type=int, default=16, help="text tokens a row")
    parser.add_argument("--tokens", type=int, default=32, help="to write")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--cached", action="store_true", help="image features on the device")
    parser.add_argument(
        "--first-layer", type=int, default=0, help="adapters from this layer up; with --cached, states of those below"
    )
    parser.add_argument("--quantize", default="", choices=list(KINDS), help="the decoder's layers")
    parser.add_argument("--merged", action="store_true", help="no adapter beside the base: it was merged by 08-export")
    parser.add_argument("--trace", help="folder for a profiler's trace of one call")
    parser.add_argument("--ratios", nargs=2, metavar=("OURS", "PEER"), help="print the ratios of one run's two files")
    args = parser.parse_args()
    if args.ratios:
        ratios(*args.ratios)
        return
    if args.first_layer and not (args.cached and args.task == "score"):
        parser.error("--first-layer: what is scored with states of the layers below it: --task score --cached")
    record = vars(args) | measured(args)
    record.pop("ratios")
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
