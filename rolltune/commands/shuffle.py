"""02-shuffle_data.sh: split one labelled set into train, valid and test."""

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console

from rolltune.atomic import folder_aside
from rolltune.commands.common import command_parser
from rolltune.commands.reading import add_reading_flags, reading_of
from rolltune.commands.terminal import quiet_decoders, tell, terminal
from rolltune.data.answers import spelling_findings
from rolltune.data.examples import Scan
from rolltune.data.files import relative, safe_name, sha256_of, write_json, write_jsonl
from rolltune.data.findings import ERROR, Finding, raise_errors
from rolltune.data.fingerprints import fingerprints
from rolltune.data.image_paths import MANIFEST, common_root
from rolltune.data.rows import rebased
from rolltune.data.sources import check_images, scan_source
from rolltune.data.splits import cluster_rows, fold_rows, keys_of, modulo_rows, one_sided, parse_amount, split_rows
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./02-shuffle_data.sh -v 10 -n set1             dataset/data.jsonl -> dataset/set1/{train,valid}.jsonl, 10 for valid
  ./02-shuffle_data.sh -v 10 -t 10 -n set1       ... and test.jsonl, to be looked at once, at the very end
  ./02-shuffle_data.sh --ratios 70/20/10 -n set1 train, valid and test by share
  ./02-shuffle_data.sh -v 20% -n set2 --seed 7   a share; the same seed gives the same split on every machine
  ./02-shuffle_data.sh --folds 5 -n cv           dataset/cv/fold1 ... fold5, each with train.jsonl and valid.jsonl
  ./02-shuffle_data.sh --mod 5 -n set3           valid is where id % 5 = 0 (the row's place where ids are no numbers)
  ./02-shuffle_data.sh photos/ -v 10 -n set4     image folders, CSV and all else that ./00-doctor.py reads
  ./02-shuffle_data.sh t.csv --columns prefix=asked,suffix=label,image=file -n set5

Answers are spread evenly over the splits. Rows of one "group" (or "video") stay together, and so do copies of one
picture (resized, turned, saved again): a copy in valid of what was learnt in train makes the figures a lie.
"""


def parser() -> argparse.ArgumentParser:
    made = command_parser("02-shuffle_data.sh", "Split a labelled set into train, valid and test.", EXAMPLES)
    made.add_argument("data", nargs="?", help="what to split (default: data.jsonl of the dataset folder)")
    made.add_argument("-v", "--valid", metavar="N", help="rows for valid: 10, 20%% or 0.2 (default: 10)")
    made.add_argument("-t", "--test", metavar="N", help="rows for test (default: none)")
    made.add_argument("-n", "--name", default="set1", help="name of the folder to write (default: set1)")
    made.add_argument("--ratios", metavar="A/B[/C]", help="train/valid/test by share, such as 70/20/10")
    made.add_argument("--folds", type=int, metavar="K", help="K folds instead, each row in valid of one of them")
    made.add_argument("--mod", metavar="N[:R]", help="instead: valid is where id %% N = R (R: 0)")
    made.add_argument("--seed", type=int, help="the seed of an earlier split, to have it again (default: a new one)")
    add_reading_flags(made)
    made.add_argument("--no-stratify", action="store_true", help="do not spread the answers evenly")
    made.add_argument("--no-groups", action="store_true", help='let rows of one "group" or "video" be split apart')
    made.add_argument("--no-near", action="store_true", help="let copies of one picture be split apart")
    made.add_argument("--force", action="store_true", help="replace a folder of that name")
    made.add_argument("--dataset-folder", type=Path, help="where data.jsonl is and NAME is written")
    return made


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    folder = options.dataset_folder or default_folder()
    data = options.data or str(folder / "data.jsonl")
    if not options.data and not Path(data).exists():
        raise UserError(
            f"{data}: there is no such file; write it there beside your images (docs/data.md says how), "
            "name other data, or draw 96 sample advertisements: rolltune sample-ads dataset"
        )
    if safe_name(options.name) != options.name:
        raise UserError(f"-n {options.name!r}: expected a plain folder name, such as {safe_name(options.name)!r}")
    if sum(bool(way) for way in (options.folds, options.mod, options.ratios, options.valid or options.test)) > 1:
        raise UserError("-v and -t, --ratios, --folds and --mod are different ways to split: use one of them")
    target = folder / options.name
    _refuse_to_replace(target, options.force)
    console = terminal()
    scan, prints = _read(data, not options.no_near, reading_of(options))
    tell(console, f"{data}: {scan.understood}")
    answers = [example.answer for example in scan.examples]
    for finding in spelling_findings(answers, data):
        tell(console, f"{finding.level}: {finding}", style="yellow")
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    clusters = cluster_rows(scan.examples, prints, groups=not options.no_groups)
    splits = _splits(options, scan, clusters, seed)
    tell(console, f"seed: {seed}")
    _tell_clusters(console, scan, clusters)
    manifest = {
        "seed": seed,
        "source": relative(Path(data), target) if Path(data).exists() else data,
        "source_sha256": sha256_of(Path(data)) if Path(data).is_file() else None,
        "rows": len(scan.examples),
        "options": {key: value for key, value in vars(options).items() if key in WAYS and value},
        "kept_together": {"groups": not options.no_groups, "copies": not options.no_near},
    }
    _write(scan, splits, target, manifest)
    for name, places in splits.items():
        tell(console, f"  {name}.jsonl: {_counts(answers, places)}")
    for line in one_sided(answers, splits):
        tell(console, f"warning: {line}", style="yellow")
    tell(console, f"written to {target}")
    return 0


WAYS = ("valid", "test", "ratios", "folds", "mod", "no_stratify", "columns", "question", "names")


def default_folder() -> Path:
    """The dataset folder where the command was called without one: here, or in playground/."""
    here = Path("dataset")
    return here if here.is_dir() or not Path("playground/dataset").is_dir() else Path("playground/dataset")


def _refuse_to_replace(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise UserError(f"{target} exists already: choose another name with -n, or replace it with --force")
    if target.exists() and not (target / MANIFEST).is_file():
        raise UserError(f"{target} was not written by this command (it has no {MANIFEST}): it is not replaced")


def _read(data: str, near: bool, reading: dict) -> tuple[Scan, dict | None]:
    """All rows, every image decoded; one error lists everything that is wrong."""
    scan = scan_source(data, **reading)
    keys = dict.fromkeys(key for example in scan.examples for key in keys_of(example))
    with quiet_decoders():
        if not near:
            raise_errors(scan.findings + check_images(scan), data)
            return scan, None
        made = fingerprints(keys)
    broken = [
        Finding(ERROR, "unreadable image", example.source, str(made[key]))
        for example in scan.examples
        for key in keys_of(example)
        if isinstance(made[key], UserError)
    ]
    raise_errors(scan.findings + broken, data)
    return scan, made


def _splits(options: argparse.Namespace, scan: Scan, clusters: list[int], seed: int) -> dict[str, list[int]]:
    """Name (with folder, for folds) -> rows."""
    answers = [example.answer for example in scan.examples]
    strata = [""] * len(answers) if options.no_stratify else answers
    if options.mod:
        divisor, _, remainder = options.mod.partition(":")
        if not divisor.isdecimal() or not (remainder or "0").isdecimal():
            raise UserError(f"--mod {options.mod!r}: expected N or N:R, such as 5 or 5:1")
        return modulo_rows(scan.examples, int(divisor), int(remainder or 0))
    if options.folds is not None:
        fold_of = fold_rows(strata, clusters, options.folds, seed)
        result = {}
        for fold in range(options.folds):
            for name, inside in (("train", False), ("valid", True)):
                places = [place for place, its in enumerate(fold_of) if (its == fold) == inside]
                random.Random(seed).shuffle(places)
                result[f"fold{fold + 1}/{name}"] = places
        return result
    sizes, exact = _sizes(options, len(answers))
    return split_rows(answers, clusters, sizes, seed, stratify=not options.no_stratify, exact=exact)


def _sizes(options: argparse.Namespace, rows: int) -> tuple[dict[str, int], bool]:
    if options.ratios:
        shares = options.ratios.split("/")
        if len(shares) not in (2, 3) or not all(share.isdecimal() and int(share) for share in shares):
            raise UserError(
                f"--ratios {options.ratios!r}: expected two or three whole numbers, such as 80/20 or 70/20/10"
            )
        total = sum(map(int, shares))
        parts = [(int(share) * rows + total // 2) // total for share in shares[1:]]
        return dict(zip(("valid", "test")[: len(parts)], parts, strict=True)), False
    sizes: dict[str, int] = {}
    exact = True
    for name, text in (("valid", options.valid or "10"), ("test", options.test)):
        if text is not None:
            sizes[name], told = parse_amount(text, rows)
            exact = exact and told
    return sizes, exact


def _tell_clusters(console: Console, scan: Scan, clusters: list[int]) -> None:
    sizes = Counter(clusters)
    together = [size for size in sizes.values() if size > 1]
    if together:
        sets = f"{len(together)} groups or sets of copies"
        tell(console, f"kept together: {sum(together)} rows in {sets} (largest: {max(together)})")


def _counts(answers: list[str], places: list[int]) -> str:
    counts = Counter(answers[place] for place in places)
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{answer[:40]} {count}" for answer, count in common[:6])
    return f"{len(places)} rows ({shown}{f', and {len(common) - 6} other answers' if len(common) > 6 else ''})"


def _write(scan: Scan, splits: dict[str, list[int]], target: Path, manifest: dict) -> None:
    """The whole folder aside, then renamed into its place."""
    root = common_root(scan)
    answers = [example.answer for example in scan.examples]
    with folder_aside(target, replace=True) as aside:
        for name, places in splits.items():
            final = (target / f"{name}.jsonl").parent
            rows = [rebased(scan.rows[place], scan.folder, final) for place in places]
            write_jsonl(aside / f"{name}.jsonl", rows)
        for sub in sorted({Path(name).parent for name in splits}):
            inside = {Path(name).name: places for name, places in splits.items() if Path(name).parent == sub}
            counts = {name: Counter(answers[place] for place in places) for name, places in inside.items()}
            write_json(
                aside / sub / MANIFEST,
                {
                    **manifest,
                    "image_root": relative(root, target / sub),
                    "splits": {
                        name: {"rows": len(inside[name]), "answers": dict(sorted(counts[name].items()))}
                        for name in inside
                    },
                },
            )


if __name__ == "__main__":
    sys.exit(main())
