"""What the host hands to the device: a row, a batch of rows, and the table that their slots point into.

The ground floor: everything above names these, they name nothing. An axis of length 0 says "none".
"""

from collections.abc import Hashable
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

Array = TypeVar("Array")  # NumPy's on the host, JAX's on the device


class Row(NamedTuple):
    """One encoded example, unpadded.

    T counts the whole sequence, places of images included; M the predicted tokens. A row holds one or
    more candidate answers after one shared prompt; each candidate sees the prompt and itself only,
    so C answers are scored in one forward pass (training is the case C = 1).
    """

    tokens: np.ndarray  # int32 [T]; any valid id where a slot stands
    positions: np.ndarray  # int32 [T]; of rotary embedding; each candidate goes on from the prompt
    blocks: np.ndarray  # int32 [T]; q may see k where blocks[k] <= blocks[q]: equal = both ways, rising = causal
    segments: np.ndarray  # int32 [T]; 0 the prompt, 1.. the candidate; a candidate sees 0 and itself
    slots: np.ndarray  # int32 [T]; -1 the token's own embedding | 0..E-1 a learned vector | E+i row i of the pictures
    predict: np.ndarray  # int32 [M]; the place in T whose output predicts targets[m]
    targets: np.ndarray  # int32 [M]
    candidates: np.ndarray  # int32 [M]; 0.. the candidate that targets[m] belongs to
    label: int  # the candidate that is right
    keys: np.ndarray  # int32 [X]; E+i, the rows that cross-attention sees, picture by picture
    seen: np.ndarray  # int32 [T, 2]; a token sees the keys lo <= x < hi; (0, 0): none
    pictures: tuple[Hashable, ...]  # in the order in which their rows are numbered, one after the other
    counts: tuple[int, ...]  # rows of each picture


class Batch(NamedTuple, Generic[Array]):
    """B rows padded to a shape out of a small set. There may be leading axes (rolls, accumulation)."""

    tokens: Array  # int32 [B, T]
    positions: Array  # int32 [B, T]
    blocks: Array  # int32 [B, T]
    segments: Array  # int32 [B, T]; -1 is padding, seen by nobody
    slots: Array  # int32 [B, T]; -1 | 0..E-1 | E+i: row i of the source; with tiles, of the row's own tiles
    predict: Array  # int32 [B, M]
    targets: Array  # int32 [B, M]
    candidates: Array  # int32 [B, M]
    weights: Array  # float32 [B, M]; 0 is padding
    label: Array  # int32 [B]
    valid: Array  # bool [B]; False for rows that fill up the last batch
    keys: Array  # int32 [B, X]; as slots, -1 is padding
    seen: Array  # int32 [B, T, 2]
    tiles: Array  # uint8 or float32 [B, N, h, w, 3]: where the tower runs in the step; else N = 0
    aspect: Array  # int32 [B, I]


class Source(NamedTuple):
    """The rows that slots and keys point into: a whole table, or this step's own. The same for all rolls of a step."""

    rows: Any  # [S, C]; before the projector or after it, states of lower layers among them


NOTHING = Source(np.zeros((0, 1), np.float32))  # of a batch without pictures, or with its own tiles
