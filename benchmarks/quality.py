"""What saving memory costs in quality: the same rolls, trained with less, on real pictures and the sample ads.

    python benchmarks/quality.py --folder /tmp/quality --data path/to/hotdog      # all settings, eight rolls each
    python benchmarks/quality.py --folder /tmp/quality --steps 8 --rolls 2 --only lora qlora      # does it run?

Frozen weights in four bits against bfloat16 or float32 (QLoRA, LoRA), adapters against the attention's own weights;
states of the optimizer in 8 against 32 bits, factored, or none; weights in bfloat16 with stochastic rounding against
float32. Each setting is one command a person could type, on the built-in model; roll n of every setting has seed n, and
so the same rows in the same order. The built-in model's matrices are no whole blocks of 64 wide: for NF4 its decoder is
written with the values that four bits leave, in blocks over the whole matrix as bitsandbytes has them.

Prints a table: means over the rolls with 95 % intervals (Student's t), and the mean difference to the setting it is to
be compared with, roll by roll.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rolltune import quantize
from rolltune.tiny.ads import write_sample_ads
from rolltune.weights.npz import BFLOAT16, as_pieces, write_npz

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "rolltune/tiny"
DIVERGED = 3  # the command's status where no roll ran to its end


class Setting(NamedTuple):
    words: str
    against: str | None  # the setting that it is to equal
    recipe: dict[str, object]


LORA = {"method": "lora", "optimizer": "adamw", "rate": 3e-3}
ATTENTION = {"method": "attention", "optimizer": "adamw", "rate": 3e-4}
DECODER = {
    "method": "rules",
    "rules": [("text/layers/.*", "full"), (".*", "frozen")],
    "optimizer": "adamw",
    "rate": 3e-4,
}
SMALL = {"trained_dtype": "bfloat16"}
SETTINGS = {
    "lora": Setting("LoRA", None, LORA),
    "qlora": Setting("LoRA on NF4", "lora", LORA | {"model": "nf4.npz"}),
    "qlora-double": Setting("LoRA on NF4, scales in 8 bits", "lora", LORA | {"model": "nf4-double.npz"}),
    "lora-int8": Setting("LoRA on int8", "lora", LORA | {"quantize": "int8"}),
    "lora-float8": Setting("LoRA on float8", "lora", LORA | {"quantize": "float8"}),
    "attention": Setting("attention, AdamW", "lora", ATTENTION),
    "attention-8bit": Setting("attention, AdamW 8-bit", "attention", ATTENTION | {"optimizer": "adamw8bit"}),
    "attention-bf16": Setting("attention, AdamW, bf16 + stochastic", "attention", ATTENTION | SMALL),
    "attention-least": Setting(
        "attention, AdamW 8-bit, bf16 + stochastic", "attention", ATTENTION | SMALL | {"optimizer": "adamw8bit"}
    ),
    "attention-adafactor": Setting("attention, Adafactor", "attention", ATTENTION | {"optimizer": "adafactor"}),
    "attention-sgd": Setting(
        "attention, SGD with momentum", "attention", ATTENTION | {"optimizer": "sgd", "momentum": 0.9, "rate": 3e-3}
    ),
    "decoder": Setting("all layers, AdamW", "lora", DECODER),
    "decoder-least": Setting(
        "all layers, AdamW 8-bit, bf16 + stochastic", "decoder", DECODER | SMALL | {"optimizer": "adamw8bit"}
    ),
}
FIGURES = ("accuracy", "log-loss")


# The decoder's matrices in big_vision's npz: the order of axes that has each layer's as the outputs by the inputs.
MATRICES = {
    "attn/q_einsum/w": (0, 1, 3, 2),
    "attn/kv_einsum/w": (0, 1, 2, 4, 3),
    "attn/attn_vec_einsum/w": (0, 3, 1, 2),
    "mlp/gating_einsum": (0, 1, 3, 2),
    "mlp/linear": (0, 2, 1),
}


def write_rounded(path: Path, double: bool) -> None:
    """The built-in model with its decoder's matrices as NF4 gives them back, in bfloat16."""
    arrays = {}
    with np.load(TINY / "paligemma-tiny.npz") as file:
        for name in file.files:
            array = file[name].view(BFLOAT16) if file[name].dtype.str[1:] == "V2" else file[name]
            axes = next((axes for end, axes in MATRICES.items() if name.endswith(end)), None)
            if axes:
                matrix = array.transpose(axes)
                blocks = quantize.encode_nf4(matrix.astype(np.float32).reshape(-1, quantize.BLOCK), double)
                rounded = np.asarray(quantize.decode(blocks, np.float32)).reshape(matrix.shape)
                array = rounded.transpose(np.argsort(axes)).astype(BFLOAT16)
            arrays[name] = as_pieces(np.ascontiguousarray(array))
    write_npz(path, arrays)


