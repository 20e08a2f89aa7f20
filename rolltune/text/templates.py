"""Text formats as data: how the turns of a conversation become text, special tokens, images and answers.

Nothing out of a checkpoint is executed: a chat template in Jinja is a downloaded program, and it can't say where an
answer stands, which of its tokens are trained, or what is tokenised by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rolltune.data.examples import Turn
from rolltune.errors import UserError

MARK = "<image>"  # in a turn's text: the next image stands here


@dataclass(frozen=True)
class Special:
    """One token by the name that the tokenizer's file gives it; "bos", "eos" and "pad" are whatever it calls so."""

    name: str


@dataclass(frozen=True)
class Apart:
    """Text that is tokenised by itself even where text stands beside it."""

    text: str


@dataclass(frozen=True)
class Image:
    """Where image `number` of the row stands, counted from 0."""

    number: int


@dataclass(frozen=True)
class Answer:
    """What an assistant says, with the tokens that end it: what can be trained. Tokenised apart from what is before."""

    pieces: tuple[Piece, ...]


Piece = str | Special | Apart | Image | Answer
Pieces = tuple[Piece, ...]
BOS, EOS = Special("bos"), Special("eos")


@dataclass(frozen=True, kw_only=True)
class Template:
    """A text format. A chat is `start`, turns in their wraps, `reply`, and then the answer with what ends it."""

    start: Pieces = (BOS,)  # before all text
    plain: bool = False  # no turns: images, `start`, and one text of all turns, a line each, image marks taken out
    system: tuple[Pieces, Pieces] | None = None  # around a system turn; None: it goes in front of the first question
    system_beside_images: bool = True  # False: in rows with images, too, it goes in front of the first question
    preamble: str = ""  # begins the system turn of rows without images, which then always have one
    user: tuple[Pieces, Pieces] = ((), ())  # around a user's turn
    strip: bool = False  # white space around what is asked is taken off
    reply: Pieces = ()  # before every answer: the generation prompt
    answer_prefix: str = ""  # part of every answer, tokenised with it
    stop: Pieces = (EOS,)  # ends every answer, trained with it
    last_stop: Pieces = ()  # ends the last answer after `stop`, trained with it
    between: Pieces = ()  # after an answer that a turn follows, not trained
    stops: tuple[Special, ...] = (EOS,)  # any of them ends generation
    image_end: Pieces = ()  # after every image
    image_line: str = ""  # after an image that has no mark in the text, behind `image_end`
    image_token: Special | None = None  # an image's own token, for families that embed one
    prefix_lm: bool = False  # the prompt is seen both ways, only the answer is causal
    row_end: Pieces = ()  # ends a classifier's row


def specials_of(template: Template) -> tuple[Special, ...]:
    """The tokens without which no question can be asked and no answer ended."""
    pieces = (*template.start, *template.user[0], *template.user[1], *template.reply, *template.stop, *template.stops)
    return tuple(dict.fromkeys(piece for piece in pieces if isinstance(piece, Special)))


def render(template: Template, turns: Sequence[Turn], images: int, *, reply: bool = True) -> list[Piece]:
    """The prompt of a row with that many images: everything that stands before the answer to the last turn.

    `turns` end with the user's. "<image>" in their text marks where the next image stands; images without a mark come
    first in the first user turn. With `reply` the prompt ends with the generation prompt. A `str` of the result is
    tokenised by itself. Raises UserError for more marks than images.
    """
    if not turns or turns[-1].role != "user":
        raise ValueError(f"a prompt ends with the user's turn, got {[turn.role for turn in turns]}")
    if template.plain:
        text = "\n".join(turn.text for turn in turns).replace(MARK, "")
        asked = text.strip() if template.strip else text
        first = _images(template, range(images), template.image_line)
        return _joined([*first, *template.start, asked, *(template.reply if reply else ())])
    marks = sum(turn.text.count(MARK) for turn in turns)
    if marks > images:
        raise UserError(f"the text has {marks} {MARK} marks for {images} images: take out marks or add images")
    unmarked = range(images - marks)
    marked = iter(range(images - marks, images))
    pieces: list[Piece] = list(template.start)
    for turn in _with_system(template, turns, images):
        text = turn.text.strip() if template.strip and turn.role != "assistant" else turn.text
        if turn.role == "assistant":
            said = _joined(_with_images(template, template.answer_prefix + text, marked))
            pieces += [*template.reply, Answer((*said, *template.stop)), *template.between]
            continue
        before, after = template.system or ((), ()) if turn.role == "system" else template.user
        pieces += before
        if turn.role == "user":
            pieces += _images(template, unmarked, template.image_line)
            unmarked = range(0)
        pieces += [*_with_images(template, text, marked), *after]
    return _joined([*pieces, *(template.reply if reply else ())])


def last_answer(template: Template, text: str) -> Answer:
    """What follows a prompt: the answer, as it is written, and all that ends it."""
    return Answer((template.answer_prefix + text, *template.stop, *template.last_stop))


