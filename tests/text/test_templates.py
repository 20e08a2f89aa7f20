"""Turns become pieces: system turns, several turns, images anywhere."""

import dataclasses
import itertools

import pytest

from rolltune.data.examples import Turn
from rolltune.errors import UserError
from rolltune.text import templates
from rolltune.text.templates import BOS, Answer, Apart, Image, Special, render

TALK = [Turn("user", "Who?"), Turn("assistant", "Me."), Turn("user", "Why?")]
TOLD = [Turn("system", "Be brief."), *TALK]


def shown(template, turns, images=0) -> str:
    """A prompt as one text: special tokens by name, {0} images, an answer in [], cuts between texts as |."""

    def one(piece) -> str:
        if isinstance(piece, Answer):
            return "[" + "".join(map(one, piece.pieces)) + "]"
        if isinstance(piece, Image):
            return f"{{{piece.number}}}"
        return piece if isinstance(piece, str) else "|" + piece.text if isinstance(piece, Apart) else f"({piece.name})"

    pieces = render(template, turns, images)
    assert not any(isinstance(a, str) and isinstance(b, str) for a, b in itertools.pairwise(pieces))
    return "".join(map(one, pieces))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (templates.PLAIN_PREFIX, "(bos)Be brief.\nWho?\nMe.\nWhy?|\n"),
        (templates.BARE_TEXT, "(bos)Be brief.\nWho?\nMe.\nWhy?"),
        (
            templates.TURN_CHAT,
            "(bos)(<start_of_turn>)user\nBe brief.\n\nWho?(<end_of_turn>)\n(<start_of_turn>)model\n"
            "[Me.(<end_of_turn>)]\n(<start_of_turn>)user\nWhy?(<end_of_turn>)\n(<start_of_turn>)model\n",
        ),
        (templates.INST_CHAT, "(bos)[INST] Be brief.\n\nWho? [/INST][Me.(eos)][INST] Why? [/INST]"),
        (
            templates.HEADER_CHAT,
            "(bos)(<|start_header_id|>)system(<|end_header_id|>)\n\nCutting Knowledge Date: December 2023\n"
            "Today Date: 26 Jul 2024\n\nBe brief.(<|eot_id|>)(<|start_header_id|>)user(<|end_header_id|>)\n\n"
            "Who?(<|eot_id|>)(<|start_header_id|>)assistant(<|end_header_id|>)\n\n[Me.(<|eot_id|>)]"
            "(<|start_header_id|>)user(<|end_header_id|>)\n\nWhy?(<|eot_id|>)"
            "(<|start_header_id|>)assistant(<|end_header_id|>)\n\n",
        ),
        (
            templates.BAR_CHAT,
            "(bos)(<|system|>)\nBe brief.(<|end|>)\n(<|user|>)\nWho?(<|end|>)\n(<|assistant|>)[Me.(<|end|>)\n]"
            "(<|user|>)\nWhy?(<|end|>)\n(<|assistant|>)",
        ),
        (
            templates.CHATML,
            "(<|im_start|>)system\nBe brief.(<|im_end|>)\n(<|im_start|>)user\nWho?(<|im_end|>)\n"
            "(<|im_start|>)assistant\n[Me.(<|im_end|>)]\n(<|im_start|>)user\nWhy?(<|im_end|>)\n"
            "(<|im_start|>)assistant\n",
        ),
    ],
)
def test_a_conversation_with_a_system(template, expected):
    assert shown(template, TOLD) == expected


def test_the_llama_template_has_a_system_turn_only_without_images():
    alone = shown(templates.HEADER_CHAT, TALK)
    assert alone.startswith("(bos)(<|start_header_id|>)system(<|end_header_id|>)\n\nCutting Knowledge Date")
    beside = shown(templates.HEADER_CHAT, TOLD, 1)
    assert "system" not in beside and "\n\n{0}Be brief.\n\nWho?(<|eot_id|>)" in beside


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (templates.PLAIN_PREFIX, "{0}{1}(bos)compare  with|\n"),
        (templates.INST_CHAT, "(bos)[INST] compare {0} with {1} [/INST]"),
        (templates.BAR_CHAT, "(bos)(<|user|>)\ncompare {0}(bos) with {1}(bos)(<|end|>)\n(<|assistant|>)"),
    ],
)
def test_images_stand_where_the_text_marks_them(template, expected):
    assert shown(template, [Turn("user", "compare <image> with <image>")], 2) == expected


def test_images_without_a_mark_come_first_in_the_first_question():
    asked = [TALK[0], TALK[1], Turn("user", "And <image>?")]
    found = shown(templates.INST_CHAT, asked, 3)
    assert found == "(bos)[INST] {0}\n{1}\nWho? [/INST][Me.(eos)][INST] And {2}? [/INST]"
    found = shown(templates.BAR_CHAT, TALK, 2)
    assert found.startswith("(bos)(<|user|>)\n{0}(bos)\n{1}(bos)\nWho?(<|end|>)")
    with pytest.raises(UserError, match="1 <image> marks for 0 images"):
        render(templates.INST_CHAT, asked, 0)


def test_an_image_in_an_answer_is_no_text():
    turns = [TALK[0], Turn("assistant", "It is <image>."), TALK[2]]
    assert "[It is {0}.(eos)]" in shown(templates.INST_CHAT, turns, 1)


def test_a_prompt_ends_with_a_question():
    with pytest.raises(ValueError, match="ends with the user's turn"):
        render(templates.CHATML, TALK[:2], 0)


def test_a_text_that_is_tokenised_apart_joins_nothing():
    assert render(templates.PLAIN_PREFIX, [Turn("user", " a\n")], 0) == [BOS, "a", Apart("\n")]
    jointly = dataclasses.replace(templates.PLAIN_PREFIX, reply=("\n",))
    assert render(jointly, [Turn("user", "a")], 0) == [BOS, "a\n"]
    assert Special("a") != Apart("a")


def test_white_space_around_a_question_goes_where_the_format_says_so():
    asked = [Turn("user", " a\n"), Turn("assistant", " b "), Turn("user", "c ")]
    assert "user\na(<end_of_turn>)" in shown(templates.TURN_CHAT, asked)
    assert "[ b (<end_of_turn>)]" in shown(templates.TURN_CHAT, asked)  # an answer stays as it was written
    assert shown(templates.INST_CHAT, asked) == "(bos)[INST]  a\n [/INST][ b (eos)][INST] c  [/INST]"
