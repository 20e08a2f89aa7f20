"""The plan of memory against what the allocator says: predicted from shapes, then loaded, trained, evaluated for real.

    python benchmarks/memory_plan.py                        # on a GPU of 80 GB: 24 settings, three at a time, 9 minutes
    python benchmarks/memory_plan.py --only paligemma --parallel 1
    python benchmarks/memory_plan.py --tiny                 # to try it on a CPU, which measures nothing

Each setting has a process of its own: it compiles the programs from shapes (which is the prediction), then loads
weights of real size (zeros, leaf by leaf, as a checkpoint's come), works out features, trains two steps of the programs
that the compiler's cache now has, scores all rows and writes an answer to each. Prints, for every setting, GiB
predicted, the allocator's peak, and their ratio: over 1 is room to spare, under 0.98 would be a run that was promised
and dies.
"""

import argparse
import collections
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from PIL import Image
from published import CONFIGS, PICTURES

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rolltune import base, memory
from rolltune.data.batches import joint_batch
from rolltune.device import is_gpu, set_up_jax
from rolltune.inputs.pictures import Pictures
from rolltune.models.family import Tiles
from rolltune.recipe import Recipe
from rolltune.training import setup
from rolltune.training.loop import new_state
from rolltune.training.outline import NoTokenizer, Stated, outline, stated_data


@dataclasses.dataclass(frozen=True)
class Setting:
    model: str
    tokens: int = 128
    answer: int = 32
    rolls: int = 1
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def words(self) -> str:
        made = " ".join(f"{name}={value}" for name, value in self.recipe.items())
        return f"{self.model} text={self.tokens} rolls={self.rolls} {made}"


