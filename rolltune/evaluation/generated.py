"""Scores of generated answers where several answers are accepted, as in DocVQA."""

from collections.abc import Sequence
from typing import NamedTuple


class GeneratedMetrics(NamedTuple):
    n: int
    exact: float | None  # share of rows whose answer equals an accepted one, case and spacing aside
    anls: float | None  # mean of `similarity`


def measure_generated(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> GeneratedMetrics:
    """Compares each generated answer with the accepted ones of its row; None for both figures without rows."""
    if len(answers) != len(accepted):
        raise ValueError(f"{len(answers)} generated answers, but {len(accepted)} lists of accepted ones")
    if not answers:
        return GeneratedMetrics(0, None, None)
    rows = list(zip(answers, accepted, strict=True))
    exact = sum(is_exact(answer, right) for answer, right in rows)
    return GeneratedMetrics(len(rows), exact / len(rows), sum(similarity(*row) for row in rows) / len(rows))


def is_exact(answer: str, accepted: Sequence[str]) -> bool:
    return _folded(answer) in {_folded(right) for right in accepted}


def similarity(answer: str, accepted: Sequence[str], threshold: float = 0.5) -> float:
    """1 - edit distance / length of the longer text, for the nearest accepted answer; 0 below the threshold.

    The mean over a data set is ANLS (Biten et al. 2019, "Scene Text Visual Question Answering").
    Case and runs of spaces do not count.
    """
    if not accepted:
        raise ValueError("a row without accepted answers cannot be scored")
    best = max(_similar(_folded(answer), _folded(right)) for right in accepted)
    return best if best >= threshold else 0.0


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _similar(left: str, right: str) -> float:
    longest = max(len(left), len(right))
    return 1 - edit_distance(left, right) / longest if longest else 1.0


def edit_distance(left: str, right: str) -> int:
    """How many characters must be inserted, deleted or replaced (Levenshtein)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
