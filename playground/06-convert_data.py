#!/usr/bin/env python3
"""Turn other data into JSON Lines and images: ./06-convert_data.py --help shows examples."""

from start import run

run("convert")