def one(model: str, tokens: int = 128, rolls: int = 1, **recipe: Any) -> Setting:
    return Setting(model, tokens, min(32, tokens // 4), rolls, recipe)


SETTINGS = [  # large and small ones in turn: some run at a time
    one("paligemma-3b", 16, batch=2),
    one("gemma-2-9b", 512, batch=1),
    one("paligemma-3b", 16, 4, batch=2),
    one("phi-3.5-vision", batch=1),
    one("llava-v1.6-mistral-7b", batch=1, quantize="nf4"),
    one("paligemma-3b", batch=4),
    one("gemma-2-9b", 1024, batch=4, quantize="nf4", remat=True),
    one("paligemma-3b", 16, batch=2, method="attention", optimizer="sgd"),
    one("llama-3.2-11b-vision", 512, batch=1, quantize="nf4", remat=True),
    one("paligemma-3b", 512, batch=4, remat=True),
    one("paligemma2-3b", 64, batch=2),
    one("phi-3.5-vision", batch=1, quantize="nf4"),
    one("paligemma-3b", 64, 4, batch=2, quantize="nf4"),
    one("gemma-2-9b", 256, batch=1, quantize="nf4-double"),
    one("paligemma-3b", 64, batch=2, first_layer=9),
    one("phi-3.5-vision", batch=2, quantize="nf4", remat=True),
    one("paligemma2-3b", 64, 4, batch=1),
    one("llava-v1.6-mistral-7b", batch=1, remat=True),
    one("paligemma2-3b", batch=4, quantize="nf4", remat=True),
    one("llama-3.2-11b-vision", batch=2, quantize="nf4-double"),
    one("paligemma-3b", 64, batch=2, quantize="int8"),
    one("phi-3.5-vision", 64, 4, batch=1, quantize="nf4", remat=True),
    one("paligemma2-3b", 16, batch=1, method="attention", optimizer="sgd"),
    one("paligemma-3b", 64, batch=1, accumulate=4),
]


@dataclasses.dataclass(frozen=True)
class Zeros:
    """A tensor of a file that there is not."""

    shape: tuple[int, ...]
    dtype: np.dtype = dataclasses.field(default_factory=lambda: np.dtype(ml_dtypes.bfloat16))

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        out = np.empty(stop - start, self.dtype) if out is None else out
        out[...] = 0
        return out


class NoDigest:
    """Tells no model from another: the weights are zeros, and a digest of them takes as long as loading."""

    def __init__(self, *_: Any):
        pass

    def add(self, *_: Any) -> None:
        pass

    def hexdigest(self) -> str:
        return "zeros"

    exact = hexdigest


class Speechless(NoTokenizer):
    def decode(self, ids: Any) -> str:
        return ""


class Blank(Pictures):
    def open(self, key: Any) -> Tiles:
        height, width = self.sizes[key]
        assert self.family.picture
        return self.family.picture(self.config, Image.new("RGB", (width, height)))


def peak() -> int:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def run(setting: Setting, rows: int = 8) -> dict[str, Any]:
    """Predicts, then does it. The allocator's peak is taken after each part."""
    began = time.perf_counter()
    base.TreeDigest = NoDigest  # type: ignore[assignment, misc]
    path = setting.model
    if path != "tiny":
        folder = Path(tempfile.mkdtemp())
        (folder / "config.json").write_text(json.dumps(CONFIGS[setting.model]))
        path = str(folder)
    values = {"rank": 16, "alpha": 16.0, "rate": 1e-4, "steps": 100, "answer_tokens": 8, "table_gib": 8.0}
    recipe = Recipe(model=path, evaluate_batch=2, **(values | dict(setting.recipe)))
    opened = base.open_model(path, "", recipe.dtype, recipe.packing, recipe.num_crops, Speechless)
    pictures = (PICTURES[setting.model],) if setting.model in PICTURES else ()
    data, inputs = stated_data(opened.model, recipe, Stated(setting.tokens, setting.answer, pictures, rows))
    made = outline(opened, recipe, data, inputs)
    needs = memory.needs_of(made, setting.rolls, exact=True)
    predicted = time.perf_counter()
    before = peak()
    tensors = {name: Zeros(tuple(shape)) for row in opened.table for name, shape in row.in_file().items()}
    if path != "tiny":
        opened = dataclasses.replace(opened, checkpoint=dataclasses.replace(opened.checkpoint, tensors=tensors))
    peaks: dict[str, int] = {}
    model, params = base.load_opened(opened, is_gpu())
    jax.block_until_ready(params)
    peaks["loading"] = peak()
    pictured = Blank(**{entry.name: getattr(inputs.pictures, entry.name) for entry in dataclasses.fields(Pictures)})
    inputs = dataclasses.replace(inputs, pictures=pictured)
    cached = setup.cache(model, params, made.plan, recipe, data, inputs)
    jax.block_until_ready(cached.base)
    peaks["layers laid out"] = peak()
    loaders = setup.loaders(recipe, cached.training, data, None)
    job, evaluator = setup.compile(model, made.plan, recipe, data, cached, loaders, setting.rolls)
    state = new_state(job, setting.rolls)
    rolls = state.rolls
    del state
    for step in range(2):
        draws = [job.lottery.draw(number) for number in range(setting.rolls)]
        batch, source = joint_batch([loaders(draw) for draw in draws], [step] * setting.rolls, recipe.accumulate)
        rolls, report = job.step(job.base, source, rolls, batch)
    jax.block_until_ready(report)
    peaks["training step"] = peak()
    evaluator.predict(rolls.trainable, rolls.scale)
    peaks["evaluation"] = peak()
    most = memory.peak(needs)
    return {
        "setting": setting.words,
        "predicted": most.total,
        "measured": peaks["evaluation"],
        "before": before,
        "part": most.part,
        "needs": {need.part: need.total for need in needs},
        "peaks": peaks,
        "loss": float(report.loss[0]),
        "predict_s": round(predicted - began, 1),
        "all_s": round(time.perf_counter() - began, 1),
        "device": jax.devices()[0].device_kind,
    }


def in_process(number: int, left: float, tiny: bool) -> dict[str, Any] | str:
    """A setting's record, or why there is none."""
    words = SETTINGS[number].words
    if left < 20:
        return f"{words}: not run, the time is over"
    command = [sys.executable, __file__, "--one", str(number), *(["--tiny"] if tiny else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        return f"{words}: not done when the time was over"
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return f"{words}: {(done.stderr.strip().splitlines() or ['no output'])[-1][:300]}"
    return json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="settings whose words hold this")
    parser.add_argument("--parallel", type=int, default=3, help="processes at a time; all share the card")
    parser.add_argument("--limit", type=float, default=540, help="seconds for all")
    parser.add_argument("--tiny", action="store_true", help="the built-in model in the place of each")
    parser.add_argument("--record", type=Path, help="write every record here, a JSON line each")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        set_up_jax()
        setting = SETTINGS[args.one]
        if args.tiny:
            values = dict(setting.recipe) | ({"first_layer": 2} if "first_layer" in setting.recipe else {})
            setting = Setting("tiny", min(setting.tokens, 48), 4, setting.rolls, values)
        print(json.dumps(run(setting)), flush=True)
        return
    began = time.perf_counter()
    left = lambda: args.limit - (time.perf_counter() - began)
    chosen = [number for number, setting in enumerate(SETTINGS) if args.only in setting.words]
    found: list[dict[str, Any]] = []
    print(
        f"{'predicted':>9} {'measured':>9} {'ratio':>6}  seconds  setting (GiB; where the most is needed)", flush=True
    )
    with ThreadPoolExecutor(args.parallel) as pool:
        for record in pool.map(lambda number: in_process(number, left(), args.tiny), chosen):
            if isinstance(record, str):
                print(f"  {record}", flush=True)
                continue
            found.append(record)
            ratio = record["predicted"] / record["measured"] if record["measured"] else math.nan
            sizes = f"{record['predicted'] / 2**30:9.2f} {record['measured'] / 2**30:9.2f} {ratio:6.3f}"
            print(f"{sizes}  {record['all_s']:7.1f}  {record['setting']} ({record['part']})", flush=True)
            parts = {name: round(size / 2**30, 2) for name, size in record["peaks"].items()}
            if not 0.98 <= ratio <= 1.05:
                needs = {name: round(size / 2**30, 2) for name, size in record["needs"].items()}
                print(f"{'':28}predicted {needs}; after each part {parts}", flush=True)
    if args.record:
        args.record.write_text("".join(json.dumps(record) + "\n" for record in found))
    ratios = [record["predicted"] / record["measured"] for record in found if record["measured"]]
    if ratios:
        counts = collections.Counter("under" if r < 0.98 else "over" if r > 1.05 else "within" for r in ratios)
        span = f"ratios {min(ratios):.3f} to {max(ratios):.3f}; {dict(counts)}"
        print(f"{len(ratios)} settings on {found[0]['device']}: {span}")


if __name__ == "__main__":
    main()