def prepare(folder: Path, data: Path | None) -> dict[str, str]:
    """name -> what `-d` takes: two drawings of the sample ads, one to train on and one to judge by; the given data."""
    ads = folder / "dataset/ads"
    if not (ads / "train.jsonl").exists():
        for seed, split in enumerate(("train", "valid")):
            write_sample_ads(ads / f"drawn-{split}", seed=seed)
            rows = [json.loads(line) for line in (ads / f"drawn-{split}/data.jsonl").read_text().splitlines()]
            moved = [row | {"image": f"drawn-{split}/{row['image']}"} for row in rows]
            (ads / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in moved))
    for double in (False, True):
        path = folder / f"nf4{'-double' * double}.npz"
        if not path.exists():
            write_rounded(path, double)
            shutil.copy(TINY / "tokenizer.model", folder)
    return {"ads": "ads"} | ({data.name: str(data.resolve())} if data else {})


def trained(folder: Path, name: str, dataset: str, setting: Setting, args: argparse.Namespace) -> dict:
    """The leaderboard that the command leaves, and its seconds; kept from an earlier call of the same settings."""
    job = f"{name}-{Path(dataset).name}-{args.rolls}x{args.steps}"
    board = folder / f"reports/{job}.leaderboard.json"
    seconds = folder / f"reports/{job}.seconds"
    if not seconds.exists():
        recipe = setting.recipe | {"steps": args.steps, "batch": args.batch, "redraws": 0, "log_every": args.steps}
        flags = [f"--config.{word}={value!r}" if not isinstance(value, str) else f"--config.{word}={value}"
                 for word, value in recipe.items()]  # fmt: skip
        command = [sys.executable, "-m", "rolltune", "learn", "-d", dataset, "-w", job, "--rolls", str(args.rolls)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        began = time.perf_counter()
        run = subprocess.run(
            [*command, "--overwrite", *flags], cwd=folder,
            env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if run.returncode == DIVERGED:
            board.write_text(json.dumps({"rolls": [{"valid": None}] * args.rolls}))
        elif run.returncode:
            sys.exit(f"{' '.join(command + flags)}\n{run.stdout}\nended with {run.returncode}")
        seconds.write_text(f"{time.perf_counter() - began:.1f}")
    return json.loads(board.read_text()) | {"seconds": float(seconds.read_text())}


def figures(board: dict) -> dict[str, dict[int, float]]:
    """figure -> seed -> its value on the validation split, of the rolls that ran to their end."""
    judged = [roll for roll in board["rolls"] if roll["valid"] is not None]
    return {name: {roll["seed"]: roll["valid"][name] for roll in judged} for name in FIGURES}


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half the width of its 95 % interval by Student's t)."""
    if len(values) < 2:
        return (values[0] if values else float("nan")), float("nan")
    spread = statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), float(student.ppf(0.975, len(values) - 1)) * spread


def differences(own: dict[int, float], other: dict[int, float]) -> list[float]:
    """Roll by roll, of the seeds that both have."""
    return [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]


def table(boards: dict[str, dict]) -> list[str]:
    """Lines of Markdown for one data set."""
    lines = ["| | rolls | accuracy | log-loss | against | accuracy | log-loss |", "|---|---|---|---|---|---|---|"]
    found = {name: figures(board) for name, board in boards.items()}
    shown = lambda values, sign="": "{:{sign}.3f} ± {:.3f}".format(*interval(values), sign=sign)
    for name, board in boards.items():
        setting, ended = SETTINGS[name], len(found[name]["accuracy"])
        cells = [setting.words, f"{ended} of {len(board['rolls'])}"]
        cells += [shown(list(found[name][figure].values())) for figure in FIGURES]
        if setting.against in found:
            other = found[setting.against]
            cells.append(SETTINGS[setting.against].words)
            cells += [shown(differences(found[name][figure], other[figure]), "+") for figure in FIGURES]
        else:
            cells += [""] * 3
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="to work in; what is there already is not run again")
    parser.add_argument("--data", type=Path, help="a folder with train.jsonl and valid.jsonl, beside the sample ads")
    parser.add_argument("--rolls", type=int, default=8, help="of each setting (%(default)s)")
    parser.add_argument("--steps", type=int, default=384, help="of each roll (%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="rows a step (%(default)s)")
    parser.add_argument("--at-once", type=int, default=1, help="commands side by side on one device (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    sets = prepare(args.folder, args.data)

    def run(job: tuple[str, str]) -> dict:
        title, name = job
        board = trained(args.folder, name, sets[title], SETTINGS[name], args)
        print(f"{title}, {name}: {board['seconds']:.0f} s", file=sys.stderr, flush=True)
        return board

    jobs = [(title, name) for title in sets for name in args.only]
    with ThreadPoolExecutor(args.at_once) as pool:
        boards = dict(zip(jobs, pool.map(run, jobs), strict=True))
    for title in sets:
        own = {name: boards[title, name] for name in args.only}
        text = "\n".join([f"\n{title}: {args.rolls} rolls of {args.steps} steps, batch {args.batch}\n", *table(own)])
        print(text, flush=True)
        with (args.folder / "quality.md").open("a") as file:
            file.write(f"{text}\n")


if __name__ == "__main__":
    main()
