"""Fine-tune on a split, evaluate before and after, save the roll (or the best of many) and a report."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from rolltune.commands.common import add_recipe_flags, command_parser, say, split_overrides
from rolltune.commands.reading import add_reading_flags, reading_of
from rolltune.errors import UserError
from rolltune.hosts import joined, launched
from rolltune.jobs.interrupts import GRACE, Interrupts
from rolltune.typed import as_typed

EXAMPLES = """examples:
  ./03-do_learn.py -d set1 -w trained-set1               train on dataset/set1, save checkpoints/trained-set1.npz
  ./03-do_learn.py -d set2 -w trained-set2 -2            go on with the latest roll at a tenth of the rate
  ./03-do_learn.py -d set1 -w best-set1 --rolls 8        eight rolls at once, a leaderboard, the best is kept
  ./03-do_learn.py -d set1 -w folds --folds 5            a score for every picture by a roll that never saw it
  ./03-do_learn.py -d set1 -w trained-set1 --resume      go on after Ctrl-C
  ./03-do_learn.py -d set1 -w big --config recipes/paligemma_ads.py --config.steps=512
  ./03-do_learn.py --again best-set1                     train it again from its card: does the same come out?

Exit status: 0 saved, 2 something to put right, 3 every roll diverged (nothing saved), 4 --again made another roll, 130
interrupted (resumable).
"""

# What a run does with what it leaves on its way: it changes nothing of what is trained.
LONGEST_GRACE = 24 * 60 * 60  # seconds; a timer cannot wait for ever, or for no number
KEPT = ("resume", "overwrite", "state_every", "state_keep")


def parser() -> argparse.ArgumentParser:
    p = command_parser("03-do_learn.py", __doc__, EXAMPLES)
    p.add_argument("-d", "--dataset", help="a set in ./dataset made by 02, a folder, or a JSONL")
    p.add_argument("-w", "--write", metavar="NAME", help="the name to save under, in ./checkpoints")
    p.add_argument(
        "-2", "--second", nargs="?", const="", metavar="ROLL",
        help="go on with a saved roll (the one named like -w, or the latest) at a tenth of the rate",
    )  # fmt: skip
    p.add_argument(
        "--again", metavar="ROLL",
        help="train a saved roll again from its card alone, as ROLL-again or -w, and compare; takes --model, too",
    )  # fmt: skip
    p.add_argument("--rolls", default="1", help='how many to train at once, or "auto" for what fits the memory')
    p.add_argument("--folds", type=int, help="the rolls are the folds of all rows (recipe: fold_by)")
    p.add_argument("--repeat", type=int, default=1, help="so many rounds of folds or rolls, and their seeds' spread")
    p.add_argument("--keep", default="best", help="best, all, vote (the few that vote best), or how many to save")
    p.add_argument("--metric", help="what ranks the rolls: f-measure, ..., log-loss, anls (docs/metrics.md)")
    p.add_argument("--positive", help="the answer that counts as positive")
    p.add_argument("--seed", type=int, help="of the first roll; the next ones count up")
    p.add_argument(
        "--resume", nargs="?", const=True, default=False, type=_resume, metavar="auto",
        help="go on with an interrupted run of the same name; auto: where there is one, else begin",
    )  # fmt: skip
    p.add_argument("--overwrite", action="store_true", help="replace what an earlier run of the same name left")
    p.add_argument("--whole", action="store_true", help="also save the whole model, as big_vision's npz")
    p.add_argument("--wandb", metavar="PROJECT", help="also log to Weights & Biases (offline unless WANDB_MODE=online)")
    kept = p.add_argument_group("how an interrupted run is kept (docs/resuming.md)")
    kept.add_argument(
        "--state-every", default="", metavar="WHEN",
        help="save the state after so many steps, so much time, or both: 200, 10m, 200,10m; without it 30s, and less "
        "often where that is slow",
    )  # fmt: skip
    kept.add_argument("--state-keep", type=int, default=2, metavar="N", help="of these saves, the last so many (2)")
    kept.add_argument(
        "--grace", type=float, default=GRACE, metavar="SECONDS",
        help="from SIGTERM until whoever sent it kills the program (%(default)g)",
    )  # fmt: skip
    add_recipe_flags(p)
    add_reading_flags(p)
    return p


def _resume(text: str) -> str:
    if text != "auto":
        raise argparse.ArgumentTypeError(f"{text!r}: it stands alone, or is auto")
    return text


def main(argv: list[str] | None = None) -> int:
    began = time.perf_counter()
    asked = sys.argv[1:] if argv is None else argv
    args, rest = parser().parse_known_args(asked)
    overrides = split_overrides(rest, parser())
    _check_flags(args, overrides)
    place = launched(os.environ)
    if args.again and place.hosts > 1:
        raise UserError(f"--again trains one roll, and this is one of {place.hosts} hosts: run it on one, by itself")
    if not 0 < args.grace <= LONGEST_GRACE:
        raise UserError(f"--grace {args.grace:g}: expected seconds above 0, up to {LONGEST_GRACE} (a day)")
    with Interrupts(say, args.grace) as interrupts:  # before JAX is imported, in which Ctrl-C may be lost
        from rolltune import recipe as recipes

        given = {name: getattr(args, name) for name in ("model", "metric", "positive", "seed")}
        recipe = recipes.load(args.config, overrides, **given)
        from rolltune.device import set_up_jax

        set_up_jax()
        from rolltune.jobs.learn import Options, learn

        if args.again:
            from rolltune.jobs.again import again
            from rolltune.jobs.outputs import named_roll

            path = named_roll(args.again)
            name = args.write or f"{path.stem}-again"
            command = as_typed(" ".join(["./03-do_learn.py", *asked]))
            options = Options("", name, command=command, **{each: getattr(args, each) for each in KEPT})
            return again(path, options, interrupts, began, args.model)
        own = ("dataset", "second", "rolls", "folds", "repeat", "keep", "whole", *KEPT)
        options = Options(
            name=args.write,
            wandb=args.wandb,
            reading=reading_of(args),
            stated=recipes.stated(args.config, overrides, **given),
            command=as_typed(" ".join(["./03-do_learn.py", *asked])),
            **{name: getattr(args, name) for name in own},
        )
        with joined(place) as hosts:
            return learn(options, recipe, interrupts, began, hosts)


def _check_flags(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Ends the program, as argparse does, where the flags do not belong together."""
    if not args.again and not (args.dataset and args.write):
        parser().error("the following arguments are required: -d/--dataset, -w/--write")
    allowed = {"again": args.again, "write": args.write, "model": args.model}
    allowed |= {name: getattr(args, name) for name in (*KEPT, "grace")}
    plain = vars(parser().parse_args([])) | allowed
    if args.again and (overrides or vars(args) != plain):
        parser().error("--again takes all from the roll's card: beside it stand -w, --model, --overwrite and --resume")