def _with_system(template: Template, turns: Sequence[Turn], images: int) -> Sequence[Turn]:
    """The turns with what the system says in the place that the template has for it."""
    said = [turn.text for turn in turns if turn.role == "system"]
    others = [turn for turn in turns if turn.role != "system"]
    if template.system is not None and (template.system_beside_images or not images):
        if template.preamble and not images:
            return [Turn("system", template.preamble + "\n\n".join(said)), *others]
        return turns
    if not said:
        return turns
    first = next(place for place, turn in enumerate(others) if turn.role == "user")
    others[first] = Turn("user", "\n\n".join([*said, others[first].text]))
    return others


def _images(template: Template, numbers: Iterable[int], line: str) -> list[Piece]:
    return [piece for number in numbers for piece in (Image(number), *template.image_end, line)]


def _with_images(template: Template, text: str, numbers: Iterator[int]) -> list[Piece]:
    """The text with an image in the place of each mark."""
    first, *rest = text.split(MARK)
    pieces: list[Piece] = [first]
    for part in rest:
        pieces += [*_images(template, [next(numbers)], ""), part]
    return pieces


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Without empty texts, and with neighbouring ones made one: a tokenizer cuts words where it likes."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return joined


# Images and prompt, seen both ways, and a newline tokenised by itself: big_vision's pp/proj/paligemma/ops.py.
# transformers tokenises the newline with the prompt: reply=("\n",).
PLAIN_PREFIX = Template(plain=True, strip=True, reply=(Apart("\n"),), prefix_lm=True)

# A text and nothing around it: a language model's continuation, or a classifier's row. A classifier that was trained
# with an end token says so by row_end=(EOS,).
BARE_TEXT = Template(plain=True, answer_prefix=" ")

# The chat template of gemma-2-*-it's tokenizer_config.json. "assistant" is "model" there, and a system is refused.
_TURN, _TURN_END = Special("<start_of_turn>"), Special("<end_of_turn>")
TURN_CHAT = Template(
    user=((_TURN, "user\n"), (_TURN_END, "\n")),
    strip=True,
    reply=(_TURN, "model\n"),
    stop=(_TURN_END,),
    between=("\n",),
    stops=(_TURN_END, EOS),
)

# Mistral-7B-Instruct v0.1 and v0.2, as LLaVA-1.6 was trained with it. The tokenizer puts the spaces before the answer
# and before the next [INST] by itself, since each piece begins with one.
INST_CHAT = Template(user=(("[INST] ",), (" [/INST]",)), image_line="\n")

# Llama 3.2 Vision Instruct. The published template refuses a system turn beside images. Without images it puts the
# dates in front; the day is the one that it falls back to, since a row must not change overnight.
_HEAD, _HEAD_END, _EOT = Special("<|start_header_id|>"), Special("<|end_header_id|>"), Special("<|eot_id|>")
HEADER_CHAT = Template(
    system=((_HEAD, "system", _HEAD_END, "\n\n"), (_EOT,)),
    system_beside_images=False,
    preamble="Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
    user=((_HEAD, "user", _HEAD_END, "\n\n"), (_EOT,)),
    reply=(_HEAD, "assistant", _HEAD_END, "\n\n"),
    stop=(_EOT,),
    stops=(_EOT, Special("<|end_of_text|>"), Special("<|eom_id|>")),
    image_token=Special("<|image|>"),
)

# Llama 3.2 Vision that was not tuned for chat: the image's token stands before the beginning of the text.
HEADER_TEXT = Template(
    plain=True,
    answer_prefix=" ",
    stop=(Special("<|end_of_text|>"),),
    stops=(Special("<|end_of_text|>"),),
    image_token=Special("<|image|>"),
)

# Phi-3-vision and 3.5. Its processor tokenises what is between images as texts of their own, each with a bos. The
# newline after <|assistant|> is left out: that token swallows the white space on its right.
_END = Special("<|end|>")
BAR_CHAT = Template(
    system=((Special("<|system|>"), "\n"), (_END, "\n")),
    user=((Special("<|user|>"), "\n"), (_END, "\n")),
    reply=(Special("<|assistant|>"),),
    stop=(_END, "\n"),
    last_stop=(Special("<|endoftext|>"),),
    stops=(_END, Special("<|endoftext|>"), Special("</s>")),
    image_end=(BOS,),
    image_line="\n",
)

# ChatML (SmolLM and many others). No bos: the first token is <|im_start|>.
_IM, _IM_END = Special("<|im_start|>"), Special("<|im_end|>")
CHATML = Template(
    start=(),
    system=((_IM, "system\n"), (_IM_END, "\n")),
    user=((_IM, "user\n"), (_IM_END, "\n")),
    reply=(_IM, "assistant\n"),
    stop=(_IM_END,),
    between=("\n",),
    stops=(_IM_END, Special("<|endoftext|>")),
)
