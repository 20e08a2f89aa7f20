"""Open answers: what was written, and what is accepted."""

from typing import NamedTuple

import numpy as np


class Written(NamedTuple):
    """N rows with open answers, scored and, where asked for, written."""

    ids: tuple[str, ...]  # N
    accepted: tuple[tuple[str, ...], ...]
    log_probs: np.ndarray  # float [N]; of the best accepted answer
    texts: tuple[str, ...] | None  # what was generated
