"""Whether a probability means what it says: the expected calibration error, its bins, and a temperature for it."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 10  # of equal width over 0..1: ten to twenty are usual, and few rows fill no more
BOUNDS = (0.1, 10.0)  # of a temperature: beyond, a handful of rows speaks


class Bin(NamedTuple):
    """Rows whose likeliest answer has a probability of low < p <= high."""

    low: float
    high: float
    rows: int
    right: int  # rows whose likeliest answer is the right one
    confidence: float  # the mean probability of the likeliest answer


def bins(log_probs: Float[np.ndarray, "n c"], label: Int[np.ndarray, "n"]) -> list[Bin]:
    """The bins that have rows, the lowest first. What a threshold decides does not matter here: it is the
    probabilities that are judged."""
    sure = np.exp(np.max(log_probs, axis=1).astype(np.float64))
    right = np.argmax(log_probs, axis=1) == label
    # Rounding must not carry 0.7, seven tenths, into another bin than its like, nor 1 beyond the last.
    place = np.clip(np.ceil(np.round(sure * BINS, 9)).astype(int) - 1, 0, BINS - 1)
    return [
        Bin(one / BINS, (one + 1) / BINS, int(own.sum()), int(right[own].sum()), float(np.sort(sure[own]).mean()))
        for one in range(BINS)
        if (own := place == one).any()
    ]


def error(log_probs: Float[np.ndarray, "n c"], label: Int[np.ndarray, "n"]) -> float:
    """The expected calibration error: the mean over rows of |share right - mean confidence| of the row's bin.

    Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", equation 3, with `BINS` bins of
    equal width of the likeliest answer's probability. On few rows it is above 0 for a calibrated model, too.
    """
    return sum(abs(one.right - one.rows * one.confidence) for one in bins(log_probs, label)) / len(label)


def tempered(log_probs: Float[np.ndarray, "n c"], temperature: float) -> Float[np.ndarray, "n c"]:
    """softmax(log p / T), as logs: which of two answers is the likelier stays as it is."""
    return log_softmax(np.asarray(log_probs, np.float64) / temperature, axis=1)


def fit_temperature(log_probs: Float[np.ndarray, "n c"], label: Int[np.ndarray, "n"]) -> tuple[float | None, str]:
    """(the temperature with the lowest log-loss on these rows, or None where there is none; then why, in words).

    Guo et al. 2017, section 4.2. The log-loss is convex in 1/T, so there is one; it is looked for within `BOUNDS`.
    """
    rows = np.arange(len(label))
    if not len(label):
        return None, "there are no rows"
    if (np.argmax(log_probs, axis=1) == label).all():
        return None, f"all {len(label)} rows are right, and the lower the temperature the lower their log-loss"
    if not np.isfinite(log_probs[rows, label]).all():
        return None, "a row's right answer has the probability 0 at any temperature"
    loss = lambda inverse: -float(np.mean(tempered(log_probs, 1 / inverse)[rows, label]))
    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    found = 1 / float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)
    if not math.log(BOUNDS[0]) + 1e-3 < math.log(found) < math.log(BOUNDS[1]) - 1e-3:
        return None, f"the best one lies outside {BOUNDS[0]:g} to {BOUNDS[1]:g}, for which {len(label)} rows are few"
    return found, ""
