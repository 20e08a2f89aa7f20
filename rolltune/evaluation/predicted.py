"""What rolls make of rows, a line a row: the answer, how sure it is, who voted how; as a table, JSON Lines or CSV."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from rolltune import atomic, plain_csv, plain_json
from rolltune.data.answers import normalise
from rolltune.data.boxes import PixelBox, has_boxes, in_pixels, read
from rolltune.data.examples import Example
from rolltune.data.images import image_size
from rolltune.errors import UserError, visible
from rolltune.evaluation import boxes
from rolltune.evaluation.figures import Scored
from rolltune.evaluation.metrics import Prediction, Threshold, require_numbers
from rolltune.evaluation.tasks import accepted
from rolltune.evaluation.votes import joint_threshold, mean_of
from rolltune.evaluation.written import Written, is_exact

NEAR = 0.1  # a probability that is no further from where the answer would be another one is near
MOST_COLUMNS = 4  # of answers in a table; of more, the likeliest are named
# How files of answers begin, by their endings.
FORMS = {".jsonl": r'\{"(roll|source)": .*"answer": ', ".csv": "(roll,)?source,id,images,answer,"}


@dataclasses.dataclass(frozen=True)
class Predicted:
    """One row. `probabilities` and `near` are there where answers are chosen, `votes` where there are several rolls."""

    source: str  # the picture's path, or the row's place in its file
    id: str
    images: tuple[str, ...]
    answer: str  # chosen, or written
    probabilities: Mapping[str, float]  # of each allowed answer, in the roll's order; over rolls, their mean
    near: bool | None  # the second likeliest answer is nearly as likely
    votes: Mapping[str, int]  # the rolls that give an answer, by answer
    right: tuple[str, ...]  # the row's own answers, any of which counts; empty where it only asks
    roll: str = ""  # whose answer it is, where a file holds those of several
    threshold: Threshold | None = None  # what decides in the place of the likeliest answer
    boxes: tuple[PixelBox, ...] | None = None  # of an answer that has places, on its one picture as it stands upright
    broken: int = 0  # parts of such an answer that are no box

    @property
    def correct(self) -> bool | None:
        """Whether the answer is one of the row's own; None where it has none."""
        if not self.right:
            return None
        if self.probabilities:
            return self.answer in self.right
        # Two people draw no box alike to the pixel: found is what lies on it by half.
        judge = boxes.all_found if boxes.are_boxes([self.right]) else is_exact
        return judge(self.answer, self.right)


def predicted(
    examples: Sequence[Example], scored: Sequence[Scored], answers: Sequence[str], near: float = NEAR, roll: str = ""
) -> list[Predicted]:
    """A line for each row, of what one roll or several (a Prediction or Written each, rows in the same order) make of
    it. `answers` are the allowed ones, in the order of the scores. Rolls with a threshold vote by it; together, they
    decide by the mean of the thresholds. Raises UserError for scores that are no numbers.
    """
    chosen = [one for one in scored if isinstance(one, Prediction)]
    lines = _chosen(chosen, answers, near) if chosen else _written([one for one in scored if isinstance(one, Written)])
    return [
        Predicted(
            source=example.source,
            id=example.id,
            images=tuple(shown_path(path) for path in example.images),
            answer=answer,
            probabilities=probabilities,
            near=close,
            votes=votes if len(scored) > 1 else {},
            right=accepted(example) if example.answered else (),
            roll=roll,
            threshold=joint_threshold(chosen),
            **_places(answer, example),
        )
        for example, (answer, probabilities, close, votes) in zip(examples, lines, strict=True)
    ]


def _places(answer: str, example: Example) -> dict[str, Any]:
    """The boxes of an answer in the pixels of its picture; with several pictures nobody knows whose they are."""
    if not has_boxes(answer) or len(example.images) != 1:
        return {}
    found = read(answer)
    height, width = image_size(example.images[0], example.frames[0] if example.frames else None)
    return {"boxes": tuple(in_pixels(box, height, width) for box in found.boxes), "broken": found.broken}


Line = tuple[str, dict[str, float], bool | None, dict[str, int]]


def _chosen(scored: Sequence[Prediction], answers: Sequence[str], near: float) -> list[Line]:
    """Of several rolls the mean of the probabilities decides; between equals the answer that stands first, and with
    thresholds their mean."""
    for one in scored:
        require_numbers(one.ids, one.log_probs)
    # A row's own answer that no roll can give has a column behind the allowed ones.
    joint = mean_of(scored)._replace(answers=tuple(answers))
    joint = joint._replace(log_probs=joint.log_probs[:, : len(answers)])
    means = np.exp(joint.log_probs)
    allowed = [one._replace(answers=tuple(answers), log_probs=one.log_probs[:, : len(answers)]) for one in scored]
    votes = np.stack([one.predicted for one in allowed])  # [R, N]
    lines: list[Line] = []
    for row, place, given in zip(means, joint.predicted, votes.T, strict=True):
        second, first = np.sort(row)[-2:]
        distance = (first - second) / 2
        if joint.threshold is not None:
            distance = abs(row[answers.index(joint.threshold.answer)] - joint.threshold.at)
        counts = {answers[place]: int(n) for place, n in sorted(Counter(given.tolist()).items())}
        probabilities = dict(zip(answers, row.tolist(), strict=True))
        lines.append((answers[int(place)], probabilities, bool(distance <= near), counts))
    return lines


