"""Which rows come when: an epoch's order is a function of the seed and the epoch alone, the same on every platform."""

import collections
from collections.abc import Sequence

import numpy as np

VIEWS = 1 << 63  # streams of random numbers from here on draw views; those below, orders


def order(n: int, epoch: int, seed: int) -> np.ndarray:
    """A permutation of range(n), the same on every platform and NumPy: raw Philox numbers, stably sorted."""
    return _permutation(n, seed, epoch)


def _permutation(n: int, seed: int, stream: int) -> np.ndarray:
    # Generator.permutation may change between versions of NumPy, the raw numbers of a bit generator do not.
    return np.argsort(np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(n), kind="stable")


def drawn_views(count: int, views: int, step: int, seed: int) -> np.ndarray:
    """int64 [count]: which of so many views the step's rows are shown in, all equally likely."""
    key = np.array([seed, VIEWS | step], np.uint64)
    return (np.random.Philox(key=key).random_raw(count) % np.uint64(views)).astype(np.int64)


def balanced_order(labels: Sequence[object], epoch: int, seed: int) -> np.ndarray:
    """Rows of one epoch in which every label has the same share; each label's rows are gone through in turn.

    As many rows as there are labels given. A rare label's rows come several times an epoch, those of
    a common one are spread over several epochs, none left out for good.
    """
    names = sorted(set(labels), key=str)
    members = [np.array([place for place, label in enumerate(labels) if label == name]) for name in names]
    chosen = []
    for number, places in enumerate(members):
        share = len(range(number, len(labels), len(names)))
        for drawn in range(epoch * share, (epoch + 1) * share):
            turn, place = divmod(drawn, len(places))
            if drawn == epoch * share or place == 0:
                shuffled = places[_permutation(len(places), seed, (number + 1) << 32 | turn)]
            chosen.append(shuffled[place])
    return np.array(chosen)[_permutation(len(labels), seed, epoch)]


def class_weights(labels: Sequence[object]) -> np.ndarray:
    """float32 [n]: a weight a row so that every label counts the same in all, 1 on average."""
    counts = collections.Counter(labels)
    return np.array([len(labels) / (len(counts) * counts[label]) for label in labels], np.float32)
