"""The calibration error by hand, and a temperature that is known beforehand."""

import numpy as np
import pytest

from rolltune.evaluation.calibration import bins, error, fit_temperature, tempered


def rows(*shares):
    """Two answers; each share is the second's probability."""
    return np.log(np.array([[1 - share, share] for share in shares]))


def test_the_error_by_hand():
    # 0.7 and 0.65 (one of two right), 0.95 and 1.0 (both right): |1 - 1.35| + |2 - 1.95| of four rows
    with np.errstate(divide="ignore"):
        log_probs, label = rows(0.7, 0.65, 0.05, 1.0), np.array([1, 0, 0, 1])
    assert [(one.low, one.rows, one.right) for one in bins(log_probs, label)] == [(0.6, 2, 1), (0.9, 2, 2)]
    assert error(log_probs, label) == pytest.approx((0.35 + 0.05) / 4)


def test_a_share_on_the_border_is_in_the_lower_bin_however_it_was_rounded():
    found = bins(rows(0.7, 0.7 + 1e-12, 0.7 - 1e-12), np.array([1, 1, 1]))
    assert [(one.low, one.rows) for one in found] == [(0.6, 3)]


def test_the_temperature_that_made_the_rows_too_sure_is_found():
    # Of ten rows at probability 0.8 eight are right: calibrated. Twice as sure, the best temperature is 2.
    honest, label = rows(*[0.8] * 10), np.array([1] * 8 + [0] * 2)
    found, _ = fit_temperature(tempered(honest, 0.5), label)
    assert found == pytest.approx(2, rel=1e-3)
    np.testing.assert_allclose(tempered(tempered(honest, 0.5), 2), honest, atol=1e-12)
    many = np.log(np.array([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]]))
    assert (np.argsort(tempered(many, 3.0)) == np.argsort(many)).all()


@pytest.mark.parametrize(
    ("log_probs", "label", "why"),
    [
        (rows(0.9, 0.2), [1, 0], "all 2 rows are right"),
        (rows(0.99, 0.99, 0.4), [0, 0, 0], "outside 0.1 to 10"),
        (rows(*[0.505] * 100), [1] * 99 + [0], "outside 0.1 to 10"),
        (np.array([[-np.inf, 0.0]]), [0], "probability 0"),
        (np.zeros((0, 2)), [], "no rows"),
    ],
)
def test_where_there_is_no_best_temperature_it_says_why(log_probs, label, why):
    found, reason = fit_temperature(log_probs, np.array(label, int))
    assert found is None and why in reason