def _written(scored: Sequence[Written]) -> list[Line]:
    """Of several rolls the text that most write, outer differences aside; between equals that of the first roll."""
    lines: list[Line] = []
    for texts in zip(*(one.texts or () for one in scored), strict=True):
        first: dict[str, str] = {}
        for text in texts:
            first.setdefault(normalise(text), text)
        votes = Counter(first[normalise(text)] for text in texts)
        lines.append((votes.most_common(1)[0][0], {}, None, dict(votes)))
    return lines


def shown_path(path: Path) -> str:
    """A picture's path as a person would type it here: below this folder without it."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def plain(row: Predicted) -> dict[str, object]:
    """A line as JSON: what does not apply is left out; `right` is null where the row only asks."""
    right: object = None if not row.right else row.right[0] if len(row.right) == 1 else list(row.right)
    told: dict[str, object] = {"roll": row.roll} if row.roll else {}
    told |= {"source": row.source, "id": row.id, "images": list(row.images), "answer": row.answer, "right": right}
    if row.probabilities:
        told |= {"probabilities": dict(row.probabilities), "near": row.near}
    if row.threshold is not None:
        told |= {"threshold": row.threshold._asdict()}
    if row.boxes is not None:
        told |= {"boxes": [box._asdict() for box in row.boxes]} | ({"broken": row.broken} if row.broken else {})
    return told | ({"votes": dict(row.votes)} if row.votes else {})


def write(path: Path, rows: Sequence[Predicted]) -> None:
    """Every line, probabilities in full; the file is written aside and renamed. Its ending says its form."""
    check_ending(path)
    text = _csv(rows) if path.suffix.lower() == ".csv" else "".join(f"{plain_json.dumps(plain(row))}\n" for row in rows)
    atomic.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def check_ending(path: Path) -> None:
    """Raises UserError for a file whose form nobody knows."""
    if path.suffix.lower() not in FORMS:
        raise UserError(f"{path}: answers are written as {' or '.join(FORMS)}; give the file one of these endings")


def check_file(path: Path) -> None:
    """Raises UserError for a file that `write` could not write, or that is no file of answers: before the work."""
    check_ending(path)
    atomic.check_result(path, FORMS[path.suffix.lower()])


def _csv(rows: Sequence[Predicted]) -> str:
    """A column a fact and an answer; several pictures, answers or votes of a row are JSON in their cell."""
    answers = list(dict.fromkeys(answer for row in rows for answer in row.probabilities))
    lines: list[dict[str, object]] = []
    for row in rows:
        told = plain(row)
        if row.threshold is not None:
            told["threshold"] = f"{row.threshold.answer} {row.threshold.at!r}"
        told["images"] = row.images[0] if len(row.images) == 1 else list(row.images)
        lines.append(told | {f"p({answer})": p for answer, p in row.probabilities.items()})
    order = ("roll", "source", "id", "images", "answer", "right", "near", "threshold", "boxes", "broken", "votes")
    columns = [name for name in order if any(name in line for line in lines)]
    return plain_csv.dumps([*columns, *(f"p({answer})" for answer in answers)], lines)


def table(rows: Sequence[Predicted]) -> Table:
    """For a terminal: figures rounded, a mark where the answer is a near thing or not the row's own."""
    answers = list(dict.fromkeys(answer for row in rows for answer in row.probabilities))
    columns = answers if len(answers) <= MOST_COLUMNS else []
    out = Table(box=None, pad_edge=False)
    for name in ("picture", "answer", *columns, ""):
        out.add_column(_text(name), justify="right" if name in columns else "left", overflow="fold")
    for row in rows:
        figures = [f"{row.probabilities.get(answer, 0.0):.4f}" for answer in columns]
        out.add_row(_text(row.source), _text(row.answer), *figures, _text(remarks(row, not columns)))
    return out


def remarks(row: Predicted, likeliest: bool = False) -> str:
    """What else there is to say of a line, in words; `likeliest` names the likeliest answers with probabilities."""
    said = []
    if likeliest and row.probabilities:
        best = sorted(row.probabilities.items(), key=lambda item: -item[1])[:3]
        said.append(", ".join(f"{answer} {p:.4f}" for answer, p in best))
    if row.near:
        said.append("near the threshold")
    if len(row.votes) > 1:
        said.append("votes: " + ", ".join(f"{answer!r} {count}" for answer, count in row.votes.items()))
    if row.correct is False:
        said.append(f"given: {' or '.join(map(repr, row.right[:3]))}")
    if row.broken:
        said.append(f"{row.broken} of its boxes {'is' if row.broken == 1 else 'are'} broken")
    return "; ".join(said)


def _text(text: str) -> Text:
    return Text(visible(text))
