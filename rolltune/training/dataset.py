"""The rows of a data set: read and checked, split by split, with the task that they are for."""

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rolltune.data.answers import spelling_findings
from rolltune.data.examples import Example
from rolltune.data.images import apply_frame_policy
from rolltune.data.learned import Marks, exactly, learned, marks_of
from rolltune.data.sources import read_examples
from rolltune.errors import UserError
from rolltune.evaluation import metrics as measuring
from rolltune.evaluation import tasks
from rolltune.evaluation.metrics import Positive
from rolltune.evaluation.tasks import WRITE, Task
from rolltune.training.rolls import Draw


@dataclasses.dataclass(frozen=True)
class Data:
    """The splits of a data set, in order, as one list; `spans` says which rows are which split's."""

    examples: list[Example]
    spans: dict[str, range]
    files: dict[str, Path]
    task: Task
    positive: Positive
    marks: list[Marks]  # what each row shows, to know it again

    def of(self, split: str) -> list[Example]:
        return [self.examples[place] for place in self.spans[split]]

    def id_in_file(self, place: int) -> str:
        """A row's id as its file has it, without the split's name."""
        return self.examples[place].id.partition("/")[2]

    def digest(self, split: str) -> str:
        """All that the rows of a split show and say, as a short text: a run that goes on must have the same."""
        total = hashlib.sha256()
        for place in self.spans[split]:
            one = self.examples[place]
            shows = sorted(map(exactly, self.marks[place]))
            total.update(repr((one.id, one.turns, one.accepted, shows)).encode(errors="replace"))
        return f"{len(self.spans[split])} rows, {total.hexdigest()[:12]}"

    def known(self, places: Sequence[int], learned_from: Collection[str]) -> int:
        """How many of these rows were learned from."""
        return sum(learned([self.marks[place] for place in places], learned_from))

    @property
    def seen(self) -> list[int]:
        """The rows that may choose a roll: all but the test split's."""
        return [place for split, span in self.spans.items() if split != "test" for place in span]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is stated about the answers: their kind, those that are allowed, the positive one."""

    task: str
    answers: tuple[str, ...] = ()
    positive: str = ""
    frames: str = "middle"  # of animated images


@dataclasses.dataclass(frozen=True)
class Splits:
    """The rows of each split of a data set, read and checked: "train", and "valid" and "test" where it has them."""

    files: Mapping[str, Path]
    examples: Mapping[str, list[Example]]
    reading: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # how they were read: keywords of `read_examples`


def read_splits(
    files: Mapping[str, Path], say: Callable[[str], None], reading: Mapping[str, Any] = MappingProxyType({})
) -> Splits:
    """Reads and checks every file before anything is loaded. All problems of a file come in one UserError.

    `reading` are keywords of `read_examples`: columns, question, names.
    """
    return Splits(files, {split: read_examples(path, say=say, **reading) for split, path in files.items()}, reading)


def read_data(
    files: Mapping[str, Path],
    wanted: Wanted,
    say: Callable[[str], None],
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> Data:
    """The files' rows, read and checked as `read_splits` does, with their task."""
    return data_of(read_splits(files, say, reading), wanted, say)


def data_of(splits: Splits, wanted: Wanted, say: Callable[[str], None]) -> Data:
    """The rows as one list, frames chosen, the task decided. Raises UserError as `tasks.decide` does."""
    examples: list[Example] = []
    spans = {}
    for split, read in splits.examples.items():
        some = apply_frame_policy(read, wanted.frames)
        # An id is unique in its file; two splits may each have a row 1.
        some = [dataclasses.replace(one, id=f"{split}/{one.id}") for one in some]
        spans[split] = range(len(examples), len(examples) + len(some))
        examples += some
    task, why = tasks.decide(wanted.task, wanted.answers, examples)
    say(why)
    if task.kind != WRITE:
        for finding in spelling_findings([one.answer for one in examples], "the answers"):
            say(str(finding))
    positive = _positive(task, wanted.positive, examples)
    return Data(examples, spans, dict(splits.files), task, positive, marks_of(examples))


def _positive(task: Task, named: str, examples: Sequence[Example]) -> Positive:
    if task.kind == WRITE:
        return Positive(None, "written answers: judged by what is written")
    if named and named not in task.answers:
        raise UserError(f"positive: {named!r} is not one of the answers {list(task.answers)}")
    if named:
        return Positive(named, f"{named!r} is the positive answer")
    counts = {answer: sum(one.answer == answer for one in examples) for answer in task.answers}
    return measuring.choose_positive(task.answers, counts)


def judged_rows(data: Data, folds: Sequence[int] | None, draw: Draw | None) -> list[int]:
    """The rows that judge a roll: a fold's own, or the validation rows, or else the training rows."""
    if folds is not None and draw is not None:
        return [place for place, fold in zip(data.seen, folds, strict=True) if fold == draw.fold]
    return list(data.spans.get("valid") or data.spans["train"])
