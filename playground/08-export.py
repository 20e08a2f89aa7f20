#!/usr/bin/env python3
"""Use a saved roll in other programs: ./08-export.py --help shows examples."""

import sys

try:
    from rolltune.__main__ import main
except ModuleNotFoundError:
    sys.exit("error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate")
sys.exit(main(["export", *sys.argv[1:]]))
