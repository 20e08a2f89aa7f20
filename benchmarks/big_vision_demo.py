"""Times big_vision's own demo: its Flax PaliGemma, the attention weights trained by plain SGD, one setting a process.

    python benchmarks/big_vision_demo.py --big-vision path/to/big_vision --batch 2
    python benchmarks/big_vision_demo.py --batch 8 --text 16 --ours ours.jsonl   # installed; ours beside it
    python benchmarks/big_vision_demo.py --model tiny --steps 3                  # to try it on a CPU

big_vision is not on the package index: `./bin/docker-build.sh --big-vision` installs it, or give the folder of a
checkout (what it imports besides is in docker/requirements-big-vision.txt). The weights are random and of real size;
nothing is downloaded. What is trained is float32, the rest float16 as in the demo's notebook (`--frozen bfloat16`,
too), the step is the notebook's: `--text` tokens a row, shifted by one, so its decoder reads one token less than ours.

Prints one JSON line, and with `--ours` (the JSON lines of step_speed.py) a line for each of our runs by the same
method, batch and text tokens on the same card, with the ratio.
"""

import argparse
import functools
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

RATE = 0.03  # the demo's
TRAINED = "llm/layers/attn/"
MODULES = ("proj.paligemma.paligemma", "ppp.gemma")
TINY_TEXT = {
    **dict(variant="tiny", width=40, depth=3, mlp_dim=64, num_heads=4, num_kv_heads=1, head_dim=16, norm_eps=1e-6),
    **dict(vocab_size=96, scan=True, remat_policy="nothing_saveable"),
}
TINY_TOWER = dict(width=32, depth=2, mlp_dim=48, num_heads=4, patch_size=(14, 14), head_zeroinit=False)


def find_big_vision(folder: Path | None) -> tuple[Any, Any]:
    """Its modules of PaliGemma and of Gemma, out of a checkout or as installed. SystemExit says what is missing."""
    if folder:
        sys.path.insert(0, str(folder))
    try:
        importlib.import_module("big_vision.models.vit")  # PaliGemma imports its parts later, by name
        return tuple(importlib.import_module(f"big_vision.models.{name}") for name in MODULES)
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] == "big_vision":
            where = f"{folder} holds no big_vision" if folder else "big_vision is not installed"
            raise SystemExit(f"{where}: give the folder of a checkout, --big-vision PATH") from missing
        raise SystemExit(
            f"big_vision needs the Python package {missing.name!r}: pip install -r docker/requirements-big-vision.txt"
        ) from missing


def build(paligemma: Any, gemma: Any, name: str, frozen: str) -> tuple[Any, int, int]:
    """The model, its picture's side in pixels and its vocabulary."""
    tower = dict(pool_type="none", scan=True, dtype_mm=frozen)
    if name == "tiny":
        gemma.get_config = lambda variant: ConfigDict(TINY_TEXT)  # its own table has the published sizes only
        return paligemma.Model(llm={"variant": "tiny"}, img=TINY_TOWER | tower), 56, TINY_TEXT["vocab_size"]
    text = dict(variant="gemma_2b", vocab_size=257_152, final_logits_softcap=0.0)
    return paligemma.Model(llm=text, img={"variant": "So400m/14"} | tower), 224, text["vocab_size"]


def random_params(model: Any, batch: dict, frozen: str) -> tuple[Any, Any]:
    """(parameters, which of them are trained): drawn on the device, a leaf at a time in its final type."""
    inputs = (batch["image"], batch["text"][:, :-1], batch["mask_ar"][:, :-1])
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    name = lambda path: "/".join(str(key.key) for key in path)
    trained = jax.tree_util.tree_map_with_path(lambda path, _: name(path).startswith(TRAINED), shapes)
    draw = jax.jit(lambda key, shape, dtype: 0.02 * jax.random.normal(key, shape, dtype), static_argnums=(1, 2))
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [
        draw(key, leaf.shape, "float32" if ours else frozen)
        for key, leaf, ours in zip(keys, leaves, jax.tree.leaves(trained), strict=True)
    ]
    return jax.tree.unflatten(tree, drawn), trained


