"""rolltune: fine-tune vision-language models on your own labelled images, many rolls at once."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rolltune")
except PackageNotFoundError:  # run from a checkout that nobody installed
    __version__ = "0 (not installed)"
