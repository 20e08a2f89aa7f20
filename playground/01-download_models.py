#!/usr/bin/env python3
"""Published weights and tokenizer into the cache folder. Try: ./01-download_models.py --help"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, from any folder

from rolltune.__main__ import main

# Where the recipes look for it: ../cache.
cache = os.environ.get("ROLLTUNE_CACHE") or str(Path(__file__).resolve().parents[1] / "cache")
sys.exit(main(["download", "--cache", cache, *sys.argv[1:]]))
