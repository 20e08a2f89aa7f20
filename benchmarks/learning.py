"""Whether learning happens on real data: eight rolls of small models on public sets, against what guessing gives.

    python benchmarks/learning.py --data shared/data --folder out              # the built-in model's searches
    python benchmarks/learning.py --data shared/data --folder out --smollm cache/smollm2-135m    # a real one's, too
    python benchmarks/learning.py --data shared/data --folder out --only hotdog nlvr --rolls 2 --steps 4
    python benchmarks/learning.py --folder out --only                          # the table of what has run

Each search is what a person does: `02` splits (copies and groups on one side), `03` trains the rolls and ranks them on
the validation rows, `04` scores every roll on the test rows, which chose nothing. `NAME.json` in the folder keeps its
figures: a search that has run does not run again. The rolls of one search differ in their seed alone; the interval is
of their mean, by Student's t: it says what other seeds would give on the same rows, not what other rows would. A roll
that gives every row one answer has no rank and is not in the mean: the table says how many are.

`benchmarks/from_gguf.py` makes the folder of SmolLM2-135M.
"""

import argparse
import dataclasses
import gc
import json
import math
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from rolltune import atomic
from rolltune.commands import shuffle
from rolltune.data.sources import read_examples
from rolltune.device import set_up_jax
from rolltune.errors import UserError
from rolltune.evaluation.figures import measured
from rolltune.evaluation.metrics import rounded
from rolltune.jobs import learn, search_prompt, validate
from rolltune.jobs.interrupts import Interrupts
from rolltune.recipe import Recipe
from rolltune.training.dataset import Wanted, read_data

TINY = Recipe(metric="accuracy", batch=4, steps=768, rate=2e-3, log_every=64, redraws=0, stall=0.0, evaluate_batch=16)
LONG = dict(task="classify", max_tokens=512, truncate="right")
SMOLLM = Recipe(
    metric="log-loss", batch=4, steps=400, rate=3e-4, rank=16, alpha=32.0, dropout=0.05, log_every=50,
    redraws=0, stall=0.0,
)  # fmt: skip
AUGMENTED = dict(augment=("crop", "flip", "colour"), views=8)


@dataclasses.dataclass(frozen=True)
class Search:
    """`made` names the data set; `folds` makes the rolls the folds of all its rows, without a test split."""

    made: str
    recipe: Recipe
    folds: bool = False


def searches(smollm: str) -> dict[str, Search]:
    tiny = lambda made, **changes: Search(made, dataclasses.replace(TINY, **changes))
    real = lambda made, folds=False, **changes: Search(
        made, dataclasses.replace(SMOLLM, model=smollm, **changes), folds
    )
    found = {
        "hotdog": tiny("hotdog"),
        "hotdog-augmented": tiny("hotdog", **AUGMENTED),
        "plantdoc": tiny("plantdoc"),
        "plantdoc-augmented": tiny("plantdoc", **AUGMENTED),
        "nlvr": tiny("nlvr"),
        "video": tiny("video", steps=192, batch=2, evaluate_batch=4),
        "preferences-tiny": tiny("preferences", **LONG, metric="log-loss", rate=5e-4),
    }
    if smollm:
        head = dict(task="classify")
        found |= {
            "preferences-answers": real("preferences"),
            "preferences-head": real("preferences", **head),
            "preferences-answers-folds": real("preferences", folds=True),
            "preferences-head-folds": real("preferences", folds=True, **head),
        }
    return found


def joined(files: list[Path], folder: str, group: Any = None) -> list[dict[str, Any]]:
    """The rows of these files, with their pictures below `folder`; `group(row)` says what must stay on one side."""
    rows = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            row |= {"image": f"{folder}/{row['image']}"} if "image" in row else {}
            row |= {"images": [f"{folder}/{name}" for name in row["images"]]} if "images" in row else {}
            rows.append(row | ({"group": group(row)} if group else {}))
    return rows


def sentence(row: dict[str, Any]) -> str:
    """The sentence that a NLVR row is about: dev-1265 of .../dev-1265-0-0-box0.png. It comes with several pictures."""
    return "-".join(Path(row["images"][0]).name.split("-")[:2])


def question(row: dict[str, Any]) -> str:
    return row["prefix"].partition("\n\nAnswer A:")[0]


LONGEST = 2500  # characters of a question: so no row is cut, and a batch is not padded to the one long row in it
SETS = {  # their folder, their files, what must stay on one side
    "hotdog": ("hotdog", ("train.jsonl", "valid.jsonl"), None),
    "plantdoc": ("plantdoc", ("all.jsonl",), None),
    "nlvr": ("nlvr1", ("dev_multi.jsonl", "test_multi.jsonl"), sentence),
    "video": ("video_frames", ("all.jsonl",), None),
    "preferences": ("preferences", ("train.jsonl", "valid.jsonl"), question),
}
# Clips of one video are all of its class, so they can't be kept on one side. NLVR's drawings look alike by design.
LOOSE = {"video": ["--no-groups", "--no-near"], "nlvr": ["--no-near"]}


