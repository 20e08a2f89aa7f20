#!/usr/bin/env python3
"""Look through a data set before training: ./00-doctor.py --help shows examples."""

from start import run

run("doctor")
