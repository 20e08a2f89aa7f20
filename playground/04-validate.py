#!/usr/bin/env python3
"""Score saved rolls on data sets: ./04-validate.py --help shows examples."""

import sys

try:
    from rolltune.__main__ import main
except ModuleNotFoundError:
    sys.exit("error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate")
sys.exit(main(["validate", *sys.argv[1:]]))
