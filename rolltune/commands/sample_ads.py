"""Draw the sample data set: 96 advertisements, yes or no, PNG, JPEG and a few animated GIFs."""

import argparse
from pathlib import Path

from rolltune.errors import UserError
from rolltune.tiny.ads import write_sample_ads
from rolltune.typed import as_typed

EXAMPLES = """examples:
  rolltune sample-ads dataset               writes dataset/data.jsonl and dataset/images
  rolltune sample-ads other --seed 1        another 96
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rolltune sample-ads",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (default 0)")
    args = parser.parse_args(argv)
    if (args.folder / "data.jsonl").exists():
        raise UserError(f"{args.folder / 'data.jsonl'} is there already: nothing was written over it")
    write_sample_ads(args.folder, seed=args.seed)
    split = as_typed("./02-shuffle_data.sh -v 10 -n set1")
    print(f"{args.folder / 'data.jsonl'}: 96 drawn advertisements, next: {split}")
    return 0
