"""Try prompts before any training: score each on the data, and write the best into a recipe."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rolltune.commands.common import add_recipe_flags, command_parser, say, split_overrides
from rolltune.commands.reading import add_reading_flags, reading_of
from rolltune.data.files import read_text
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./05-search_prompt.py -d set1 "Is this legal?" "Does this advertisement comply with the law?"
  ./05-search_prompt.py -d set1 --file prompts.txt --write recipes/mine.py
  ./03-do_learn.py -d set1 -w best-set1 --config recipes/mine.py --rolls 8

All rows but those of test are scored; log-loss decides, since it moves before the answers do.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("05-search_prompt.py", __doc__, EXAMPLES)
    parser.add_argument("prompts", nargs="*", help="the prompts; each row's own is always tried too")
    parser.add_argument("-d", "--dataset", required=True, help="a set in ./dataset, a folder, or a JSONL")
    parser.add_argument("--file", type=Path, help="more prompts, one a line")
    parser.add_argument("--metric", default="log-loss", help="what ranks them (default log-loss)")
    parser.add_argument("--write", type=Path, metavar="RECIPE", help="write a recipe with the best prompt")
    add_recipe_flags(parser)
    add_reading_flags(parser)
    args, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    from rolltune import recipe as recipes
    from rolltune.device import set_up_jax

    recipe = recipes.load(args.config, split_overrides(rest, parser), model=args.model)
    if args.write is not None and args.write.exists():
        raise UserError(f"{args.write} is there already: name a new file, or move it away")
    set_up_jax()
    from rolltune.jobs.search_prompt import Options, search

    options = Options(args.dataset, args.metric, args.write, reading_of(args))
    return search(options, recipe, read_prompts(args.prompts, args.file), say)


def read_prompts(given: Sequence[str], file: Path | None) -> list[str]:
    """Each prompt once, in order; the empty one, first, means each row's own."""
    lines = [] if file is None else read_text(file).splitlines()
    prompts = [text.strip() for text in (*given, *lines)]
    return ["", *dict.fromkeys(text for text in prompts if text)]
