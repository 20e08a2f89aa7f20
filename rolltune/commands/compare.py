"""Past runs beside each other: their figures, what differs between their recipes, and one page with a picture."""

from pathlib import Path

from rolltune.commands.common import command_parser, say, written_as

EXAMPLES = """examples:
  ./10-compare_runs.py                                   all runs in ./checkpoints, best first; reports/runs.html
  ./10-compare_runs.py --metric precision                by another figure
  ./10-compare_runs.py 'checkpoints/ads-*.npz'           these alone; all rolls that were kept of them
  ./10-compare_runs.py checkpoints older/ --csv runs.csv    for a spreadsheet (--json for programs)

It reads what each roll carries with it, and needs neither model nor data. Runs stand together where the same rows
judged them: those of the test split, where there was one. A figure on pictures that a roll had learned from is starred
and has no rank. Of recipes only what differs is shown, beside the commonest value.

Exit status: 0, 1 where a file could not be read (it is named, the others are compared), 2 something to put right.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("10-compare_runs.py", __doc__, EXAMPLES)
    parser.add_argument(
        "rolls", nargs="*", default=["checkpoints"], metavar="ROLL", help="folders, roll files, patterns, or names"
    )
    parser.add_argument("--metric", help="what ranks them (default: what ranked the rolls of most of the runs)")
    parser.add_argument(
        "--html",
        type=Path,
        default=Path("reports/runs.html"),
        metavar="FILE",
        help="the page (default reports/runs.html)",
    )
    parser.add_argument("--csv", type=Path, help="also write the table here, every value in full")
    parser.add_argument("--json", type=Path, help="also write the table here")
    args = parser.parse_args(argv)
    for flag in ("html", "csv", "json"):
        written_as(getattr(args, flag), f"--{flag}", f".{flag}")
    from rolltune.jobs.compare_runs import Options, compare_runs

    return compare_runs(args.rolls, Options(args.html, args.metric or "", args.csv, args.json), say)
