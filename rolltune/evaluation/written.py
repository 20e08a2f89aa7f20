"""Written answers: how they are compared with the accepted ones, and the figures of a whole set of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rolltune.data.answers import normalise
from rolltune.data.boxes import read
from rolltune.evaluation import boxes
from rolltune.evaluation.metrics import refuse_unknown, require_numbers, rounded

OF_BOXES = ("iou", "box-accuracy", "map", "map-50")  # where the accepted answers are boxes
NAMES = ("log-loss", "exact-match", "anls", "vqa-accuracy", *OF_BOXES)
RARE = ("vqa-accuracy", *OF_BOXES)  # figures that few data sets have
NO_BOXES = "not every accepted answer is boxes in PaliGemma's <loc0123>, or 'none'"
ANNOTATORS = 10  # people whose answers a row of VQA has
ARTICLES = ("a", "an", "the")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0", **{word: str(n) for n, word in enumerate(NUMBERS)}}


class Written(NamedTuple):
    """N rows that accept one or more answers each."""

    ids: tuple[str, ...]  # N
    accepted: tuple[tuple[str, ...], ...]  # N, of one or more
    log_probs: Float[np.ndarray, "n"]  # of the row's likeliest accepted answer as a whole, in nats
    texts: tuple[str, ...] | None  # N, what was written; None where nothing was

    def at(self, places: Sequence[int] | Int[np.ndarray, "m"]) -> "Written":
        """These rows alone, in this order."""
        places = np.asarray(places, int)
        pick = lambda values: tuple(values[place] for place in places)
        texts = None if self.texts is None else pick(self.texts)
        return Written(pick(self.ids), pick(self.accepted), self.log_probs[places], texts)

    @classmethod
    def join(cls, parts: Sequence["Written"]) -> "Written":
        """The rows of all parts; without texts where a part has none."""
        texts = [part.texts for part in parts]
        return cls(
            tuple(id for part in parts for id in part.ids),
            tuple(accepted for part in parts for accepted in part.accepted),
            np.concatenate([part.log_probs for part in parts]),
            None if None in texts else tuple(text for some in texts for text in some or ()),
        )

    def rows(self, name: str) -> Float[np.ndarray, "n"] | None:
        """Each row's own part in the figure called `name`, which is their mean; None where nothing was written, and for
        what is no mean over rows (mean average precision)."""
        refuse_unknown(name, NAMES)
        if name == "log-loss":
            return -self.log_probs.astype(np.float64)
        if self.texts is None:
            return None
        if name == "vqa-accuracy" and any(len(rights) != ANNOTATORS for rights in self.accepted):
            return None
        judge = _JUDGES.get(name)
        if judge is None or (name in OF_BOXES and not boxes.are_boxes(self.accepted)):
            return None
        return np.array([judge(*row) for row in zip(self.texts, self.accepted, strict=True)], np.float64)


@dataclass(frozen=True)
class WrittenMetrics:
    """Figures of one set of written answers. They are None where they are undefined; `undefined` says why."""

    names: ClassVar[tuple[str, ...]] = NAMES

    n: int
    log_loss: float | None  # mean of -log p(the likeliest accepted answer), in nats
    exact: float | None  # share of rows whose answer equals an accepted one: see `is_exact`
    anls: float | None  # mean of `similarity`
    vqa: float | None  # mean of `agreement`, where every row has ten people's answers
    majority_rate: float | None  # the share of always writing the accepted answer that most rows have
    collapsed: str | None  # the one text that every row got although no answer is accepted by all, or None
    texts: Mapping[str, int]  # how often each text was written; empty where nothing was
    losses: tuple[float, ...]  # of each row, rising
    similarities: tuple[float, ...]  # of each row, rising; empty where nothing was written
    agreements: tuple[float, ...]  # the same, of VQA accuracy
    undefined: Mapping[str, str]
    boxes: "BoxFigures | None" = None  # where the accepted answers are boxes and something was written
    broken: int = 0  # parts of written answers that should be boxes and are none

    @property
    def share(self) -> str:
        """The figure that is a share of rows."""
        return "exact-match" if self.boxes is None else "box-accuracy"

    @property
    def beside(self) -> tuple[str, ...]:
        """What a table shows beside the metric that ranks."""
        return NAMES[:3] if self.boxes is None else ("log-loss", *OF_BOXES[:3])

    @property
    def right(self) -> int | None:
        """Rows whose answer equals an accepted one; of boxes, those in which all were found."""
        share = self.figure(self.share)
        return None if share is None else round(share * self.n)

    def figure(self, name: str) -> float | None:
        """The figure called `name`, one of NAMES."""
        refuse_unknown(name, NAMES)
        if name in OF_BOXES:
            return None if self.boxes is None else self.boxes.figures[name]
        return {"log-loss": self.log_loss, "exact-match": self.exact, "anls": self.anls, "vqa-accuracy": self.vqa}[name]

    def lines(self) -> list[str]:
        """For the printed block."""
        named = [("log-loss", self.log_loss), ("exact match", self.exact), ("ANLS", self.anls)]
        named += [("VQA accuracy", self.vqa)] if self.vqa is not None else []
        if self.boxes is not None:
            of = self.boxes.figures
            named = [named[0], ("mean IoU", of["iou"]), ("box accuracy", of["box-accuracy"])]
            named += [("mAP", of["map"]), ("mAP at 0.5", of["map-50"])]
        return [f"  {name + ':':<12} {rounded(ratio, self.undefined.get(name, ''))}" for name, ratio in named]

    def frequencies(self, most: int = 6) -> str:
        """The commonest texts, in one line; says where every row got the same one."""
        if not self.texts:
            return f"written: nothing ({self.undefined.get('ANLS', '')})"
        ordered = sorted(self.texts.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{_short(text)!r} {count}" for text, count in ordered[:most])
        more = f", and {len(ordered) - most} more texts" if len(ordered) > most else ""
        alarm = f"; every row gets the same text, {_short(self.collapsed)!r}" if self.collapsed is not None else ""
        broken = f"; {self.broken} parts of the answers are no box, and count as wrong" if self.broken else ""
        return f"written: {shown}{more}{alarm}{broken}"

    def facts(self) -> dict[str, object]:
        """What a file of figures holds beside those that have names."""
        told: dict[str, object] = {"majority-rate": self.majority_rate, "different-texts": len(self.texts) or None}
        return told | ({"broken-boxes": self.broken} if self.boxes is not None else {})


class BoxFigures(NamedTuple):
    """Figures of answers that are boxes: see evaluation/boxes.py."""

    figures: Mapping[str, float | None]  # by the names OF_BOXES
    overlaps: tuple[float, ...]  # of each row, rising: their mean is "iou"


def measure_written(written: Written) -> WrittenMetrics:
    """The figures of written answers. Raises UserError where a score is not a number."""
    ids, accepted, log_probs, texts = written
    n = len(ids)
    if len(accepted) != n or np.shape(log_probs) != (n,) or (texts is not None and len(texts) != n):
        count = "no" if texts is None else len(texts)
        raise ValueError(
            f"{n} ids need as many lists of accepted answers, log_probs and texts; they are {len(accepted)}, "
            f"{np.shape(log_probs)} and {count}"
        )
    require_numbers(ids, log_probs)
    if n and np.max(log_probs) > 1e-3:
        raise ValueError(f"the log-probability of {ids[int(np.argmax(log_probs))]} is above 0: {np.max(log_probs):.4g}")
    exact, similar = written.rows("exact-match"), written.rows("anls")
    why = "" if n and texts is not None else "there are no rows" if not n else "nothing was written"
    undefined = {"exact match": why, "ANLS": why} if why else {}
    agreeing = written.rows("vqa-accuracy") if n else None
    if agreeing is None:
        undefined["VQA accuracy"] = why or f"not every row has the answers of {ANNOTATORS} people"
    agreements = np.sort(agreeing) if agreeing is not None else np.zeros(0)
    of_boxes = _measure_boxes(written) if n else None
    if of_boxes is None:
        undefined |= {title: why or NO_BOXES for title in ("mean IoU", "box accuracy", "mAP", "mAP at 0.5")}
    # sorted, so that the same rows in another order give the same bits
    losses = np.sort(-np.asarray(log_probs, np.float64))
    similarities = np.sort(similar) if similar is not None else np.zeros(0)
    return WrittenMetrics(
        n=n,
        log_loss=float(np.mean(losses)) if n else None,
        exact=float(np.mean(exact)) if n and exact is not None else None,
        anls=float(np.mean(similarities)) if n and similar is not None else None,
        vqa=float(np.mean(agreements)) if len(agreements) else None,
        majority_rate=_majority_rate(accepted) if of_boxes is None else _commonest_found(accepted),
        collapsed=_collapsed(texts, accepted),
        texts=Counter(texts or ()),
        losses=tuple(losses.tolist()),
        similarities=tuple(similarities.tolist()),
        agreements=tuple(agreements.tolist()),
        undefined=undefined if n else {"log-loss": why} | undefined,
        boxes=of_boxes,
        broken=sum(read(text).broken for text in texts or ()) if of_boxes is not None else 0,
    )


def _measure_boxes(written: Written) -> BoxFigures | None:
    laid, found = written.rows("iou"), written.rows("box-accuracy")
    if laid is None or found is None or written.texts is None:
        return None
    precision = boxes.average_precision(written.ids, written.texts, written.accepted)
    laid = np.sort(laid)
    figures = {"iou": float(np.mean(laid)), "box-accuracy": float(np.mean(found))}
    figures |= {"map": precision.mean, "map-50": precision.at_half} if precision else {}
    return BoxFigures({name: figures.get(name) for name in OF_BOXES}, tuple(laid.tolist()))


def _commonest_found(accepted: Sequence[Sequence[str]]) -> float:
    """The share of rows in which all boxes are found where always the commonest answer is written."""
    counts = Counter(rights[0] for rights in accepted)
    always = min(counts, key=lambda text: (-counts[text], text))
    return float(np.mean([boxes.all_found(always, rights) for rights in accepted]))


def first_rows(written: Written, names: Mapping[str, str], most: int = 5) -> list[str]:
    """The first rows as printed lines: what was written beside what is accepted. `names`: how to call a row, by id."""
    shown = zip(written.ids[:most], written.texts or (), written.accepted, strict=False)
    return [f"  {names.get(id, id)}: {text!r} (right: {alternatives(right)})" for id, text, right in shown]


def _short(text: str, most: int = 80) -> str:
    """A model that repeats itself fills a page."""
    return text if len(text) <= most else f"{text[:most]}..."


def alternatives(accepted: Sequence[str], most: int = 4) -> str:
    """The accepted answers of a row in words, each once: 'a' or 'b' or 3 more."""
    different = list(dict.fromkeys(accepted))
    more = [f"{len(different) - most} more"] if len(different) > most else []
    return " or ".join([repr(right) for right in different[:most]] + more)


def is_exact(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer is one of the accepted ones; see `answers.normalise` for what does not count."""
    return normalise(answer) in {normalise(right) for right in accepted}


