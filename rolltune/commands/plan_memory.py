"""What a training will need of a card's memory, and what fits it: before anything is loaded, from shapes alone."""

import argparse
import sys
from collections.abc import Sequence

from rolltune.commands.common import add_recipe_flags, command_parser, say, split_overrides
from rolltune.commands.reading import add_reading_flags, reading_of
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./09-plan_memory.py -d set1 --config recipes/paligemma_ads.py                       for the card that is here
  ./09-plan_memory.py -d set1 --config recipes/paligemma_ads.py --card rtx4070 --desktop 0.8GiB
  ./09-plan_memory.py --model path/to/config.json --tokens 512 --answer 64 --picture 672x672 --card rtx4070
  ./09-plan_memory.py --model gemma-2-9b --tokens 1024 --budget 12GiB --try quantize=nf4,int8 --try remat=True,False
  ./09-plan_memory.py -d set1 --config recipes/phi35_docvqa.py --card rtx4090 --cards 4   a base cut over four of them
  ./03-do_learn.py -d set1 -w trained-set1 --config recipes/paligemma_ads.py          checks by itself at its start

No weights are needed (a config.json, or a file's header), and with --card no card. Programs are compiled, which takes
some seconds each.

Exit status: 0 something fits, 1 nothing does, 2 something to put right.
"""


def parser() -> argparse.ArgumentParser:
    p = command_parser("09-plan_memory.py", __doc__, EXAMPLES)
    p.add_argument("-d", "--dataset", help="the data: a set in ./dataset, a folder, or a JSONL; or say instead:")
    p.add_argument("--tokens", metavar="N", help="tokens of text a row has, answer included (default 128)")
    p.add_argument("--answer", metavar="N", help="of these, the answer's (default 16)")
    p.add_argument("--picture", action="append", metavar="WxH", help="a picture of each row, pixels; may be repeated")
    p.add_argument("--rows", metavar="N", help="how many rows there are (default 100)")
    p.add_argument("--card", metavar="NAME", help="plan for this card, which need not be here: rtx4070, h100, ...")
    p.add_argument("--cards", metavar="N", help="so many cards of one machine (default: those here; of --card one)")
    p.add_argument("--budget", metavar="SIZE", help="each card's memory, such as 12GiB (default: what it has)")
    p.add_argument("--desktop", metavar="SIZE", help="of it, what other programs hold, such as 0.8GiB")
    p.add_argument("--rolls", default="1", metavar="N", help="rolls at once (default 1)")
    p.add_argument(
        "--try", dest="tries", action="append", default=[], metavar="NAME=A,B",
        help="compare values of an entry of the recipe, or of rolls, tokens, picture, model.NUMBER (of the model's "
        "own config): may be repeated, all combinations are compiled",
    )  # fmt: skip
    p.add_argument("--exact", action="store_true", help="compile all layers instead of a few and a few more")
    add_recipe_flags(p)
    add_reading_flags(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    args, rest = made.parse_known_args(sys.argv[1:] if argv is None else argv)
    overrides = split_overrides(rest, made)
    from rolltune.gpus import allow_absent_card

    allow_absent_card()
    from rolltune import recipe as recipes

    recipe = recipes.load(args.config, overrides, model=args.model)
    from rolltune.device import set_up_jax

    set_up_jax()
    from rolltune.free_memory import parse_size
    from rolltune.jobs.plan_choices import picture_size, whole_number
    from rolltune.jobs.plan_memory import Options, plan_memory
    from rolltune.training.outline import Stated

    said = [flag for flag in ("tokens", "answer", "picture", "rows") if getattr(args, flag) is not None]
    if args.dataset and said:
        raise UserError(f"--{said[0]} says what --dataset shows by itself: leave one of them away")
    for flag in ("columns", "question", "names"):
        if getattr(args, flag) is not None and not args.dataset:
            raise UserError(f"--{flag} is of data: name it with --dataset, or leave --{flag} away")
    number = lambda flag, default: default if (text := getattr(args, flag)) is None else whole_number(text, f"--{flag}")
    stated = None
    if not args.dataset:
        sizes = tuple(picture_size(text, "--picture") for text in args.picture or ())
        stated = Stated(number("tokens", 128), number("answer", 16), sizes, number("rows", 100))
        if stated.answer >= stated.tokens:
            raise UserError(f"--answer {stated.answer}: expected fewer than the {stated.tokens} of --tokens")
    options = Options(
        dataset=args.dataset,
        stated=stated,
        card=args.card,
        cards=None if args.cards is None else whole_number(args.cards, "--cards"),
        budget=None if args.budget is None else parse_size(args.budget, "--budget"),
        desktop=0 if args.desktop is None else parse_size(args.desktop, "--desktop"),
        rolls=whole_number(args.rolls, "--rolls"),
        tries=read_tries(args.tries),
        exact=args.exact,
        reading=reading_of(args),
    )
    return plan_memory(options, recipe, say)


def read_tries(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """name -> values of "remat=True,False". An empty value is one, too: quantize=,nf4."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name:
            raise UserError(f"--try {text!r}: write NAME=VALUE,VALUE, for example --try remat=True,False")
        found[name.removeprefix("--config.")] = tuple(value.strip() for value in values.split(","))
    return found