def random_batch(rows: int, text: int, side: int, vocabulary: int) -> dict[str, jax.Array]:
    """Pictures in -1..1 and tokens, of which the second half is the answer."""
    rng = np.random.default_rng(0)
    answer = np.tile(np.arange(text) >= text - text // 2, (rows, 1)).astype(np.int32)
    return jax.device_put(
        {
            "image": rng.uniform(-1, 1, (rows, side, side, 3)).astype(np.float32),
            "text": rng.integers(4, vocabulary, (rows, text), dtype=np.int32),
            "mask_ar": answer,
            "mask_loss": answer,
        }
    )


def make_step(model: Any, trained: Any) -> Any:
    """The notebook's step: logits of all text tokens, the mean of each row's answer, SGD on what is trained."""

    def loss_of(params, batch):
        seen, wanted = batch["text"][:, :-1], batch["text"][:, 1:]
        logits, _ = model.apply({"params": params}, batch["image"], seen, batch["mask_ar"][:, :-1], train=True)
        chosen = jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(wanted, logits.shape[-1]), -1)
        counted = batch["mask_loss"][:, 1:]
        return -jnp.mean(jnp.sum(chosen * counted, -1) / jnp.clip(jnp.sum(counted, -1), 1))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params, batch, rate):
        loss, gradients = jax.value_and_grad(loss_of)(params, batch)
        move = lambda value, gradient, ours: value - rate * gradient if ours else value
        return jax.tree.map(move, params, gradients, trained), loss

    return step


def measure(args: argparse.Namespace) -> dict:
    """The record of one setting: what was asked, samples/s, milliseconds a step, peak GiB."""
    model, side, vocabulary = build(*find_big_vision(args.big_vision), args.model, args.frozen)
    batch = random_batch(args.batch, args.text, side, vocabulary)
    params, trained = random_params(model, batch, args.frozen)
    rate = jnp.float32(RATE)
    started = time.perf_counter()
    step = make_step(model, trained).lower(params, batch, rate).compile()
    compile_s = time.perf_counter() - started
    for _ in range(3):
        params, loss = step(params, batch, rate)
    first = jax.block_until_ready(loss)
    each = max(args.steps // 3, 1)
    times = []
    for _ in range(3):  # thirds: their spread shows the noise
        started = time.perf_counter()
        for _ in range(each):
            params, loss = step(params, batch, rate)
        jax.block_until_ready(loss)
        times.append((time.perf_counter() - started) / each)
    seconds = statistics.median(times)
    stats = jax.devices()[0].memory_stats() or {}
    asked = {name: getattr(args, name) for name in ("model", "batch", "text", "steps", "frozen", "tag")}
    return {"who": "big_vision's demo"} | asked | {
        "samples_s": round(args.batch / seconds, 2),
        "step_ms": round(seconds * 1e3, 2),
        "spread_ms": round((max(times) - min(times)) * 1e3, 2),
        "compile_s": round(compile_s, 1),
        "peak_gib": round(stats.get("peak_bytes_in_use", 0) / 2**30, 2),
        "loss": round(float(first), 4),
        "device": jax.devices()[0].device_kind,
    }  # fmt: skip


def ratios(theirs: dict, ours: list[dict]) -> list[str]:
    """A line for each of our runs that did the same: attention weights, all layers, as many rows and text tokens."""
    lines = []
    for row in ours:
        same = all(row[name] == theirs[name] for name in ("batch", "text", "device"))
        tiny = (row["model"] == "tiny") == (theirs["model"] == "tiny")
        if not (same and tiny and row["method"] == "attention" and row["accumulate"] == 1 and not row["first_layer"]):
            continue
        what = f"{row['rolls']} rolls" if row["rolls"] > 1 else "one roll"
        what += ", features cached" if row["cached"] else ""
        ratio = row["samples_s"] / theirs["samples_s"]
        figures = f"{row['samples_s']:.1f} samples/s, {row['peak_gib']:.1f} GiB"
        lines.append(f"  ours, {what}: {figures}: {ratio:.1f} times the demo's {theirs['samples_s']:.1f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--big-vision", type=Path, metavar="PATH", help="the folder of a checkout (default: installed)")
    parser.add_argument("--model", default="paligemma-3b-224", choices=["paligemma-3b-224", "tiny"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--text", type=int, default=128, help="text tokens a row (%(default)s)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--frozen", default="float16", choices=["float16", "bfloat16"], help="type of what is frozen")
    parser.add_argument("--ours", type=Path, metavar="FILE", help="JSON lines that step_speed.py printed")
    parser.add_argument("--tag", default="", help="a word for the table")
    args = parser.parse_args()
    found = measure(args)
    print(json.dumps(found), flush=True)
    if args.ours:
        rows = [json.loads(line) for line in args.ours.read_text().splitlines() if line.startswith("{")]
        beside = ratios(found, rows) or [f"  {args.ours}: no run of ours by the same method, batch, text and card"]
        print("\n".join(beside), file=sys.stderr)


if __name__ == "__main__":
    main()
