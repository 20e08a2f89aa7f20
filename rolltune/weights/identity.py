"""What makes a base model the one a roll was trained on: a digest of all its weights.

The digest is SHA-256 over every element of every tensor of ours, brought to bfloat16 first, with paths and shapes.

* Over our tree, not over a file: the npz and the Hugging Face form of the same weights agree, and so do a float32 file
  and its published bfloat16 rounding (training holds the base in bfloat16, so they are the same base; a float16 file
  was rounded twice and counts as another one).
* Over every element, not a sample: a sample would notice another model, but not one edited row of the embedding.
  A change that no bfloat16 weight feels is not noticed, and changes nothing in a run on a bfloat16 base.
* Rows of the embedding past the tokenizer's vocabulary are left out (`limits`), since the Hugging Face files pad it.

Cost: the pass is made while the weights are loaded, in threads beside the reading; SHA-256 runs at 1 to 2 GB/s a core.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from rolltune.weights.names import DTYPES, flatten

BLOCK = 1 << 24  # elements digested at a time; a part of the definition, so don't change it


class TreeDigest:
    """`add` each tensor as it is loaded, then `hexdigest`. The arrays may be let go of after `add` has returned only if
    nothing writes into them: they are read in the background."""

    def __init__(self, limits: Mapping[str, int] | None = None):
        self.limits = dict(limits or {})
        self.pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self.parts: dict[str, tuple[tuple[int, ...], list[Future]]] = {}
        self.exact_parts: dict[str, list[Future]] = {}

    def add(self, path: str, array: Any) -> None:
        array = np.asarray(array)[: self.limits.get(path)] if path in self.limits else np.asarray(array)
        flat = np.ascontiguousarray(array).reshape(-1)
        for _, earlier in list(self.parts.values())[-1:]:  # those who read faster than is digested hold two tensors
            for part in earlier:
                part.result()
        parts = [self.pool.submit(_digest, flat[at : at + BLOCK]) for at in range(0, max(flat.size, 1), BLOCK)]
        self.parts[path] = (array.shape, parts)
        if flat.dtype == np.float32:
            self.exact_parts[path] = [
                self.pool.submit(_digest_exactly, flat[at : at + BLOCK]) for at in range(0, flat.size, BLOCK)
            ]

    def hexdigest(self) -> str:
        total = hashlib.sha256(b"rolltune base 1")
        for path, (shape, parts) in sorted(self.parts.items()):
            total.update(f"{path} {list(shape)} {math.prod(shape)}\n".encode())
            for part in parts:
                total.update(part.result())
        return total.hexdigest()

    def exact(self) -> str:
        """A digest of what was added as float32, in full; empty where nothing was."""
        total = hashlib.sha256()
        for path, parts in sorted(self.exact_parts.items()):
            total.update(path.encode() + b"".join(part.result() for part in parts))
        return total.hexdigest() if self.exact_parts else ""


def _digest(flat: np.ndarray) -> bytes:
    rounded = flat.astype(DTYPES["bfloat16"], copy=False)
    return hashlib.sha256(rounded.view(np.uint16).astype("<u2", copy=False)).digest()


def _digest_exactly(flat: np.ndarray) -> bytes:
    return hashlib.sha256(flat).digest()


def base_hash(tree: Mapping | Iterable[tuple[str, Any]], limits: Mapping[str, int] | None = None) -> str:
    """The digest of a tree, or of the pairs that `names.stream` yields."""
    digest = TreeDigest(limits)
    for path, array in flatten(tree).items() if isinstance(tree, Mapping) else tree:
        digest.add(path, array)
    return digest.hexdigest()
