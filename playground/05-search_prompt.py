#!/usr/bin/env python3
"""Try prompts before any training: ./05-search_prompt.py --help shows examples."""

import sys

try:
    from rolltune.__main__ import main
except ModuleNotFoundError:
    sys.exit("error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate")
sys.exit(main(["search-prompt", *sys.argv[1:]]))
