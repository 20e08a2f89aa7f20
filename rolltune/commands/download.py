"""01-download_models.py: published weights and their tokenizer, into the cache folder."""

import argparse
import os
import shlex
from collections.abc import Callable
from pathlib import Path

from rolltune.commands.common import command_parser
from rolltune.typed import as_typed
from rolltune.weights import catalogue
from rolltune.weights.download import HUBS, Hub, credentials, download, gigabytes

HELP = """\
Downloads PaliGemma's weights and tokenizer into the cache folder: $ROLLTUNE_CACHE, or cache/ beside playground/ (for
`rolltune download` in another place: ./cache).

An interrupted download goes on where it stopped; the SHA-256 of each file is recorded beside it and checked again when
the command is repeated. Kaggle has big_vision's .npz files, Hugging Face folders of .safetensors; rolltune reads both.
Both ask you to accept the model's licence once, with a free account: the command says how when that is missing."""

EXAMPLES = """\
examples:
  01-download_models.py                                     the smallest: paligemma-3b-pt-224 in bfloat16, 5.8 GB
  01-download_models.py --list                              what there is, where, how large
  01-download_models.py paligemma2-3b-pt-448                PaliGemma 2 at 448 pixels
  01-download_models.py paligemma-3b-pt-224 --from huggingface --dtype float32
  01-download_models.py paligemma-3b-pt-224 --force         fetch again, whatever is there

then:
  02-shuffle_data.sh -v 10 -n set1
  03-do_learn.py -d set1 -w trained-set1 --config recipes/paligemma_ads.py --model WHERE_IT_LIES
"""


def parser() -> argparse.ArgumentParser:
    made = command_parser("01-download_models.py", HELP, EXAMPLES)
    made.add_argument("models", nargs="*", metavar="MODEL", help=f"names as in --list (default: {catalogue.DEFAULT})")
    made.add_argument(
        "--from",
        dest="hub",
        choices=["auto", *catalogue.HUBS],
        default="auto",
        help="auto: where you have credentials, Kaggle first",
    )
    made.add_argument("--dtype", choices=list(catalogue.BYTES), default="bfloat16", help="as published (bfloat16)")
    made.add_argument("--cache", type=Path, help="the folder to use instead")
    made.add_argument("--force", action="store_true", help="fetch again what is there")
    made.add_argument("--list", action="store_true", help="show the known models and stop")
    return made


def main(argv: list[str] | None = None, hubs: dict[str, Callable[[], Hub]] | None = None) -> int:
    """`hubs` stands in for the network in tests."""
    args = parser().parse_args(argv)
    hubs = hubs or HUBS
    cache = args.cache or Path(os.environ.get("ROLLTUNE_CACHE") or "cache")
    if args.list:
        print(listing())
        print(f"They go to {cache.resolve()}. What you already have can be put there by hand, under the name shown.")
        return 0
    hub = args.hub
    if hub == "auto":
        hub = next((name for name in catalogue.HUBS if credentials(name)), catalogue.HUBS[0])
    wanted = [catalogue.find(name, args.dtype, hub) for name in args.models or [catalogue.DEFAULT]]
    if hub == "kaggle":  # a Hugging Face folder has its tokenizer in it
        wanted.insert(0, catalogue.TOKENIZER)
    try:
        paths = [download(source, hubs[source.hub](), cache, force=args.force) for source in wanted]
    except KeyboardInterrupt:
        print("\nStopped. What came so far is kept: the same command goes on where it stopped.")
        return 130
    print("Ready:", ", ".join(str(path) for path in paths))
    weights = shlex.quote(str(paths[-1]))
    learn = as_typed("./03-do_learn.py -d set1 -w trained-set1 --config recipes/paligemma_ads.py")
    print(f"next: {learn} --model {weights}")
    return 0


def listing() -> str:
    """The known models, one under the other, narrow enough for any terminal."""
    lines, last = [], ""
    for source in catalogue.sources():
        if source.name != last:
            lines.append(source.name)
            last = source.name
        lines.append(f"  {source.dtype:<9}{gigabytes(source.size):>8}  {source.hub:<12} {source.target}")
    return "\n".join(lines)
