"""Score saved rolls on data sets: one block for each roll and set, and a table of all of them at the end."""

import glob
from collections.abc import Sequence
from pathlib import Path

from rolltune.commands.common import command_parser, say
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./04-validate.py -m checkpoints/trained-set1.npz dataset/set1/valid.jsonl
  ./04-validate.py -m './checkpoints/*.npz' dataset/set2/train.jsonl dataset/set2/valid.jsonl
  ./04-validate.py -m checkpoints/docs.npz --generate 32 dataset/docs/valid.jsonl   written answers: exact match, ANLS

The prompt, the answers and the base model are those saved in each roll.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("04-validate.py", __doc__, EXAMPLES)
    parser.add_argument("-m", "--models", nargs="+", required=True, metavar="ROLL", help="roll files, or patterns")
    parser.add_argument("data", nargs="*", type=Path, help="JSONL files, or other sources that 03 takes")
    parser.add_argument("--metric", default="", help="what the table shows (f-measure; log-loss of rolls that write)")
    parser.add_argument("--generate", type=int, metavar="N", help="write answers of up to N tokens instead of scoring")
    parser.add_argument("--model", help="the base model, where it is not where the roll was trained")
    parser.add_argument("--json", type=Path, help="also write the table here")
    args = parser.parse_args(argv)
    # `-m a.npz b.npz data.jsonl`: a shell that expands a pattern leaves nothing else to tell them apart by.
    args.data = [Path(text) for text in args.models if not text.endswith(".npz")] + args.data
    if not args.data:
        parser.error("name at least one data set after the rolls")
    rolls = _found([text for text in args.models if text.endswith(".npz")])
    from rolltune.device import set_up_jax

    set_up_jax()
    from rolltune.jobs.validate import Options, validate

    options = Options(args.data, args.metric, args.generate, args.model, args.json)
    return validate(options, rolls, say)


def _found(patterns: Sequence[str]) -> list[Path]:
    """Every roll that the names and patterns mean, once, in order."""
    paths = []
    for pattern in patterns:
        some = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not some:
            raise UserError(f"-m {pattern!r}: no file has such a name")
        paths += [Path(one) for one in some if not one.endswith(".whole.npz")]
    return list(dict.fromkeys(paths))
