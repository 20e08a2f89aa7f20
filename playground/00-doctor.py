#!/usr/bin/env python3
"""Look through a data set before training: ./00-doctor.py --help shows examples."""

import sys

try:
    from rolltune.__main__ import main
except ModuleNotFoundError:
    sys.exit("error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate")
sys.exit(main(["doctor", *sys.argv[1:]]))
