"""Any family at its real size with random weights: loads, trains, scores and writes, and says what each took.

    python benchmarks/families.py llava-v1.6-mistral-7b --batch 4 --remat
    python benchmarks/families.py path/to/a/small/config.json --batch 2 --text 16     # to try it on a CPU

Writes a sharded checkpoint of random weights into --folder first, as published ones are, and loads that. Prints one
JSON line: seconds and host memory of loading, samples/s and peak GiB of training, seconds of scoring and writing.
Programs are compiled from shapes before anything is loaded, as 03-do_learn.py does: on a card the compiler tries its
kernels on arrays of their own, which would count as a peak of training. What the plan of memory says is printed, too.
With --tower the tower runs in every step, as it does in other trainers; else its features are kept. --cards 2 cuts the
base over two cards, which share each batch's rows; on a CPU
XLA_FLAGS=--xla_force_host_platform_device_count=2 makes two of one.
"""

import argparse
import contextlib
import dataclasses
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from capped import hold_all_but, query
from PIL import Image
from published import CONFIGS, PICTURES
from step_speed import paced

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rolltune import memory, trees
from rolltune.base import Model, Opened
from rolltune.data.batches import joint_batch
from rolltune.data.examples import Example, Turn
from rolltune.device import is_gpu, set_up_jax
from rolltune.evaluation.metrics import Positive
from rolltune.evaluation.tasks import CLASSIFY, WRITE, Task
from rolltune.families import catalogue
from rolltune.models.attention import ATTENTION
from rolltune.models.cut import Places, places_for
from rolltune.quantize import BLOCK, DECODER, KEEP, KINDS, quantized
from rolltune.recipe import REMAT, Recipe
from rolltune.sharding import FSDP, groups_of
from rolltune.training import outline, setup
from rolltune.training.dataset import Data
from rolltune.training.loop import new_state
from rolltune.training.rolls import trainable_of
from rolltune.weights.checkpoint import open_checkpoint
from rolltune.weights.hf import write_hf
from rolltune.weights.names import CHUNK, Pieces, TensorMap, stream
from rolltune.weights.roll_file import Base, RollCard, save_roll

KIND = np.dtype(ml_dtypes.bfloat16)


