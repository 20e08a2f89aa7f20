"""Sixteen draws in eight slots: at a quarter and a half of the steps the worse half stops and its slots draw again.

./03-do_learn.py -d set1 -w best-set1 --config recipes/halving.py --rolls 8
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.rungs = (0.25, 0.5)
    config.keep_share = 0.5
    config.draws = 16
    config.rate_range = (5e-5, 2e-3)
    return config
