"""What several commands share: recipes from flags."""

import argparse

EPILOG = argparse.RawDescriptionHelpFormatter


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a recipe, such as recipes/paligemma_ads.py")
    parser.add_argument("--model", help='weights: "tiny" (built in), a .npz, or a Hugging Face folder')


def split_overrides(rest: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The `--config.name=value` arguments; anything else that was not understood is an error."""
    other = [text for text in rest if not text.startswith("--config.")]
    if other:
        parser.error(f"unrecognized arguments: {' '.join(other)}")
    return rest
