#!/usr/bin/env python3
"""Published weights and tokenizer into the cache folder. Try: ./01-download_models.py --help"""

import os
from pathlib import Path

from start import run

# Where the recipes look for it: ../cache.
run("download", "--cache", os.environ.get("ROLLTUNE_CACHE") or str(Path(__file__).resolve().parents[1] / "cache"))
