#!/usr/bin/env python3
"""Fine-tune on a split and save the roll: ./03-do_learn.py --help shows examples."""

import sys

try:
    from rolltune.__main__ import main
except ModuleNotFoundError:
    sys.exit("error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate")
sys.exit(main(["learn", *sys.argv[1:]]))