def _majority_rate(accepted: Sequence[Sequence[str]]) -> float | None:
    counts = Counter(form for rights in accepted for form in {normalise(right) for right in rights})
    return max(counts.values()) / len(accepted) if counts else None


def _collapsed(texts: Sequence[str] | None, accepted: Sequence[Sequence[str]]) -> str | None:
    if not texts or len({normalise(text) for text in texts}) > 1:
        return None
    by_all = set.intersection(*({normalise(right) for right in rights} for rights in accepted))
    return None if by_all else texts[0]


def similarity(answer: str, accepted: Sequence[str], threshold: float = 0.5) -> float:
    """1 - edit distance / length of the longer text, for the nearest accepted answer; 0 below the threshold.

    The mean over a data set is ANLS (Biten et al. 2019, "Scene Text Visual Question Answering").
    Case and runs of spaces do not count.
    """
    if not accepted:
        raise ValueError("a row without accepted answers cannot be scored")
    best = max(_similar(_folded(answer), right) for right in {_folded(right) for right in accepted})
    return best if best >= threshold else 0.0


def agreement(answer: str, accepted: Sequence[str]) -> float:
    """How far ten people agree with an answer: the mean over every nine of them of min(1, those who gave it / 3).

    So 0.3, 0.6, 0.9 and 1 for one, two, three, and four or more of the ten. The mean over a data set is VQA accuracy
    (Antol et al. 2015, "VQA: Visual Question Answering"; over every nine as in its evaluation program). Answers are
    compared in the form of `answers.normalise`, and beside that, as there, number words are digits and articles do not
    count. Its lists of punctuation and of contractions without their apostrophe are left out.
    """
    same = [_plain_words(right) == _plain_words(answer) for right in accepted]
    others = [sum(same) - own for own in same]
    return sum(min(1.0, count / 3) for count in others) / len(others)


