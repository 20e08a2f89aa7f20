"""What models take: rows, encoded one by one on the host, and batches of them."""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One encoded example on the host, unpadded.

    T counts the whole sequence, image tokens included; M the predicted tokens; X the rows that cross layers see. A row
    holds one or more candidate answers after one shared prompt; each candidate sees the prompt and itself only, so C
    answers are scored in one forward pass (training is the case C = 1).
    """

    tokens: np.ndarray  # int32 [T]; any valid id (0) where slots >= 0: something else stands there
    positions: np.ndarray  # int32 [T]; of rotary embedding; each candidate goes on from the prompt
    blocks: np.ndarray  # int32 [T]; q may see k where blocks[k] <= blocks[q]: equal = both ways, rising = causal
    segments: np.ndarray  # int32 [T]; 0 the prompt, 1.. the candidate; a candidate sees 0 and itself
    slots: np.ndarray  # int32 [T]; -1 the token's own embedding, 0..E-1 learned, E+i row i of the row's pictures
    predict: np.ndarray  # int32 [M]; the place in T whose output predicts targets[m]
    targets: np.ndarray  # int32 [M]
    candidates: np.ndarray  # int32 [M]; 0.. the candidate that targets[m] belongs to
    label: int  # the candidate that is right
    keys: np.ndarray  # int32 [X]; E+i: the rows that cross layers see, picture by picture; [0] where there are no such
    seen: np.ndarray  # int32 [T, 2]; a token sees keys lo <= x < hi; (0, 0) none; an answer's as the prompt's last
    pictures: tuple[Hashable, ...]  # keys of its pictures, in order
    counts: tuple[int, ...]  # feature rows of each: picture j's are numbered after those of 0..j-1
