"""Answer new pictures with saved rolls: the answer, how likely each is, and what is a near thing."""

from pathlib import Path

from rolltune.commands.common import command_parser, say, split_overrides
from rolltune.commands.reading import add_reading_flags, reading_of
from rolltune.errors import UserError
from rolltune.jobs.outputs import named_rolls, names_roll

EXAMPLES = """examples:
  ./07-predict.py -m checkpoints/best-set1.npz new.jpg pictures/       a line a picture
  ./07-predict.py -m best-set1 pictures/ --output answers.csv          in full, for a spreadsheet (.jsonl for programs)
  ./07-predict.py -m './checkpoints/best-set1*.npz' rows.jsonl         several rolls vote; rows may lack their answers
  ./07-predict.py -m docs pages/ --question "Who signed it?"           where the roll has no question of its own
  ./07-predict.py -m captions pictures/ --generate 32 --sample 0.7     written answers, drawn, not the likeliest
  ./07-predict.py -m elsewhere/adapter --model ../cache/base --answers yes,no new.jpg    of the PEFT library, or a model
  ./07-predict.py -m best-set1 --serve                                 a page in the browser to drop pictures on

A base that is too large for one card is cut over all of them, as --config.sharding=fsdp says, or the roll's own recipe.
The prompt, the answers and the base model are those saved in the rolls; what was made elsewhere has none, and takes the
question and the answers of the rows, or --question and --answers. Exit status: 0, 1 where a file could not be
answered (it is named, the others are answered), 2 something to put right.
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("07-predict.py", __doc__, EXAMPLES)
    parser.add_argument(
        "-m", "--models", nargs="+", required=True, metavar="ROLL", help="roll files, patterns, or names in checkpoints"
    )
    parser.add_argument("data", nargs="*", help="pictures, folders of them, JSONL or CSV files with or without answers")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write .jsonl or .csv, in full, instead of a table")
    parser.add_argument("--near", type=float, help="how near the threshold is told (default 0.1)")
    parser.add_argument("--generate", type=int, metavar="N", help="write answers of up to N tokens instead of choosing")
    parser.add_argument(
        "--sample", type=float, metavar="TEMPERATURE", help="draw what is written, 1 as likely as it is"
    )
    parser.add_argument("--top-p", type=float, help="draw of the likeliest tokens with this share (1: all)")
    parser.add_argument("--seed", type=int, help="of what is drawn (default 0)")
    parser.add_argument("--model", help="the base model, where it is not where the roll was trained")
    parser.add_argument("--answers", metavar="A,B,...", help="what an adapter or model from elsewhere chooses from")
    parser.add_argument("--serve", action="store_true", help="a page in the browser, on this machine alone")
    parser.add_argument("--host", help="the address of --serve (default 127.0.0.1); 0.0.0.0 is everybody's")
    parser.add_argument("--port", type=int, help="the port of --serve (default 8707)")
    add_reading_flags(parser)
    args, rest = parser.parse_known_args(argv)
    laying = split_overrides(rest, parser)
    # `-m a.npz pictures/`: a list of names ends where something else than a roll begins.
    rolls = [text for text in args.models if names_roll(text) or text == args.models[0]]
    data = [text for text in args.models if text not in rolls] + args.data
    if bool(data) == args.serve:
        parser.error("--serve takes no data: drop it on the page" if data else "name pictures or data after the rolls")
    for flag in ("output", "columns", "question", "names") if args.serve else ("host", "port"):
        if getattr(args, flag) is not None:
            of = "of data, and --serve takes none" if args.serve else "of --serve: add that, or leave it away"
            raise UserError(f"--{flag} is {of}")
    if args.near is not None and not 0 <= args.near <= 0.5:
        raise UserError(f"--near {args.near}: expected a distance of probabilities from 0 to 0.5")
    if args.sample is not None and not 0 < args.sample <= 100:
        raise UserError(f"--sample {args.sample}: expected a temperature above 0, such as 0.7")
    for flag, value in (("--top-p", args.top_p), ("--seed", args.seed)):
        if value is not None and args.sample is None:
            raise UserError(f"{flag} {value} is of what is drawn: add --sample 0.7, or leave it away")
    top_p, seed = 1.0 if args.top_p is None else args.top_p, args.seed or 0
    if not 0 < top_p <= 1:
        raise UserError(f"--top-p {top_p}: expected a share above 0, up to 1")
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: expected a number from 0 to {2**32 - 1}")
    found = named_rolls(rolls)
    from rolltune.device import set_up_jax

    set_up_jax()
    from rolltune.jobs.predict import Options, predict
    from rolltune.models.generate import Sampling

    sampling = None if args.sample is None else Sampling(args.sample, top_p, seed)
    answers = tuple(text.strip() for text in (args.answers or "").split(",") if text.strip())
    options = Options(
        args.output, args.near, args.generate, sampling, args.model, reading_of(args), tuple(laying), answers
    )
    if not args.serve:
        return predict(found, data, options, say)
    try:
        from rolltune.jobs.serve import serve
    except ModuleNotFoundError as missing:
        raise UserError(
            f"--serve needs the package {missing.name!r}: pip install 'rolltune[serve]', or in the repository "
            "pip install -e '.[serve]'"
        ) from missing
    return serve(found, options, args.host or "127.0.0.1", 8707 if args.port is None else args.port, say)
