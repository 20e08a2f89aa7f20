"""Make a saved roll ready for other programs: an adapter for PEFT, or a whole model for transformers or big_vision."""

from pathlib import Path

from rolltune.commands.common import command_parser, say, split_overrides
from rolltune.jobs.outputs import named_roll

EXAMPLES = """examples:
  ./08-export.py -m best-set1                              exports/best-set1-peft: an adapter that `peft` loads
  ./08-export.py -m best-set1 --to hf                      the merged model, as transformers loads it
  ./08-export.py -m best-set1 --to npz                     the same for big_vision
  ./08-export.py -m qlora --to hf --dequantize             of a base in four or eight bits
  ./08-export.py -m best-set1 --upload somebody/ads        also to the Hugging Face hub, private (log in before)
  ./08-export.py -m best-set1 --upload somebody/ads --hub kaggle --licence "Apache 2.0"   to Kaggle, private

What is written is read again and compared, and comes with a README.md that has the roll's data, settings and figures.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("08-export.py", __doc__, EXAMPLES)
    parser.add_argument("-m", "--roll", required=True, metavar="ROLL", help="a roll file, or a name in checkpoints")
    parser.add_argument("--to", choices=("peft", "hf", "npz"), default="peft", help="the form (default peft)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="a new folder (default exports/NAME-FORM)")
    parser.add_argument("--model", help="the base model, where it is not where the roll was trained")
    parser.add_argument("--base-name", default="", metavar="ID", help="what the base is called on the hub (owner/name)")
    parser.add_argument(
        "--dequantize", action="store_true", help="merge into the weights that four or eight bits stand for"
    )
    parser.add_argument("--upload", default="", metavar="OWNER/NAME", help="also put it on the Hugging Face hub")
    parser.add_argument("--hub", choices=("huggingface", "kaggle"), help="--upload: where to (default huggingface)")
    parser.add_argument("--licence", default="", metavar="NAME", help="--hub kaggle: the licence, as Kaggle calls it")
    parser.add_argument("--public", action="store_true", help="--upload: for everybody to see, not private")
    args, rest = parser.parse_known_args(argv)
    laying = split_overrides(rest, parser)
    if args.public and not args.upload:
        parser.error("--public says who sees what --upload puts on the hub")
    if args.hub and not args.upload:
        parser.error("--hub says where --upload puts it")
    if args.licence and args.hub != "kaggle":
        parser.error("--licence is of what goes to Kaggle (--hub kaggle); elsewhere README.md has it")
    roll = named_roll(args.roll)
    output = args.output or Path("exports") / f"{roll.stem}-{args.to}"
    from rolltune.device import set_up_jax

    set_up_jax()
    from rolltune.jobs.export import Options, export

    sent = {"upload": args.upload, "public": args.public, "hub": args.hub or "huggingface", "licence": args.licence}
    options = Options(args.to, output, args.model, args.base_name, args.dequantize, laying, **sent)
    return export(roll, options, say)
