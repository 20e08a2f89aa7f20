"""Score saved rolls on data sets: one block for each roll and set, and a table of all of them at the end."""

from pathlib import Path

from rolltune.commands.common import command_parser, say, split_overrides, written_as
from rolltune.commands.reading import add_reading_flags, reading_of
from rolltune.jobs.outputs import named_rolls, names_roll

EXAMPLES = """examples:
  ./04-validate.py -m checkpoints/trained-set1.npz dataset/set1/valid.jsonl
  ./04-validate.py -m './checkpoints/*.npz' dataset/set2/train.jsonl dataset/set2/valid.jsonl
  ./04-validate.py -m 'checkpoints/best-set1*.npz' dataset/set2/valid.jsonl --vote    do they do better together?
  ./04-validate.py -m checkpoints/docs.npz --generate 32 dataset/docs/valid.jsonl   written answers: exact match, ANLS
  ./04-validate.py -m elsewhere/adapter --model ../cache/base dataset/set2/valid.jsonl   a folder of the PEFT library
  ./04-validate.py -m elsewhere/model dataset/set2/valid.jsonl      a model that was fine-tuned whole: a folder, a npz

A base that is too large for one card is cut over all of them, as --config.sharding=fsdp says, or the roll's own recipe.
The prompt, the answers and the base model are those saved in each roll; what was made elsewhere has none, and takes the
questions and answers of the data.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("04-validate.py", __doc__, EXAMPLES)
    parser.add_argument(
        "-m", "--models", nargs="+", required=True, metavar="ROLL", help="roll files, patterns, or names in checkpoints"
    )
    parser.add_argument("data", nargs="*", help="JSONL files, names of sets, or other sources that 03 takes")
    parser.add_argument("--vote", action="store_true", help="the rolls together, too: the mean of their probabilities")
    parser.add_argument("--metric", help="what the table shows (default f-measure; log-loss of written answers)")
    parser.add_argument("--generate", type=int, metavar="N", help="write answers of up to N tokens instead of scoring")
    parser.add_argument("--model", help="the base model, where it is not where the roll was trained")
    parser.add_argument("--json", type=Path, help="also write the table here")
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="also write every row's answer, .jsonl or .csv, as 07 does"
    )
    add_reading_flags(parser)
    args, rest = parser.parse_known_args(argv)
    laying = split_overrides(rest, parser)
    written_as(args.json, "--json", ".json")
    # `-m a.npz b.npz data.jsonl`: a shell that expands a pattern leaves nothing else to tell them apart by.
    rolls = [text for text in args.models if names_roll(text) or text == args.models[0]]
    named = [text for text in args.models if text not in rolls] + args.data
    if not named and len(args.models) > 1 and not args.models[-1].endswith(".npz"):  # a set and a roll of one name
        *rolls, last = args.models
        named = [last]
    if not named:
        parser.error("name at least one data set after the rolls")
    found = named_rolls(rolls)
    from rolltune.data.sets import find_dataset
    from rolltune.device import set_up_jax

    data = [file for text in named for file in ([Path(text)] if Path(text).is_file() else find_dataset(text).values())]
    set_up_jax()
    from rolltune.jobs.validate import Options, validate

    own = {name: getattr(args, name) for name in ("generate", "model", "json", "predictions", "vote")}
    return validate(Options(data, metric=args.metric or "", reading=reading_of(args), laying=laying, **own), found, say)
