"""Rows to fixed-shape batches: plain tuples of NumPy arrays, which JAX takes as pytrees."""

from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One encoded example, unpadded: what a model family's `encode` returns.

    T counts the whole sequence, image tokens included; M the predicted tokens. A row holds one or
    more candidate answers after one shared prompt; each candidate sees the prompt and itself only,
    so C answers are scored in one forward pass (training is the case C = 1).
    """

    tokens: np.ndarray  # int32 [T]; at image tokens any id, the image features take their place
    positions: np.ndarray  # int32 [T]; of rotary embedding; each candidate goes on from the prompt
    blocks: np.ndarray  # int32 [T]; q may see k where blocks[k] <= blocks[q]: equal = both ways, rising = causal
    segments: np.ndarray  # int32 [T]; 0 the prompt, 1.. the candidate; a candidate sees 0 and itself
    predict: np.ndarray  # int32 [M]; the place in T whose output predicts targets[m]
    targets: np.ndarray  # int32 [M]
    candidates: np.ndarray  # int32 [M]; 0.. the candidate that targets[m] belongs to
    label: int  # the candidate that is right
    pixels: np.ndarray  # uint8 or float32 in 0..255, [I, H, W, 3]; I = 0 without images


class Batch(NamedTuple):
    """B rows padded to shapes out of a few buckets. Leaves may carry more leading axes (rolls, accumulation)."""

    tokens: np.ndarray  # int32 [B, T]
    positions: np.ndarray  # int32 [B, T]
    blocks: np.ndarray  # int32 [B, T]
    segments: np.ndarray  # int32 [B, T]; -1 is padding, seen by nobody
    predict: np.ndarray  # int32 [B, M]
    targets: np.ndarray  # int32 [B, M]
    candidates: np.ndarray  # int32 [B, M]
    weights: np.ndarray  # float32 [B, M]; 0 is padding
    label: np.ndarray  # int32 [B]
    valid: np.ndarray  # bool [B]; False for rows that fill up the last batch
    images: np.ndarray  # pixels [B, I, H, W, 3], or int32 [B, I]: rows of a feature table cached on the device
