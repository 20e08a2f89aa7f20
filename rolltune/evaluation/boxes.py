"""How well written boxes lie on the given ones: overlaps, shares and mean average precision, by COCO's own program."""

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from rolltune.data.answers import normalise
from rolltune.data.boxes import LAST, Box, Read, has_boxes, is_boxes, read

FOUND = 0.5  # overlap (IoU) from which a box counts as found, as in PASCAL VOC and big_vision's `boxacc`


class Precision(NamedTuple):
    mean: float  # over overlaps of 0.5 to 0.95 in steps of 0.05, COCO's main figure
    at_half: float  # at an overlap of 0.5 alone


def are_boxes(accepted: Sequence[Sequence[str]]) -> bool:
    """Whether rows ask for boxes: every answer that counts as right is nothing but boxes (or says that there are
    none), and at least one has a box."""
    answers = {text for rights in accepted for text in rights}
    return any(map(has_boxes, answers)) and all(map(is_boxes, answers))


def overlap(answer: str, accepted: Sequence[str]) -> float:
    """How well the boxes of an answer lie on the given ones: the mean IoU of the pairs, 0 for a box without a partner.

    Boxes of the same label are paired one to one so that the sum is largest. What is missing, too much or broken has no
    partner. 1 where there are none and none is written. The best of several accepted answers counts.
    """
    return max(_overlap(read(answer), read(right)) for right in accepted)


def all_found(answer: str, accepted: Sequence[str]) -> bool:
    """Whether every box has a partner of its label with an IoU of at least a half, and there is none too many."""
    return any(_all_found(read(answer), read(right)) for right in accepted)


def _overlap(answer: Read, right: Read) -> float:
    most = max(len(answer.boxes) + answer.broken, len(right.boxes))
    return float(sum(_paired(answer.boxes, right.boxes))) / most if most else 1.0


def _all_found(answer: Read, right: Read) -> bool:
    if answer.broken or len(answer.boxes) != len(right.boxes):
        return False
    found = _paired(answer.boxes, right.boxes, FOUND)
    return len(found) == len(right.boxes) and all(one >= FOUND for one in found)


def _paired(answered: Sequence[Box], right: Sequence[Box], least: float = 0.0) -> list[float]:
    """The IoU of each pair; with `least` as many pairs as can be are at least that good."""
    if not answered or not right:
        return []
    worth = overlaps(answered, right) * _same_label(answered, right)
    first, second = linear_sum_assignment(-(worth + 2 * (worth >= least) if least else worth))
    return [float(worth[pair]) for pair in zip(first, second, strict=True) if worth[pair] > 0]


def overlaps(first: Sequence[Box], second: Sequence[Box]) -> Float[np.ndarray, "n m"]:
    """IoU of each of N with each of M boxes."""
    return np.asarray(mask.iou(_edges(first), _edges(second), [0] * len(second)), np.float64)


def _edges(boxes: Sequence[Box]) -> np.ndarray:
    return np.array([_coco(box) for box in boxes], np.float64)


def _coco(box: Box) -> list[float]:
    """Left, top, width, height in steps: shares of the picture, so that all pictures weigh the same."""
    return [side * LAST for side in (box.left, box.top, box.right - box.left, box.bottom - box.top)]


def _same_label(first: Sequence[Box], second: Sequence[Box]) -> np.ndarray:
    names = [[normalise(box.label) for box in boxes] for boxes in (first, second)]
    return np.array([[a == b for b in names[1]] for a in names[0]])


def average_precision(
    ids: Sequence[str], answers: Sequence[str], accepted: Sequence[Sequence[str]]
) -> Precision | None:
    """COCO's mean average precision over the labels that are given; None where no box is given.

    A written answer has no probability a box: all count the same, in the order of their rows' ids. So precision is that
    of everything written, not of the surest boxes: figures of detectors, which order theirs, are not to be compared.
    Of a row's accepted answers the first counts; at most 100 boxes a row and label; broken ones are none.
    """
    rows = sorted(range(len(ids)), key=lambda row: ids[row])
    given = [(number, box) for number, row in enumerate(rows, 1) for box in read(accepted[row][0]).boxes]
    if not given:
        return None
    labels = {label: n for n, label in enumerate(sorted({normalise(box.label) for _, box in given}), 1)}
    found = [
        (number, box)
        for number, row in enumerate(rows, 1)
        for box in read(answers[row]).boxes
        if normalise(box.label) in labels  # another label has no given box, and so no precision in the mean
    ]
    if not found:
        return Precision(0.0, 0.0)
    truth = _set(len(rows), labels, given)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        judge = COCOeval(truth, _set(len(rows), labels, found, scored=True), "bbox")
        judge.params.areaRng, judge.params.areaRngLbl, judge.params.maxDets = [[0, 1e10]], ["all"], [100]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]  # [overlaps, recalls, labels, 1, 1]; -1 where a label has no box
    return Precision(float(precision.mean()), float(precision[0].mean()))


def _set(images: int, labels: dict[str, int], boxes: Sequence[tuple[int, Box]], scored: bool = False) -> COCO:
    made = COCO()
    made.dataset = {
        "images": [{"id": number} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": label} for label, number in labels.items()],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": labels[normalise(box.label)],
                "bbox": (edges := _coco(box)),
                "area": edges[2] * edges[3],
                "iscrowd": 0,
                **({"score": 1.0} if scored else {}),
            }
            for number, (image, box) in enumerate(boxes, 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        made.createIndex()
    return made
