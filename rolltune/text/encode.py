"""From turns to a row of ids: one way for all families, by their text format and what they say of their pictures."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from rolltune.batch import Row
from rolltune.data.examples import Turn
from rolltune.errors import UserError
from rolltune.text.templates import Answer, Apart, Image, Piece, Special, Template, last_answer, render, specials_of
from rolltune.text.tokenizer import Tokenizer, id_of


class Picture(NamedTuple):
    """What a family says of one picture of a row, from its size alone. E is the number of its learned vectors."""

    key: Hashable  # which picture
    slots: np.ndarray  # int32 [p]; -1 the image token's own embedding, 0..E-1 learned, E+i row i of this picture
    keys: np.ndarray  # int32 [x]; E+i: the rows of this picture that cross layers see, or [0]
    rows: int  # how many feature rows the picture has


class Prompt(NamedTuple):
    """What stands before the answers."""

    tokens: list[int]  # T of them
    starts: list[int]  # where in T each picture begins
    trained: list[int]  # the places in T of what the assistant said before


class Asked(NamedTuple):
    """What is predicted: M targets."""

    predict: list[int]  # places in T
    targets: list[int]
    candidates: list[int]
    label: int


class Order(NamedTuple):
    """Where the row's T tokens stand to each other."""

    positions: np.ndarray
    blocks: np.ndarray
    segments: np.ndarray


def encode(
    template: Template,
    tokenizer: Tokenizer,
    learned: int,
    turns: Sequence[Turn],
    answers: Sequence[str],
    pictures: Sequence[Picture],
    label: int = 0,
    *,
    all_turns: bool = False,
) -> Row:
    """The row of a conversation and each answer that may follow it, which share the prompt and don't see each other.

    `turns` end with the user's. Without answers the row is the prompt alone, for generation. `learned` is E. With
    `all_turns` what the assistant said before is trained, too, except where the prompt is seen both ways: there
    every token would see itself. The end of an answer is a target and no token: nothing comes after it.
    """
    if all_turns and len(answers) > 1:
        raise ValueError(f"{len(answers)} answers to compare, and turns before them to train: it is one or the other")
    prompt = _lay(template, tokenizer, render(template, turns, len(pictures)), pictures)
    start = len(prompt.tokens)
    tokens = list(prompt.tokens)
    predict = [place - 1 for place in prompt.trained] if all_turns and answers and not template.prefix_lm else []
    targets = [tokens[place + 1] for place in predict]
    candidates = [0] * len(predict)
    lengths = []
    for number, answer in enumerate(answers):
        ids = [token for piece in last_answer(template, answer).pieces for token in _ids(tokenizer, piece)]
        predict += [start - 1, *range(len(tokens), len(tokens) + len(ids) - 1)]
        targets += ids
        candidates += [number] * len(ids)
        tokens += ids[:-1]
        lengths.append(len(ids) - 1)
    # [T]; an answer goes on from the prompt, whatever stands between them.
    positions = np.concatenate([np.arange(start), *(np.arange(start, start + length) for length in lengths)])
    segments = np.repeat(np.arange(len(answers) + 1), [start, *lengths])
    blocks = np.maximum(positions - start + 1, 0) if template.prefix_lm else positions
    asked = Asked(predict, targets, candidates, label)
    return _row(prompt, pictures, learned, tokens, Order(positions, blocks, segments), asked)


def classify_row(
    template: Template,
    tokenizer: Tokenizer,
    learned: int,
    turns: Sequence[Turn],
    classes: Sequence[int],
    pictures: Sequence[Picture],
    label: int = 0,
    *,
    limit: int | None = None,
) -> tuple[Row, int]:
    """(row, tokens cut): a text whose last token is asked for its class; the targets are classes, not tokens.

    `classes` are what answers are to `encode`: training has the right one alone, scoring has all, each a candidate.
    Over `limit` tokens the text is cut on its right and keeps the template's end, as a tokenizer's `max_length` does.
    Raises UserError where that would cut into a picture.
    """
    pieces = render(template, turns, len(pictures), reply=False)
    prompt = _lay(template, tokenizer, pieces, pictures)
    end = [token for piece in template.row_end for token in _ids(tokenizer, piece)]
    length = len(prompt.tokens) + len(end)
    cut = max(0, length - limit) if limit is not None else 0
    kept = len(prompt.tokens) - cut
    needed = max([1, *(begin + len(each.slots) for begin, each in zip(prompt.starts, pictures, strict=True))])
    if kept < needed:
        raise UserError(
            f"a row of {length} tokens can't be cut to {limit}: {needed + len(end)} of them are pictures, what stands "
            "before them, and the end; allow more tokens"
        )
    tokens = prompt.tokens[:kept] + end
    positions = np.arange(len(tokens))
    zeros = np.zeros_like(positions)
    asked = Asked([len(tokens) - 1] * len(classes), list(classes), list(range(len(classes))), label)
    order = Order(positions, zeros if template.prefix_lm else positions, zeros)
    return _row(prompt, pictures, learned, tokens, order, asked), cut


