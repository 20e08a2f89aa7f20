#!/usr/bin/env python3
"""Turn other data into JSON Lines and images: ./06-convert_data.py --help shows examples."""

import sys

try:
    from rolltune.__main__ import main
except ModuleNotFoundError:
    sys.exit("error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate")
sys.exit(main(["convert", *sys.argv[1:]]))
