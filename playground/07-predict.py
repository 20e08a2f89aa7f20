#!/usr/bin/env python3
"""Answer new pictures with saved rolls: ./07-predict.py --help shows examples."""

from start import run

run("predict")
