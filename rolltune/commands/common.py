"""What several commands share: recipes from flags, and how they speak."""

import argparse
from pathlib import Path

from rolltune.errors import UserError, visible
from rolltune.output import outlived
from rolltune.typed import as_typed

EPILOG = argparse.RawDescriptionHelpFormatter


def command_parser(script: str, description: str, examples: str) -> argparse.ArgumentParser:
    """The parser of the command that `script` of playground/ runs; its help names it as it can be typed here."""
    return argparse.ArgumentParser(
        prog=as_typed(script), description=as_typed(description), epilog=as_typed(examples), formatter_class=EPILOG
    )


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a recipe, such as recipes/paligemma_ads.py")
    parser.add_argument("--model", help='weights: "tiny" (built in), a .npz, or a Hugging Face folder')


def written_as(path: Path | None, flag: str, ending: str) -> Path | None:
    """`path`; UserError where it does not end as what is written there does: it may be a roll, or the data itself."""
    if path is not None and path.suffix.lower() != ending:
        raise UserError(f"{flag} {path}: expected a name that ends in {ending}, such as {path.stem or 'runs'}{ending}")
    return path


def say(text: str) -> None:
    """A line on standard output, as it can be typed and shown here. A reader who has gone does not end the work."""
    with outlived():
        print(visible(as_typed(text)), flush=True)


def split_overrides(rest: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The `--config.name=value` arguments; anything else that was not understood is an error."""
    other = [text for text in rest if not text.startswith("--config.")]
    if other:
        parser.error(f"unrecognized arguments: {' '.join(other)}")
    return rest
