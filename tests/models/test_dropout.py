"""What drops out is as good as drawn by coins, whatever lies beside it."""

import jax
import numpy as np

from rolltune.models import dropout


def test_what_drops_out_says_nothing_of_its_neighbours():
    """Of rows, places, entries and keys that follow each other the fates are no more alike than those of coins."""
    keys = [jax.random.key(3), *jax.random.split(jax.random.key(3), 15)]
    fates = np.stack([dropout.kept(key, 0.5, (8, 64, 96)) for key in keys])
    coins = np.where(fates, 1.0, -1.0)
    for axis in range(coins.ndim):
        for far in (1, 2, 4):
            along = np.moveaxis(coins, axis, 0)
            first, second = along[far:], along[:-far]
            assert abs(np.mean(first * second)) < 4 / np.sqrt(first.size)
    for axes in ((1, 2, 3), (3,), (0, 1, 2), (0, 2)):
        sums = coins.sum(axes) / np.sqrt(np.prod([coins.shape[axis] for axis in axes]))
        assert abs(np.mean(sums**2) - 1) < 6 / np.sqrt(sums.size)
    assert abs(dropout.kept(keys[0], 0.05, (8, 64, 96)).mean() - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 8 / 64 / 96)


def test_a_share_near_all_or_nothing_drops_so_much():
    kept = lambda share: dropout.kept(jax.random.key(1), share, (4, 8, 16)).mean()
    assert kept(0.0) == 1 and kept(1e-12) == 1 and kept(1 - 1e-12) == 0
