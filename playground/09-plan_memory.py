#!/usr/bin/env python3
"""What a training will need of a card: ./09-plan_memory.py --help shows examples."""

import sys

try:
    from rolltune.__main__ import main
except ModuleNotFoundError:
    sys.exit("error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate")
sys.exit(main(["plan-memory", *sys.argv[1:]]))
