#!/usr/bin/env python3
"""Use a saved roll in other programs: ./08-export.py --help shows examples."""

from start import run

run("export")
