"""01-download_models.py: published weights and their tokenizer, into the cache folder."""

import argparse
import contextlib
import os
import shlex
from collections.abc import Callable
from pathlib import Path

from rolltune.commands.common import command_parser
from rolltune.errors import UserError
from rolltune.typed import as_typed
from rolltune.weights import catalogue
from rolltune.weights.download import HUBS, Hub, credentials, download, gigabytes

HELP = """\
Downloads weights and tokenizers into the cache folder: $ROLLTUNE_CACHE, or cache/ beside playground/ (for `rolltune
download` in another place: ./cache).

An interrupted download goes on where it stopped; the SHA-256 of each file is recorded beside it and checked again when
the command is repeated. Hugging Face has folders of .safetensors, and for PaliGemma Kaggle has big_vision's .npz files;
rolltune reads both. Of a folder only weights, settings and tokenizer come: no program code, and nothing pickled. Some
licences want to be accepted once, with a free account: --list says which, and the command says how when that is
missing."""

EXAMPLES = """\
examples:
  01-download_models.py                                     paligemma-3b-pt-224 in bfloat16, 5.8 GB
  01-download_models.py --list                              what there is, where, how large, under which licence
  01-download_models.py phi-3.5-vision-instruct             one of the other families; the repository's name does, too
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
        help="auto: where it is and you have credentials, Kaggle first",
    )
    made.add_argument("--dtype", choices=catalogue.DTYPES, help="as published (default: bfloat16, or what there is)")
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
    wanted = [choose(name, args.dtype or "", args.hub) for name in args.models or [catalogue.DEFAULT]]
    if any(source.hub == "kaggle" for source in wanted):  # a Hugging Face folder has its tokenizer in it
        wanted.insert(0, catalogue.TOKENIZER)
    try:
        paths = [download(source, hubs[source.hub](), cache, force=args.force) for source in wanted]
    except KeyboardInterrupt:
        print("\nStopped. What came so far is kept: the same command goes on where it stopped.")
        return 130
    print("Ready:", ", ".join(str(path) for path in paths))
    recipe = f" --config {wanted[-1].recipe}" if wanted[-1].recipe else ""
    learn = as_typed(f"./03-do_learn.py -d set1 -w trained-set1{recipe}")
    print(f"next: {learn} --model {shlex.quote(str(paths[-1]))}")
    return 0


def choose(name: str, dtype: str, hub: str) -> catalogue.Source:
    """The source that is meant; `auto` takes the first hub that has it and for which there are credentials."""
    if hub != "auto":
        return catalogue.find(name, dtype, hub)
    for known in catalogue.HUBS:
        if credentials(known):
            with contextlib.suppress(UserError):
                return catalogue.find(name, dtype, known)
    return catalogue.find(name, dtype)


def listing() -> str:
    """The known models, one under the other, narrow enough for any terminal."""
    lines, last = [], ""
    for source in catalogue.sources():
        if source.name != last:
            lines.append(f"{source.name}  ({source.terms})")
            last = source.name
        lines.append(f"  {source.dtype:<9}{gigabytes(source.size):>8}  {source.hub:<12} {source.target}")
    return "\n".join(lines)
