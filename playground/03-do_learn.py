#!/usr/bin/env python3
"""Fine-tune on a split and save the roll: ./03-do_learn.py --help shows examples."""

from start import run

run("learn")