class Numbers:
    """A stand-in for a tokenizer: a number for each word."""

    bos, eos, pad, path = 1, 2, 0, Path("numbers")

    def __init__(self, size: int, image: int):
        self.size, self.image = size, image

    def encode(self, text: str) -> list[int]:
        return [4 + sum(map(ord, word)) % (min(self.size, 1000) - 4) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def special(self, name: str) -> int:
        return self.image if "image" in name else 3


def random_pieces(table: Sequence[TensorMap]) -> dict[str, Pieces]:
    """The file's tensors, made while they are written: small numbers, and ones where a norm has its factors."""
    block = (np.random.default_rng(0).standard_normal(CHUNK, np.float32) * 0.02).astype(KIND)

    def chunks(size: int, ones: bool) -> Iterator[np.ndarray]:
        for begin in range(0, size, CHUNK):
            part = block[: min(CHUNK, size - begin)]
            yield np.ones_like(part) if ones else part

    def pieces(row: TensorMap, shape: tuple[int, ...]) -> Pieces:
        return Pieces(shape, KIND, lambda: chunks(int(np.prod(shape)), row.path.endswith("scale")))

    return {name: pieces(row, shape) for row in table for name, shape in row.in_file().items()}


def make_data(args: argparse.Namespace, size: tuple[int, int] | None) -> Data:
    folder, rows, text, classes = args.folder, max(8, args.batch), args.text, args.classes
    rng = np.random.default_rng(0)
    words = lambda count: " ".join(f"w{n}" for n in rng.integers(0, 1000, count))
    examples = []
    for number in range(rows):
        images: tuple[Path, ...] = ()
        if size:
            images = tuple(folder / f"{number}-{picture}.png" for picture in range(args.pictures))
            for image in images:
                Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(image)
        answer = f"class{number % classes}" if classes else words(text // 2)
        turns = (Turn("user", words(text if classes else text // 2)), Turn("assistant", answer))
        examples.append(Example(f"row{number}", images, turns, f"made:{number}"))
    task = Task(CLASSIFY, tuple(f"class{n}" for n in range(classes))) if classes else Task(WRITE, ())
    return Data(examples, {"train": range(rows)}, {}, task, Positive(None, ""), [frozenset()] * rows)


def opened(folder: Path, word: str, tower: str, crops: int) -> Opened:
    """As `base.open_model`, without a tokenizer's file. `word` says how the decoder's matrices are kept, `tower` how
    those of a tower's layers: in int8 where four bits were said and their blocks don't divide a row."""
    checkpoint = open_checkpoint(folder)
    family = catalogue.family_of(checkpoint)
    dtype = "bfloat16" if jax.default_backend() == "gpu" else "float32"
    config = dataclasses.replace(family.config(checkpoint.config, checkpoint.shapes, str(folder)), dtype=dtype)
    if crops:
        if family.with_crops is None:
            raise SystemExit(f"--crops: {family.name} sees pictures at its own sizes")
        config = family.with_crops(config, crops)
    table = family.tensors(config, checkpoint.tensors)

    def word_of(row: TensorMap) -> str:
        if word and re.fullmatch(DECODER, row.path):
            return word
        if not tower or not row.layers or not row.path.startswith(family.towers) or not row.path.endswith("/kernel"):
            return KEEP
        return "int8" if tower.startswith("nf4") and row.ours[-2] % BLOCK else tower

    image = checkpoint.config.get("image_token_index", 3)
    model = Model(family, config, Numbers(config.text.vocab, image), Base(folder.name, "random"))
    return Opened(model, checkpoint, table, {row.path: word_of(row) for row in table}, dtype)


def places_of(found: Opened, cards: int) -> Places | None:
    """Where a base lies that so many cards share."""
    if cards == 1:
        return None
    shapes = found.shapes()
    return places_for(groups_of(1, cards), dict.fromkeys(shapes, FSDP), shapes)


def load(found: Opened, places: Places | None) -> dict:
    """As `base.load_opened`, without a digest."""
    words, stacks = found.words, found.model.stacks
    lay = places.put if places else lambda path, leaf: jax.device_put(leaf)
    put = lambda path, leaf: lay(path, leaf) if words[path] == KEEP else quantized(leaf, words[path])
    listed = lambda path: is_gpu() and trees.stack_of(path, stacks)
    params = {
        path: [put(path, layer) for layer in leaf] if listed(path) else put(path, leaf)
        for path, leaf in stream(found.checkpoint.tensors, found.table, found.kind)
    }
    if set(words.values()) != {
        KEEP
    }:  # a training reads what it packed from its file, close together: packing leaves holes
        host = jax.tree.map(np.asarray, params)
        for leaf in jax.tree.leaves(params):
            leaf.delete()
        params = jax.tree.map(jax.device_put, host)
    return trees.unflatten(params)


def used_on_card() -> float:
    """GiB of the card that are taken, by all processes: also by what no allocator counts, as contexts and kernels."""
    try:
        found = subprocess.run(query("memory.used"), capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:  # no GPU here
        return 0.0
    return float(found.splitlines()[0]) / 1024


def gib(size: float) -> float:
    return round(size / 2**30, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=f"{', '.join(CONFIGS)}, or a config.json")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rolls", type=int, default=1)
    parser.add_argument("--text", type=int, default=128, help="text tokens a row, half of them the answer")
    parser.add_argument("--classes", type=int, default=0, help="a head of so many classes instead of written answers")
    parser.add_argument("--first-layer", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the pictures")
    parser.add_argument("--pictures", type=int, default=1, help="a row")
    parser.add_argument("--crops", type=int, default=0, help="of a picture, at most (Phi); 0: the model's own")
    parser.add_argument("--remat", nargs="?", const="layer", default=False, choices=["layer", ATTENTION])
    parser.add_argument("--quantize", default="", choices=list(KINDS), help="the decoder's layers")
    parser.add_argument("--quantize-tower", default="", choices=list(KINDS), help="the tower's layers")
    parser.add_argument("--tower", action="store_true", help="the tower runs in every step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--write", type=int, default=8, help="tokens to write a row")
    parser.add_argument("--trace", help="folder for a profiler's trace of three steps")
    parser.add_argument("--folder", type=Path, default=Path("families-benchmark"))
    parser.add_argument("--cards", type=int, default=1, help="that the base is cut over")
    parser.add_argument("--cap", type=float, default=0, help="GiB of device memory that may be used; 0: all")
    parser.add_argument("--tag", default="")
    args = parser.parse_args()
    if args.cards > 1 and (args.quantize or args.quantize_tower):
        parser.error("--cards is for a base in bfloat16: leave --quantize and --quantize-tower away")
    with contextlib.ExitStack() as after:
        if args.cap:
            other = hold_all_but(args.cap)
            after.callback(other.wait)  # its memory must be back before the next one asks what is free
            after.callback(other.kill)
        measure(args)


def measure(args: argparse.Namespace) -> None:
    set_up_jax()
    before_us = used_on_card()
    config = CONFIGS.get(args.model) or json.loads(Path(args.model).read_text())
    name = args.model if args.model in CONFIGS else config["model_type"]
    size = tuple(args.size) if args.size else PICTURES.get(args.model)
    folder = args.folder / name
    began = time.perf_counter()
    if not folder.exists():
        family = next(one for one in catalogue.FAMILIES if config["model_type"] in one.model_types)
        write_hf(folder, random_pieces(family.tensors(family.config(config, {}, "config.json"), ())), config)
    written = time.perf_counter() - began
    record: dict[str, Any] = vars(args) | {"model": name, "folder": "", "file_s": round(written, 1)}
    data = make_data(args, size)
    recipe = Recipe(
        rank=16, alpha=16, rate=1e-4, batch=args.batch, remat=REMAT.get(args.remat, args.remat), steps=100,
        max_tokens=1 << 20, table_gib=8.0, evaluate_batch=args.batch, answer_tokens=args.write,
        first_layer=args.first_layer, average="token",
    )  # fmt: skip
    found = opened(folder, args.quantize, args.quantize_tower, args.crops)
    model, places = found.model, places_of(found, args.cards)
    inputs = setup.encode(model, recipe, data)
    began = time.perf_counter()
    made = outline.outline(found, recipe, data, inputs, places)
    if args.tower:
        plan = dataclasses.replace(made.plan, in_step=True, projected=False)
        kept = outline.cached(model, made.params, plan, recipe, data, inputs, places)
        made = dataclasses.replace(made, plan=plan, cached=kept)
    plan = made.plan
    record["planned_gib"] = {need.part: gib(need.total) for need in memory.needs_of(made, args.rolls, exact=True)}
    record["plan_s"] = round(time.perf_counter() - began, 1)
    most = lambda key: gib(max((one.memory_stats() or {}).get(key, 0) for one in jax.devices()[: args.cards]))
    peak = lambda: most("peak_bytes_in_use")
    record["tried_gib"] = peak()  # what trying kernels took, before anything was there
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    params = load(found, places)
    jax.block_until_ready(params)
    on_card = lambda: round(used_on_card() - before_us, 2)
    record["loaded_gib"] = most("bytes_in_use"), peak(), on_card()
    tell = lambda what: print(what, file=sys.stderr, flush=True)
    tell(f"loaded: {record['loaded_gib']} GiB held, most, taken on the card")
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record |= {"load_s": round(time.perf_counter() - began, 1), "host_gib": gib(host), "host_before_gib": gib(before)}
    began = time.perf_counter()
    mesh = places and places.mesh
    cached = setup.on_cards(setup.cache(model, params, plan, recipe, data, inputs, places), mesh)
    record |= {"cache_s": round(time.perf_counter() - began, 1), "tokens": len(inputs.training[0].tokens)}
    record["cached_gib"] = most("bytes_in_use"), peak(), on_card()
    tell(f"features: {record['cached_gib']}")
    loaders = setup.loaders(recipe, cached.training, data, None)
    run, evaluator = setup.compile(model, plan, recipe, data, cached, loaders, args.rolls)
    state = new_state(run, args.rolls)

    def batches(step: int) -> tuple[Any, Any]:
        cards = args.cards if mesh else 1
        batch, source = joint_batch([loaders(slot.draw) for slot in state.slots], [step] * args.rolls, 1, 1, cards)
        return (batch if mesh else jax.device_put(batch)), source

    made = iter([batches(number) for number in range(args.steps + 2)])
    rolls, reports = state.rolls, []

    def once() -> Any:
        nonlocal rolls
        batch, source = next(made)
        rolls, report = run.step(run.base, source, rolls, batch)
        reports.append(report.loss)
        return report.loss

    began = time.perf_counter()
    jax.block_until_ready(once())
    first = time.perf_counter() - began
    seconds = paced(once, args.steps)[0]
    losses = [float(loss[0]) for loss in reports]
    if args.trace:
        with jax.profiler.trace(args.trace, create_perfetto_trace=True):
            for number in range(3):
                batch, source = batches(number)
                rolls, report = run.step(run.base, source, rolls, batch)
            jax.block_until_ready(report)
    record |= {
        "compile_s": round(first - seconds, 1),
        "step_ms": round(seconds * 1e3, 1),
        "samples_s": round(args.rolls * args.batch / seconds, 2),
        "peak_gib": peak(),
        "card_gib": on_card(),
        "losses": [round(loss, 3) for loss in losses],
    }
    tell(f"trained: {record['samples_s']} samples/s, {record['peak_gib']} GiB, {record['card_gib']} taken")
    for what, writes in (("score", False), ("write", True)):
        if writes and evaluator.writer is None:
            continue
        evaluator.predict(rolls.trainable, rolls.scale, writes)  # compiles
        began = time.perf_counter()
        found = evaluator.predict(rolls.trainable, rolls.scale, writes)[0]
        record[f"{what}_rows_s"] = round(len(data.examples) / (time.perf_counter() - began), 2)
        record["finite"] = bool(np.isfinite(found.log_probs).all() and np.isfinite(losses).all())
    began = time.perf_counter()
    card = RollCard(model.base, recipe.method, dataclasses.asdict(recipe))
    save_roll(args.folder / "roll.npz", trees.unflatten(trainable_of(rolls, 0)), card)
    record |= {
        "save_s": round(time.perf_counter() - began, 2),
        "roll_mb": (args.folder / "roll.npz").stat().st_size >> 20,
    }
    record |= {"peak_all_gib": peak(), "card_all_gib": on_card(), "device": jax.devices()[0].device_kind}
    print(json.dumps(record), flush=True)
    assert np.isfinite(losses).all()


if __name__ == "__main__":
    main()
