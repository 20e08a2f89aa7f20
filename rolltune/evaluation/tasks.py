"""What an answer is, and so how it is trained and judged: chosen, written, or a class.

`choose`: few allowed answers; the likelihood of each, in one pass. `write`: open answers (captions, documents, boxes):
trained on the row's own, ranked by the log-loss of the best accepted one, judged by what is written. `classify`: a head
above the decoder, with as many outputs as there are classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rolltune.data.examples import Example
from rolltune.errors import UserError

CHOOSE, WRITE, CLASSIFY, AUTO = "choose", "write", "classify", "auto"
KINDS = (CHOOSE, WRITE, CLASSIFY)
MOST_CHOICES = 64  # answers that `auto` still takes for a choice: each lengthens every row that is scored


@dataclass(frozen=True)
class Task:
    kind: str
    answers: tuple[str, ...]  # the allowed ones, in the order of the classes; of `write` none

    def label(self, example: Example) -> int:
        """The place of the right answer among the candidates; an answer that is not allowed is refused before."""
        return self.answers.index(example.answer) if example.answer in self.answers else 0

    def candidates(self, example: Example) -> tuple[str, ...]:
        """The answers that are scored for a row."""
        return self.answers if self.kind != WRITE else accepted(example)


def accepted(example: Example) -> tuple[str, ...]:
    """All answers that count as right."""
    return example.accepted or (example.answer,)


def decide(kind: str, stated: Sequence[str], examples: Sequence[Example]) -> tuple[Task, str]:
    """(the task, in words why): `auto` looks at the data.

    Raises UserError for choices that leave nothing to tell apart, or where an answer is not among those stated.
    """
    seen = Counter(one.answer for one in examples)
    if kind == AUTO:
        several = sum(len(accepted(one)) > 1 for one in examples)
        repeated = len(seen) <= min(MOST_CHOICES, max(2, len(examples) // 2))
        if stated or (repeated and not several):
            kind = CHOOSE
        else:
            why = f"{several} rows accept several answers" if several else f"{len(seen)} different answers"
            return Task(WRITE, ()), (
                f"task: write ({why} in {len(examples)} rows); --config.task=choose scores all of them for every row"
            )
    if kind == WRITE:
        return Task(WRITE, ()), "task: write"
    answers = allowed_answers(stated, list(seen))
    return Task(kind, answers), f"task: {kind} ({len(answers)} answers)"


def allowed_answers(stated: Sequence[str], seen: Sequence[str]) -> tuple[str, ...]:
    """The answers to choose from: those stated, or all that occur, sorted. Raises UserError for one, or a stray one."""
    answers = tuple(stated) or tuple(sorted(set(seen)))
    if stray := sorted(set(seen) - set(answers)):
        raise UserError(f"the data has the answer {stray[0]!r}, which is not among the allowed ones: {list(answers)}")
    if len(answers) < 2:
        raise UserError(
            f"every row has the answer {answers[0]!r}: there is nothing to tell apart. Name the other allowed answers, "
            "for example --config.answers=\"('yes', 'no')\""
        )
    return answers
