#!/usr/bin/env python3
"""Past runs beside each other: ./10-compare_runs.py --help shows examples."""

from start import run

run("compare")
