"""One row of JSON as an Example: our own keys, conversations of three kinds, and the rows of other toolkits."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rolltune.data.answers import is_blank
from rolltune.data.examples import GROUP_KEYS, STAND_IN, Example, Turn
from rolltune.data.findings import quoted
from rolltune.data.image_paths import ENDINGS, RowProblem, find_image, kind_of, moved, unread_pictures

ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "system": "system",
}
CONVERSATIONS = ("conversations", "messages")
# (question, answer) of rows that are neither ours nor conversations: Alpaca, prompt/completion (TRL), ms-swift, plain.
PAIRS = (("instruction", "output"), ("prompt", "completion"), ("query", "response"), ("question", "answer"))
IMAGE_KEYS = ("file_name", "image_path", "img", "img_path", "image_file", "filename", "image_url")
NOT_READ = {
    "objects": "boxes are written into the answer as text, such as PaliGemma's <loc0123>: "
    "./06-convert_data.py objects makes that of Hugging Face's bbox and categories",
    "videos": "cut each into frames first: ./06-convert_data.py video",
    "audios": "sound is not learnt",
}
# What is read of a row, or is known to be none of its pictures ("original": the name before converting).
KNOWN = frozenset(
    [
        "id",
        "prefix",
        "suffix",
        "image",
        "images",
        "answers",
        "original",
        "system",
        *CONVERSATIONS,
        *GROUP_KEYS,
        *NOT_READ,
    ]
)
TURN_KEYS = frozenset(["from", "value", "role", "content", "user", "assistant", "image", "images"])
MARK = re.compile(r"<image>|<\|image(?:_\d+)?\|>")
_LEADING_MARKS = re.compile(rf"^(?:\s*(?:{MARK.pattern}))+\s*")


def renamed(row: dict, columns: Mapping[str, str] | None, question: str | None = None) -> dict:
    """The row with the columns that `columns` names ({"suffix": "label"}) under the names we use.

    A picture under a name that others use for it becomes "image"; `question` is asked where the row asks nothing. In
    a row of a Hugging Face image folder ("file_name", "text"), the text is the answer, and nothing is asked.
    """
    ours = {theirs: ours for ours, theirs in (columns or {}).items() if theirs in row}
    named = {ours.get(key, key): value for key, value in row.items() if key in ours or key not in ours.values()}
    if is_captioned(named):
        named = {"prefix": question or "", "suffix": named["text"], **named}
        del named["text"]
    if "image" not in named and "images" not in named and (key := picture_key(named)):
        named = {("image" if name == key else name): value for name, value in named.items()}
    if question is not None and not any(key in named for key in ("prefix", *CONVERSATIONS, *dict(PAIRS))):
        named = {"prefix": question, **named}
    return named


def is_captioned(row: Collection[str]) -> bool:
    """Whether these are the keys, or columns, of a Hugging Face image folder that has a text to each picture."""
    asks = ("prefix", "suffix", "image", "images", *CONVERSATIONS, *dict(PAIRS))
    return "file_name" in row and "text" in row and not any(key in row for key in asks)


def picture_key(row: Mapping[str, object]) -> str | None:
    """The key under which a row that has no "image" names its picture in the way of other tools."""
    for key in IMAGE_KEYS:
        value = row.get(key)
        if isinstance(value, str) and (os.path.splitext(value)[1].lower() in ENDINGS or "://" in value[:12]):
            return key
    return "file_name" if "file_name" in row else None  # the metadata.jsonl of a Hugging Face image folder


def filled_up(row: dict) -> tuple[dict, bool]:
    """(the row with a stand-in where it has no answer, whether it has one of its own).

    A picture alone is asked what the roll asks. What is wrong in other ways stays as it is, for `parse_row` to tell.
    """
    lacks = lambda value: value is None or (isinstance(value, str) and is_blank(value))
    key = next((key for key in CONVERSATIONS if isinstance(row.get(key), list) and row[key]), None)
    if key is not None:
        last = row[key][-1]
        if not isinstance(last, dict):
            return row, True
        if "user" in last and lacks(last.get("assistant")):
            return {**row, key: [*row[key][:-1], {**last, "assistant": STAND_IN}]}, False
        speaker = last.get("from", last.get("role"))
        asks = isinstance(speaker, str) and ROLES.get(speaker) == "user"
        return ({**row, key: [*row[key], {"from": "gpt", "value": STAND_IN}]}, False) if asks else (row, True)
    pairs = (("prefix", "suffix"), *PAIRS)
    question, answer = next((pair for pair in pairs if pair[0] in row), pairs[0])
    if question not in row and answer not in row and ("image" in row or "images" in row):
        row = {"prefix": "", **row}
    elif question not in row and answer in row:
        row = {question: "", **row}
    answered = not lacks(row.get(answer))
    return (row if answered else {**row, answer: STAND_IN}), answered


def parse_row(
    row: dict, where: str, default_id: str, folder: Path, roots: tuple[Path, ...], answered: bool = True
) -> Example:
    """One row as an Example; a RowProblem carries all that is wrong with it, one text each.

    With `answered` False the row may lack its answer, and its question.
    """
    has_answer = True
    if not answered:
        row, has_answer = filled_up(row)
    problems: list[str] = []

    def gather(work, *arguments):
        try:
            return work(*arguments)
        except RowProblem as problem:
            problems.extend(problem.args)
            return None

    turns, turn_images, unread = gather(_turns, row) or ((), [], {})
    stated = gather(_stated_images, row) or []
    if stated and turn_images:
        problems.append("images are given both for the row and inside its turns: keep one of them")
    images = [gather(find_image, value, folder, roots) for value in stated or turn_images]
    turns = gather(_without_leading_marks, turns, len(images)) or ()
    accepted = gather(_accepted, row) or ()
    row_id = row.get("id", default_id)
    if isinstance(row_id, bool) or not isinstance(row_id, str | int) or row_id == "":
        problems.append(f'"id" is text or a whole number, got {kind_of(row_id) if row_id != "" else "empty text"}')
    group = gather(_group, row)
    problems += [f'"{key}" is not read: {advice}' for key, advice in NOT_READ.items() if _holds(row.get(key))]
    known = KNOWN | {*pair, "history", "input"} if (pair := _pair(row)) else KNOWN
    unread |= {key: value for key, value in row.items() if key not in known}
    problems += unread_pictures(unread, stated or turn_images, folder, roots)
    if problems:
        raise RowProblem(*problems)
    return Example(
        str(row_id), tuple(images), turns, where, group, accepted=accepted, answered=has_answer or bool(accepted)
    )


def _holds(value: object) -> bool:
    """Whether there is anything in a value: boxes of a picture that has none come as {"bbox": [], "categories": []}."""
    if isinstance(value, dict | list):
        return any(map(_holds, value.values() if isinstance(value, dict) else value))
    return value is not None and value != ""


def _group(row: dict) -> str | None:
    key = next((key for key in GROUP_KEYS if row.get(key) is not None), None)
    if key is None:
        return None
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowProblem(f'"{key}" is text or a number, got {kind_of(value)}')
    if is_blank(str(value)):
        raise RowProblem(f'"{key}" is empty text: leave the key out of rows that belong to no group')
    return str(value)


def _text(row: dict, key: str, may_be_empty: bool) -> str:
    if key not in row:
        hint = ' (write "" for an empty question)' if may_be_empty else ""
        raise RowProblem(f'"{key}" is missing{hint}; the row has {_keys(row)}')
    value = row[key]
    if not isinstance(value, str):
        raise RowProblem(f'"{key}" is {kind_of(value)}: expected text in quotes')
    if not may_be_empty and is_blank(value):
        raise RowProblem(f'"{key}" is empty: an answer is needed to learn from')
    return value


def _keys(row: dict) -> str:
    return (", ".join(map(quoted, list(row)[:12])) + ", ..." * (len(row) > 12)) or "no keys"


def _accepted(row: dict) -> tuple[str, ...]:
    answers = row.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) and not is_blank(answer) for answer in answers):
        raise RowProblem('"answers" is a list of texts that are not empty')
    return tuple(answer.strip() for answer in answers)


def _stated_images(row: dict) -> list:
    if "image" in row and "images" in row:
        raise RowProblem('"image" and "images" are both given: keep one')
    value = row.get("image", row.get("images"))
    if value is None:
        if "image" in row or "images" in row:
            raise RowProblem('"image" is null: leave the key out of rows without a picture')
        return []
    if value == []:
        raise RowProblem('"images" is an empty list: leave the key out of rows without a picture')
    return value if isinstance(value, list) else [value]


def _turns(row: dict) -> tuple[tuple[Turn, ...], list, dict]:
    """The turns of a row, the images named inside them, and what else its turns hold."""
    images: list = []
    unread: dict = {}
    said = _system(row)
    key = next((key for key in CONVERSATIONS if key in row), None)
    pair = _pair(row)
    if key is not None:
        said += _listed_turns(row, key, images, unread)
    elif pair is None:
        problems: list[str] = []
        for name, role in (("prefix", "user"), ("suffix", "assistant")):
            try:
                said.append((role, _text(row, name, may_be_empty=role == "user")))
            except RowProblem as problem:
                problems += problem.args
        if problems:
            raise RowProblem(*problems)
    else:
        said += _history(row)
        for name, role in zip(pair, ("user", "assistant"), strict=True):
            if isinstance(row[name], list):  # TRL's conversations in two parts
                said += _listed_turns(row, name, images, unread)
            else:
                said.append((role, _text(row, name, may_be_empty=role == "user")))
        if pair[0] == "instruction" and row.get("input"):
            said[-2] = ("user", f"{said[-2][1]}\n{_text(row, 'input', may_be_empty=True)}")
    return _alternating(said), images, unread


def _pair(row: Mapping[str, object]) -> tuple[str, str] | None:
    """The keys of question and answer in a row of another toolkit; None where the row has ours, or turns."""
    if any(key in row for key in ("prefix", "suffix", *CONVERSATIONS)):
        return None
    return next((pair for pair in PAIRS if set(pair) <= set(row)), None)


def _system(row: dict) -> list[tuple[str, str]]:
    if row.get("system") is None:
        return []
    return [("system", _text(row, "system", may_be_empty=True))]


def _history(row: dict) -> list[tuple[str, str]]:
    """The earlier rounds of ms-swift's and LLaMA-Factory's rows: a list of [question, answer]."""
    said: list[tuple[str, str]] = []
    rounds = row.get("history") or []
    if not isinstance(rounds, list):
        raise RowProblem(f'"history" is a list of rounds, got {kind_of(rounds)}')
    for number, item in enumerate(rounds, 1):
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(text, str) for text in item):
            raise RowProblem(f'"history": round {number} is not a list of a question and an answer')
        if is_blank(item[1]):
            raise RowProblem(f'"history": the answer of round {number} is empty')
        said += [("user", item[0]), ("assistant", item[1])]
    return said


def _listed_turns(row: dict, key: str, images: list, unread: dict) -> list[tuple[str, str]]:
    if not isinstance(row[key], list) or not row[key]:
        got = "an empty list" if row[key] == [] else kind_of(row[key])
        raise RowProblem(f'"{key}" is a list of turns, got {got}')
    said: list[tuple[str, str]] = []
    for number, turn in enumerate(row[key], 1):
        if not isinstance(turn, dict):
            raise RowProblem(f"turn {number} is {kind_of(turn)}: expected an object")
        said += _sayings(turn, number, images)
        unread |= {f"{name} of turn {number}": value for name, value in turn.items() if name not in TURN_KEYS}
    return said


def _sayings(turn: dict, number: int, images: list) -> list[tuple[str, str]]:
    """(role, text) pairs of one turn object: one, or two where it holds a question and its answer (Phi recipes)."""
    for key in ("image", "images"):
        value = turn.get(key)
        if value is not None and not isinstance(value, str | list):
            raise RowProblem(f'turn {number}: "{key}" is {kind_of(value)}: expected a path, or a list of them')
        images += [value] if isinstance(value, str) else value or []
    if "user" in turn and "assistant" in turn:
        return [(role, _text(turn, role, role == "user")) for role in ("user", "assistant")]
    role_key, text_key = ("from", "value") if "from" in turn else ("role", "content")
    speaker = turn.get(role_key)
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        got = quoted(speaker)
        raise RowProblem(f'turn {number}: "{role_key}" is {got}: expected one of {", ".join(ROLES)}')
    if isinstance(turn.get(text_key), list):
        text = _joined(turn[text_key], number, images)
        if role == "assistant" and is_blank(MARK.sub("", text)):
            raise RowProblem(f'turn {number}: "{text_key}" holds no text: an answer is needed to learn from')
        return [(role, text)]
    return [(role, _text(turn, text_key, may_be_empty=role != "assistant"))]


def _joined(parts: list, number: int, images: list) -> str:
    """OpenAI's content parts: texts, and images whose place is kept as a mark."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            value = part.get("image", part.get("path", part.get("image_url")))
            images.append(value.get("url") if isinstance(value, dict) else value)
            texts.append("<image>")
        else:
            raise RowProblem(f'turn {number}: a part of "content" is neither a text nor an image')
    return "\n".join(texts)


