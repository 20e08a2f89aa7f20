"""Times what comes before the first step, on made data and the built-in model: linear in the rows, or not.

    python benchmarks/setup_time.py --rows 1000 10000 60000
    python benchmarks/setup_time.py --pictures 1000 10000

Prints a line for each size: seconds of reading, encoding (tokens of training and scoring rows), what is computed before
training (image features) and 50 batches, and their sum without the features.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rolltune import trees
from rolltune.data.batches import joint_batch
from rolltune.device import set_up_jax
from rolltune.recipe import Recipe
from rolltune.training import setup
from rolltune.training.dataset import Wanted, read_data
from rolltune.training.plan import plan_for

TEXT = "is this what they have asked of us before anyone came to see how it looks when nobody is there at all"


def write_rows(folder: Path, rows: int, pictures: bool) -> Path:
    rng = np.random.default_rng(0)
    path = folder / "data.jsonl"
    with path.open("w") as file:
        for number in range(rows):
            row = {"prefix": " ".join(rng.choice(TEXT.split(), 40)), "suffix": ("a", "b", "tie")[number % 3]}
            if pictures:
                row["image"] = f"{number}.png"
                Image.fromarray(rng.integers(0, 256, (64, 48, 3)).astype(np.uint8)).save(folder / row["image"])
            file.write(json.dumps(row) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="sizes of sets of text rows")
    parser.add_argument("--pictures", type=int, nargs="*", default=[], help="sizes of sets of one picture a row")
    args = parser.parse_args()
    set_up_jax()
    recipe = Recipe(balance="weight")
    model, params = setup.load(recipe)
    for size, pictures in [(size, False) for size in args.rows] + [(size, True) for size in args.pictures]:
        with tempfile.TemporaryDirectory() as folder:
            path = write_rows(Path(folder), size, pictures)
            marks = [time.perf_counter()]
            data = read_data({"train": path}, Wanted("choose"), lambda text: None)
            marks.append(time.perf_counter())
            inputs = setup.encode(model, recipe, data)
            marks.append(time.perf_counter())
            plan = plan_for(model, trees.shapes(params), recipe, data.task)
            cached = setup.cache(model, trees.unflatten(trees.flatten(params)), plan, recipe, data, inputs)
            marks.append(time.perf_counter())
            loader = setup.loaders(recipe, cached.training, data, None)(setup.lottery(recipe).draw(0))
            for step in range(50):
                joint_batch([loader], [step], 1)
            marks.append(time.perf_counter())
        read, encode, cache, batches = np.diff(marks)
        kind = "pictures" if pictures else "text rows"
        print(
            f"{size} {kind}: read {read:.2f} s, encode {encode:.2f} s, before training {cache:.2f} s, "
            f"50 batches {batches:.2f} s; without features {read + encode + batches:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