def make_set(name: str, data: Path) -> None:
    """dataset/NAME with train, valid and test below the present folder, by 02; nothing where it is there."""
    if Path("dataset", name, "split.json").exists():
        return
    folder, files, group = SETS[name]
    shutil.copytree(data / folder, Path("dataset/files", folder), dirs_exist_ok=True)
    rows = joined([data / folder / file for file in files], f"files/{folder}", group)
    rows = [row for row in rows if len(row["prefix"]) <= LONGEST]
    source = Path("dataset", f"{name}.jsonl")
    atomic.write_text(source, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    parts = [str(source), "-n", name, "-v", "20%", "-t", "20%", "--seed", "1", "--dataset-folder", "dataset"]
    shuffle.main([*parts, *LOOSE.get(name, [])])


def run(name: str, search: Search, rolls: int, say: Any) -> dict[str, Any]:
    """Trains and scores, all by the ordinary jobs; the figures as plain JSON."""
    began = time.perf_counter()
    folder = Path("dataset", search.made)
    whole = {split: read_examples(folder / f"{split}.jsonl") for split in ("train", "valid", "test")}
    answers = sorted({one.answer for some in whole.values() for one in some})
    recipe = dataclasses.replace(search.recipe, answers=tuple(answers))
    about: dict[str, Any] = {"name": name, "answers": len(answers), "asked": rolls, "recipe": vars(recipe)}
    about |= {split: len(some) for split, some in whole.items()}
    dataset = f"dataset/{search.made}.jsonl" if search.folds else str(folder)
    tested = Path(dataset) if search.folds else folder / "test.jsonl"
    about |= guessing([one.answer for one in whole["train"]], [one.answer for one in read_examples(tested)])
    if recipe.task != "classify":  # a head has no untrained form
        about["untouched"] = untouched(recipe, tested, say)
    given = dict(folds=rolls) if search.folds else dict(rolls=str(rolls))
    options = learn.Options(dataset, name, keep="all", overwrite=True, **given)
    with Interrupts(say) as interrupts:
        if status := learn.learn(options, recipe, interrupts):
            raise SystemExit(status)
    gc.collect()
    about |= out_of_fold(name) if search.folds else on_test(name, tested, say)
    return about | {"seconds": round(time.perf_counter() - began)}


def guessing(trained: list[str], tested: list[str]) -> dict[str, float]:
    """What the commonest answer of the training rows gets, and the log-loss of their answers' shares."""
    counts = Counter(trained)
    (commonest, _), *_ = counts.most_common(1)
    shares = {answer: counts[answer] / len(trained) for answer in counts}
    losses = [-math.log(shares.get(answer, 1 / len(trained))) for answer in tested]
    return {"majority": tested.count(commonest) / len(tested), "base-rate": float(np.mean(losses))}


def untouched(recipe: Recipe, tested: Path, say: Any) -> dict[str, float | None]:
    data = read_data({"train": tested}, Wanted(recipe.task, recipe.answers), say)
    figures = measured(search_prompt.score_prompts(recipe, data, [""])[0], data.positive.answer)
    return {"accuracy": figures.figure("accuracy"), "log-loss": figures.figure("log-loss")}


def on_test(name: str, tested: Path, say: Any) -> dict[str, Any]:
    """Every roll on the test rows, in the order of the ranking on the validation rows."""
    board = json.loads(Path(f"reports/{name}.leaderboard.json").read_text())["rolls"]
    ranked = [roll for roll in board if roll["rank"]]
    files = [Path(f"checkpoints/{name}.npz"), *(Path(f"checkpoints/{name}.rank{n}.npz") for n in range(2, 99))]
    files = files[: len(ranked)]
    validate.validate(validate.Options([tested], json=Path(f"{name}.test.json")), files, say)
    cells = json.loads(Path(f"{name}.test.json").read_text())["cells"]
    of = lambda roll: {split: two(roll[split]) for split in ("train", "valid")}
    pairs = zip(ranked, cells, strict=True)
    return {"rolls": [{"seed": roll["seed"], "test": two(cell["metrics"])} | of(roll) for roll, cell in pairs]}


def out_of_fold(name: str) -> dict[str, Any]:
    """Each fold's roll on the rows that it did not see, and all rows together."""
    file = Path(f"reports/{name}.out-of-fold.jsonl")
    if not file.exists():
        raise UserError(f"{name}: a fold's roll ended early, so not every row has a figure: reports/{name}.html")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    right = [row["predicted"] == row["answer"] for row in rows]
    losses = [-math.log(max(row["probabilities"][row["answer"]], 1e-7)) for row in rows]
    board = json.loads(Path(f"reports/{name}.leaderboard.json").read_text())["rolls"]
    ranked = [one for one in board if one["rank"]]
    rolls = [{"seed": one["seed"], "train": two(one["train"]), "test": two(one["valid"])} for one in ranked]
    return {
        "out-of-fold": {"rows": len(rows), "accuracy": float(np.mean(right)), "log-loss": float(np.mean(losses))},
        "rolls": rolls,
    }


def two(figures: dict[str, Any]) -> dict[str, float | None]:
    return {name: figures[name] for name in ("accuracy", "log-loss")}


def mean_text(values: list[float | None]) -> str:
    """Mean (95 % interval of it)."""
    known = np.array([value for value in values if value is not None])
    if len(known) < 2:
        return rounded(float(known[0])) if len(known) else ""
    half = t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known))
    return f"{known.mean():.3f} ({known.mean() - half:.3f} to {known.mean() + half:.3f})"