def _alternating(said: list[tuple[str, str]]) -> tuple[Turn, ...]:
    """What the system says, in one turn, where it says anything; then user, assistant, ...

    Outer white space is no part of what anybody says: no answer counts as another for it, and every model's tokenizer
    is asked the same.
    """
    said = [(role, text.strip()) for role, text in said]
    system = [text for role, text in said if role == "system" and not is_blank(text)]
    turns = [Turn(role, text) for role, text in said if role != "system"]
    for place, turn in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        if turn.role != expected:
            raise RowProblem(f"turn {place + 1} is the {turn.role}'s, expected the {expected}'s: they take turns")
    if len(turns) % 2 or not turns:
        raise RowProblem("the last turn is the user's: a conversation ends with the answer to learn")
    return (*([Turn("system", "\n".join(system))] if system else []), *turns)


def _without_leading_marks(turns: tuple[Turn, ...], images: int) -> tuple[Turn, ...]:
    marks = sum(len(MARK.findall(turn.text)) for turn in turns)
    if marks and marks != images:
        raise RowProblem(f"the text has {marks} image mark{'s' * (marks > 1)}, the row {images} images")
    if not marks:
        return turns
    place = 1 if turns[0].role == "system" else 0
    before, asked, after = turns[:place], turns[place].text, turns[place + 1 :]
    led = _LEADING_MARKS.match(asked)
    first = asked[led.end() :] if led else asked  # stripped before, and the marks take the space behind them along
    # Where only part of the marks lead, their places matter, and all of them stay.
    if any(MARK.search(text) for text in (first, *(turn.text for turn in (*before, *after)))):
        return tuple(Turn(turn.role, MARK.sub("<image>", turn.text)) for turn in turns)
    return (*before, Turn("user", first), *after)


def rebased(row: dict, old: Path, new: Path) -> dict:
    """The row with its image paths, relative to the folder `old`, made relative to `new`."""
    result: dict[str, Any] = dict(row)
    for key in ("image", "images"):
        if key in row:
            result[key] = moved(row[key], old, new)
    for key in (*CONVERSATIONS, "prompt", "completion"):
        if isinstance(row.get(key), list):
            result[key] = [_rebased_turn(turn, old, new) for turn in row[key]]
    return result


def _rebased_turn(turn: dict, old: Path, new: Path) -> dict:
    result = dict(turn)
    for key in ("image", "images"):
        if key in turn:
            result[key] = moved(turn[key], old, new)
    if isinstance(turn.get("content"), list):
        result["content"] = [part if part.get("type") == "text" else moved(part, old, new) for part in turn["content"]]
    return result
