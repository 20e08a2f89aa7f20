#!/usr/bin/env python3
"""Answer new pictures with saved rolls: ./07-predict.py --help shows examples."""

import sys

try:
    from rolltune.__main__ import main
except ModuleNotFoundError:
    sys.exit("error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate")
sys.exit(main(["predict", *sys.argv[1:]]))