COLUMNS = (
    *("search", "rows", "classes", "rolls", "accuracy: always the commonest", "untouched", "best on valid"),
    *("the same on test", "all rolls on test", "log-loss: of the shares", "untouched", "the best on test", "all rolls"),
    "seconds",
)


def show(found: dict[str, dict[str, Any]]) -> None:
    """The table, as the page of the benchmarks has it; and what augmentation changed, seed by seed."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(cells_of, found.values())]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    for name in found:
        if (other := f"{name}-augmented") in found:
            for figure in ("accuracy", "log-loss"):
                gained = gain(found[name], found[other], figure)
                print(f"{name}, augmented minus plain, seed by seed, {figure} on test: {gained}")


def cells_of(one: dict[str, Any]) -> list[str]:
    rolls, together = one["rolls"], one.get("out-of-fold")
    of = lambda figure: mean_text([roll["test"][figure] for roll in rolls])
    before, best = one.get("untouched", {"accuracy": None, "log-loss": None}), rolls[0]
    text = lambda value: "" if value is None else rounded(value)
    return [
        one["name"],
        f"{together['rows']} in folds" if together else f"{one['train']}/{one['valid']}/{one['test']}",
        str(one["answers"]),
        f"{len(rolls)} of {one['asked']}",
        text(one["majority"]),
        text(before["accuracy"]),
        "" if together else text(best["valid"]["accuracy"]),
        text((together or best["test"])["accuracy"]),
        of("accuracy"),
        text(one["base-rate"]),
        text(before["log-loss"]),
        text((together or best["test"])["log-loss"]),
        of("log-loss"),
        str(one["seconds"]),
    ]


def gain(plain: dict[str, Any], augmented: dict[str, Any], figure: str) -> str:
    by_seed = [{roll["seed"]: roll["test"][figure] for roll in one["rolls"]} for one in (plain, augmented)]
    return mean_text([by_seed[1][seed] - by_seed[0][seed] for seed in sorted(set(by_seed[0]) & set(by_seed[1]))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of public sets")
    parser.add_argument("--folder", type=Path, required=True, help="where data sets, rolls and figures are left")
    parser.add_argument("--smollm", type=Path, help="the folder of SmolLM2-135M")
    parser.add_argument("--only", nargs="*", metavar="SEARCH", help="these searches; none: show what has run")
    parser.add_argument("--rolls", type=int, default=8, help="in each search, and how many folds (%(default)s)")
    parser.add_argument("--steps", type=int, help="of a roll, instead of the search's own")
    args = parser.parse_args()
    known = searches(str(args.smollm.resolve()) if args.smollm else "")
    chosen = list(known) if args.only is None else args.only
    if strange := [name for name in chosen if name not in known]:
        parser.error(f"{strange[0]}: there are {', '.join(known)}{'' if args.smollm else '; more with --smollm'}")
    if chosen and not args.data:
        parser.error("--data: where the public sets are")
    data = args.data.resolve() if args.data else Path()
    args.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(args.folder)
    if chosen:
        set_up_jax()
    for name in chosen:
        search, kept = known[name], Path(f"{name}.json")
        if kept.exists():
            continue
        if args.steps:
            search = dataclasses.replace(search, recipe=dataclasses.replace(search.recipe, steps=args.steps))
        make_set(search.made, data)
        try:
            atomic.write_json(kept, run(name, search, args.rolls, print))
        except UserError as error:  # the others are worth their time
            print(f"{name}: {error}")
    there = {name: Path(f"{name}.json") for name in searches("any")}
    show({name: json.loads(file.read_text()) for name, file in there.items() if file.exists()})


if __name__ == "__main__":
    main()
