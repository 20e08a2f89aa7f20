#!/usr/bin/env python3
"""Score saved rolls on data sets: ./04-validate.py --help shows examples."""

from start import run

run("validate")
