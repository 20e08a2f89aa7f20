"""Fine-tune on a split, evaluate before and after, save the roll (or the best of many) and a report."""

import argparse
import sys
import time
from collections.abc import Sequence

from rolltune.commands.common import add_recipe_flags, command_parser, say, split_overrides
from rolltune.commands.reading import add_reading_flags, reading_of
from rolltune.jobs.interrupts import Interrupts
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
    p.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same name")
    p.add_argument("--overwrite", action="store_true", help="replace what an earlier run of the same name left")
    p.add_argument("--whole", action="store_true", help="also save the whole model, as big_vision's npz")
    p.add_argument("--wandb", metavar="PROJECT", help="also log to Weights & Biases (offline unless WANDB_MODE=online)")
    add_recipe_flags(p)
    add_reading_flags(p)
    return p


def main(argv: list[str] | None = None) -> int:
    began = time.perf_counter()
    asked = sys.argv[1:] if argv is None else argv
    args, rest = parser().parse_known_args(asked)
    overrides = split_overrides(rest, parser())
    _check_flags(args, overrides)
    with Interrupts(say) as interrupts:  # before JAX is imported, in which Ctrl-C may be lost
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
            options = Options("", name, resume=args.resume, overwrite=args.overwrite, command=command)
            return again(path, options, interrupts, began, args.model)
        own = ("dataset", "second", "rolls", "folds", "repeat", "keep", "resume", "overwrite", "whole")
        options = Options(
            name=args.write,
            wandb=args.wandb,
            reading=reading_of(args),
            stated=recipes.stated(args.config, overrides, **given),
            command=as_typed(" ".join(["./03-do_learn.py", *asked])),
            **{name: getattr(args, name) for name in own},
        )
        return learn(options, recipe, interrupts, began)


def _check_flags(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Ends the program, as argparse does, where the flags do not belong together."""
    if not args.again and not (args.dataset and args.write):
        parser().error("the following arguments are required: -d/--dataset, -w/--write")
    allowed = {"again": args.again, "write": args.write, "model": args.model}
    allowed |= {name: getattr(args, name) for name in ("resume", "overwrite")}
    plain = vars(parser().parse_args([])) | allowed
    if args.again and (overrides or vars(args) != plain):
        parser().error("--again takes all from the roll's card: beside it stand -w, --model, --resume and --overwrite")
