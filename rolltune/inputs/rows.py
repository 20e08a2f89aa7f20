"""From examples to rows: what is asked, the answers to train or to score, and the places of the pictures."""

import dataclasses
from collections.abc import Callable, Collection, Sequence

from rolltune.base import Model
from rolltune.batch import Row
from rolltune.data.batches import Encoded, Feed
from rolltune.data.examples import Example, Turn
from rolltune.data.shapes import fixed_shapes, shapes_for
from rolltune.data.views import View
from rolltune.errors import UserError
from rolltune.evaluation.tasks import CLASSIFY, Task
from rolltune.inputs.pictures import Pictures, keys_of
from rolltune.text import encode
from rolltune.tracking import progress

TRAIN, SCORE, WRITE = "train", "score", "write"  # what a row is for: its own answer, all answers, none
MOST_NAMED = 20


@dataclasses.dataclass(frozen=True)
class Asking:
    """How rows are asked. `prompt`, where it is not empty, takes the place of the last question's text."""

    task: Task
    prompt: str = ""
    max_tokens: int | None = None  # a longer row is an error
    truncate: bool = False  # a classifier's longer text is cut on its right instead


def question(example: Example, prompt: str) -> tuple[Turn, ...]:
    """The turns before the answer; image marks of a replaced question stay, so that its images keep their places."""
    *earlier, last = example.turns[:-1]
    if not prompt:
        return (*earlier, last)
    return (*earlier, dataclasses.replace(last, text=prompt))


def row_maker(model: Model, pictures: Pictures, asking: Asking, purpose: str) -> Callable[[Example], tuple[Row, int]]:
    """Example -> (Row, tokens that were cut off)."""
    family, tokenizer, task = model.family, model.tokenizer, asking.task

    def make(example: Example) -> tuple[Row, int]:
        turns = question(example, asking.prompt)
        shown = [
            encode.Picture(key, places.slots, places.keys, len(places.used))
            for key in keys_of(example)
            for places in (pictures.places[key],)
        ]
        own = task.label(example)
        label = own if purpose == SCORE else 0
        if task.kind == CLASSIFY:
            limit = asking.max_tokens if asking.truncate else None
            classes = range(len(task.answers)) if purpose == SCORE else [own]
            return encode.classify_row(
                family.classifier, tokenizer, family.learned_count, turns, classes, shown, label, limit=limit
            )
        answers: Sequence[str] = ()
        if purpose == TRAIN:
            answers = [example.answer]
        elif purpose == SCORE:
            answers = task.candidates(example)
        row = encode.encode(
            family.template, tokenizer, family.learned_count, turns, answers, shown, label, all_turns=purpose == TRAIN
        )
        return row, 0

    return make


def encode_rows(
    model: Model, pictures: Pictures, examples: Sequence[Example], asking: Asking, purpose: str
) -> tuple[list[Row], int]:
    """(a row for each example, how many were cut). All rows that are too long are named in one UserError."""
    make = row_maker(model, pictures, asking, purpose)
    made = [make(example) for example in progress(examples, "encoding rows", len(examples))]
    limit = asking.max_tokens
    long = [
        f"  {example.source}: {len(row.tokens)} tokens"
        for example, (row, _) in zip(examples, made, strict=True)
        if limit is not None and len(row.tokens) > limit
    ]
    if long:
        more = [f"  ... and {len(long) - MOST_NAMED} more"] if len(long) > MOST_NAMED else []
        raise UserError(
            f"{len(long)} rows are longer than {limit} tokens; nothing is cut silently: shorten them, leave "
            "them out, or allow more with --config.max_tokens\n" + "\n".join(long[:MOST_NAMED] + more)
        )
    return [row for row, _ in made], sum(cut > 0 for _, cut in made)


def in_views(rows: Sequence[Row], places: Collection[int], views: Sequence[View]) -> list[Row]:
    """The rows in each view, one view after the other; a row that is not of these `places` stays as it is in all."""

    def shown(row: Row, view: View) -> Row:
        return row._replace(pictures=tuple(key._replace(view=view) for key in row.pictures))  # type: ignore[attr-defined]

    own = set(places)
    return [
        shown(row, view) if place in own and row.pictures else row for view in views for place, row in enumerate(rows)
    ]


def encoded(
    rows: Sequence[Row], feed: Feed, examples: Sequence[Example], views: int = 1, fixed: bool = False
) -> Encoded:
    """`rows` of these examples, in so many views of each. With `fixed` a row's shape is its own, whatever the other
    rows are: see `fixed_shape`."""
    shapes = (fixed_shapes if fixed else shapes_for)([feed.shape(row) for row in rows])
    return Encoded(rows, feed, shapes, [example.answer for example in examples], views)
