"""Which ranking finds wrong labels: some are flipped on purpose, and rolls that never saw a row judge it.

    python benchmarks/doubtful.py --folder /tmp/doubtful --data path/to/hotdog           # the sample ads, too
    python benchmarks/doubtful.py --folder /tmp/doubtful --steps 8 --repeat 2 --seeds 1  # does it run?

Of each set (all splits together) a share of the labels is flipped to another answer; `--folds` with `--repeat` gives
every row the probabilities of rolls that did not learn from it. The rows are ranked from the most doubted on, by the
probability of the given answer (self-confidence), by its margin over the likeliest other one (of two answers the same
order), and by self-confidence above what is usual of rows with this answer (confident learning's thresholds,
arXiv:1911.00068). Prints the precision at the number flipped: of the first N rows, N being how many were flipped, the
share that were; once by one roll a row, once by the mean of all rounds. By chance it is the share that was flipped.
What is wrong in the set itself counts as a false alarm.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rolltune.evaluation import doubtful
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.statistics import wilson
from rolltune.evaluation.votes import mean_of
from rolltune.tiny.ads import write_sample_ads

ROOT = Path(__file__).resolve().parents[1]
RANKINGS = {
    "self-confidence": doubtful.self_confidence,
    "margin": doubtful.margin,
    "class thresholds": doubtful.against_class,
}


def write_flipped(source: Path, target: Path, share: float, seed: int) -> None:
    """The rows of `source` as target/train.jsonl, with some answers flipped; the numbers of these in flipped.json."""
    rows = []
    for name in ("data.jsonl", "train.jsonl", "valid.jsonl"):
        file = source / name
        for line in file.read_text().splitlines() if file.exists() else ():
            row = json.loads(line)
            rows.append(row | {"image": os.path.relpath(source / row["image"], target)})
    answers = sorted({row["suffix"] for row in rows})
    rng = np.random.default_rng(seed)
    flipped = sorted(rng.choice(len(rows), max(1, round(share * len(rows))), replace=False).tolist())
    for place in flipped:
        others = [answer for answer in answers if answer != rows[place]["suffix"]]
        rows[place]["suffix"] = others[rng.integers(len(others))]
    target.mkdir(parents=True, exist_ok=True)
    (target / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (target / "split.json").write_text(json.dumps({"image_root": os.path.relpath(source, target)}))
    (target / "flipped.json").write_text(json.dumps(flipped))


def judged(folder: Path, source: Path, seed: int, args: argparse.Namespace) -> tuple[list[Prediction], list[int]]:
    """(a prediction of all rows for each round, the rows that were flipped). What is there already is not run again."""
    settings = f"{args.folds}x{args.repeat}x{args.steps}x{args.batch}x{args.rate:g}x{args.share:g}"
    name = f"{source.name}-flip{seed}-{settings}"
    data, result = folder / f"dataset/{name}", folder / f"reports/{name}.out-of-fold.jsonl"
    if not result.exists():
        write_flipped(source, data, args.share, seed)
        recipe = {"steps": args.steps, "batch": args.batch, "rate": args.rate, "method": "lora", "optimizer": "adamw"}
        recipe |= {"log_every": args.steps, "redraws": 0}
        command = [sys.executable, "-m", "rolltune", "learn", "-d", name, "-w", name, "--overwrite"]
        command += ["--seed", str(1000 * seed), "--folds", str(args.folds), "--repeat", str(args.repeat)]
        command += [f"--config.{word}={value}" for word, value in recipe.items()]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        run = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        if run.returncode or not result.exists():
            sys.exit(f"{' '.join(command)}\n{run.stdout}\nended with {run.returncode}, or without figures of all folds")
    rows = [json.loads(line) for line in result.read_text().splitlines()]
    given = [json.loads(line)["suffix"] for line in (data / "train.jsonl").read_text().splitlines()]
    if [row["answer"] for row in rows] != given:
        raise SystemExit(f"{result} is not of the rows of {data}: remove both")
    answers = tuple(rows[0]["probabilities"])
    label = np.array([answers.index(row["answer"]) for row in rows])
    rounds = [row.get("rounds", [row["probabilities"]]) for row in rows]
    # Written with six digits: what is 0 there is a little more.
    chances = np.array([[list(one.values()) for one in row] for row in rounds]).clip(1e-9)  # [N, R, C]
    ids = tuple(row["id"] for row in rows)
    made = [Prediction(ids, answers, label, np.log(chances[:, place])) for place in range(chances.shape[1])]
    return made, json.loads((data / "flipped.json").read_text())


def found(prediction: Prediction, flipped: list[int]) -> dict[str, int]:
    """ranking -> how many of the flipped rows are among as many of its first ones."""
    first = {name: np.argsort(rank(prediction), kind="stable")[: len(flipped)] for name, rank in RANKINGS.items()}
    return {name: len(set(places.tolist()) & set(flipped)) for name, places in first.items()}


def line(rows: int, flipped: int, hits: Mapping[str, int], words: str) -> str:
    told = [f"{hits[name] / flipped:.2f} ({wilson(hits[name], flipped)})" for name in RANKINGS]
    return f"| {words} | {flipped} of {rows} | {' | '.join(told)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="to work in; what is there already is not run again")
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders with JSONL files, beside the ads")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that is flipped (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="so many times others are flipped (%(default)s)")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3, help="rolls that judge each row (%(default)s)")
    parser.add_argument("--steps", type=int, default=384, help="of each roll (%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="rows a step (%(default)s)")
    parser.add_argument("--rate", type=float, default=3e-3, help="(%(default)s)")
    parser.add_argument("--at-once", type=int, default=1, help="commands side by side on one device (%(default)s)")
    args = parser.parse_args()
    ads = args.folder.resolve() / "ads"
    if not (ads / "data.jsonl").exists():
        write_sample_ads(ads, seed=0)
    sources = [ads, *(path.resolve() for path in args.data)]
    jobs = [(source, seed) for source in sources for seed in range(args.seeds)]
    run = lambda job: judged(args.folder.resolve(), job[0], job[1], args)
    with ThreadPoolExecutor(args.at_once) as pool:
        results = dict(zip(jobs, pool.map(run, jobs), strict=True))
    print(f"| precision at the number flipped | flipped | {' | '.join(RANKINGS)} |\n|{'---|' * (2 + len(RANKINGS))}")
    for source in sources:
        own = [results[source, seed] for seed in range(args.seeds)]
        rows, flipped = sum(len(rounds[0].ids) for rounds, _ in own), sum(len(places) for _, places in own)
        choices = {"one roll a row": lambda rounds: rounds[0], f"mean of {args.repeat}": mean_of}
        right = float(np.mean([mean_of(rounds).correct.mean() for rounds, _ in own]))
        for words, choose in choices.items():
            hits = [found(choose(rounds), places) for rounds, places in own]
            total = {name: sum(one[name] for one in hits) for name in RANKINGS}
            print(line(rows, flipped, total, f"{source.name} ({right:.2f} right), {words}"))


if __name__ == "__main__":
    main()