def _plain_words(text: str) -> str:
    return " ".join(DIGITS.get(word, word) for word in normalise(text).split() if word not in ARTICLES)


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _similar(left: str, right: str) -> float:
    longest = max(len(left), len(right))
    return 1 - edit_distance(left, right) / longest if longest else 1.0


def edit_distance(left: str, right: str) -> int:
    """How many characters must be inserted, deleted or replaced (Levenshtein).

    A whole column of the usual table at once, as the bits of two integers: where it steps up by one from a place to
    the next, and where down (Myers 1999, in the form of Hyyrö 2003). Captions need it: a table of 50 by 50 characters
    for every accepted answer of every row and roll would take longer than the writing.
    """
    if not left:
        return len(right)
    whole, last, distance = (1 << len(left)) - 1, 1 << (len(left) - 1), len(left)
    places: dict[str, int] = {}
    for place, sign in enumerate(left):
        places[sign] = places.get(sign, 0) | 1 << place
    up, down = whole, 0
    for sign in right:
        same = places.get(sign, 0)
        diagonal = (((same & up) + up) ^ up) | same | down
        right_up, right_down = down | ~(diagonal | up), up & diagonal  # steps from this column to the next
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up, down = (right_down | ~(same | down | right_up)) & whole, right_up & (same | down) & whole
    return distance


_JUDGES: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "exact-match": is_exact,
    "anls": similarity,
    "vqa-accuracy": agreement,
    "iou": boxes.overlap,
    "box-accuracy": boxes.all_found,
}  # a row's part in each figure that is a mean over rows