def fitting(templates: Sequence[Template], tokenizer: Tokenizer) -> Template:
    """The first of the formats whose tokens the tokenizer has; the first of all where none is such."""

    def fits(template: Template) -> bool:
        try:
            return all(id_of(tokenizer, piece.name) >= 0 for piece in specials_of(template))
        except UserError:
            return False

    return next(filter(fits, templates), templates[0])


def stop_ids(template: Template, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end generation."""
    return tuple(dict.fromkeys(id_of(tokenizer, stop.name) for stop in template.stops))


def answer_text(template: Template, tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """What was generated as a person would have written it: up to the first of `stop_ids`."""
    stops = stop_ids(template, tokenizer)
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return tokenizer.decode(ids[:end]).removeprefix(template.answer_prefix)


def _ids(tokenizer: Tokenizer, piece: Piece) -> list[int]:
    if isinstance(piece, str):
        return tokenizer.encode(piece)
    if isinstance(piece, Special):
        return [id_of(tokenizer, piece.name)]
    if isinstance(piece, Apart):
        return tokenizer.encode(piece.text)
    raise ValueError(f"{piece} has no ids of its own")


def _lay(template: Template, tokenizer: Tokenizer, pieces: Sequence[Piece], pictures: Sequence[Picture]) -> Prompt:
    """The tokens of the pieces, one after the other."""
    image = 0 if template.image_token is None else id_of(tokenizer, template.image_token.name)
    prompt = Prompt([], [], [])

    def add(piece: Piece) -> None:
        if isinstance(piece, Image):
            prompt.starts.append(len(prompt.tokens))
            prompt.tokens.extend([image] * len(pictures[piece.number].slots))
        else:
            prompt.tokens.extend(_ids(tokenizer, piece))

    for piece in pieces:
        if not isinstance(piece, Answer):
            add(piece)
            continue
        for part in piece.pieces:
            begin = len(prompt.tokens)
            add(part)
            if not isinstance(part, Image):  # which no head has a word for
                prompt.trained.extend(range(begin, len(prompt.tokens)))
    return prompt


def _row(
    prompt: Prompt, pictures: Sequence[Picture], learned: int, tokens: list[int], order: Order, asked: Asked
) -> Row:
    """A row of these tokens, with the pictures where the prompt has them."""
    ints = lambda values: np.asarray(values, np.int32)
    slots = np.full(len(tokens), -1, np.int32)
    seen = np.zeros((len(tokens), 2), np.int32)
    keys = [np.zeros(0, np.int32)]
    first = lo = hi = end = 0  # `first` row of the next picture; keys of the pictures side by side that end at `end`
    for start, picture in zip(prompt.starts, pictures, strict=True):
        size = len(picture.slots)
        for numbers in (picture.slots, picture.keys):
            if len(numbers) and numbers.max() >= learned + picture.rows:
                raise ValueError(f"{picture.key} has {picture.rows} rows, and {numbers.max() - learned} is asked for")
        slots[start : start + size] = np.where(picture.slots >= learned, picture.slots + first, picture.slots)
        if len(picture.keys):
            # Later text sees the last pictures that stand side by side; a picture sees those before it, too.
            lo, hi = lo if start == end else hi, hi + len(picture.keys)
            keys.append(np.where(picture.keys >= learned, picture.keys + first, picture.keys))
            seen[start:] = lo, hi
        first, end = first + picture.rows, start + size
    return Row(
        tokens=ints(tokens),
        positions=ints(order.positions),
        blocks=ints(order.blocks),
        segments=ints(order.segments),
        slots=slots,
        predict=ints(asked.predict),
        targets=ints(asked.targets),
        candidates=ints(asked.candidates),
        label=asked.label,
        keys=ints(np.concatenate(keys)),
        seen=seen,
        pictures=tuple(picture.key for picture in pictures),
        counts=tuple(picture.rows for picture in pictures),
    )
