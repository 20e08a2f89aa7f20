"""Rows: who sees whom, what predicts what, which rows of which picture stand where, and what is cut."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_pictures import crossing, picture
from small_model import Letters
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from rolltune.data.examples import Turn
from rolltune.errors import UserError
from rolltune.text import templates, tokenizer
from rolltune.text.encode import Picture, answer_text, classify_row, encode, fitting, stop_ids
from rolltune.text.templates import Template
from rolltune.tiny.feed import TOKENIZER

TINY = tokenizer.load(TOKENIZER)
PLAIN = templates.PLAIN_PREFIX
# A chat that every tokenizer has the tokens for, with something in each place that a template has.
CHAT = Template(
    system=(("S",), ("s",)),
    user=(("U",), ("u",)),
    reply=("A",),
    last_stop=(templates.EOS,),
    between=("b",),
    image_end=(templates.BOS,),
    image_line="\n",
    image_token=templates.EOS,
)
TALK = [Turn("user", "is it red"), Turn("assistant", "yes"), Turn("user", "is it round")]


def ids(text: str) -> list[int]:
    return TINY.encode(text)


def test_candidates_share_the_prompt_and_go_on_from_it():
    row = encode(PLAIN, TINY, 0, [Turn("user", "is it red")], ["yes", "no", ""], [picture(2)], 1)
    prompt = [0, 0, TINY.bos, *ids("is it red"), *ids("\n")]
    start, yes, no = len(prompt), len(ids("yes")), len(ids("no"))
    assert row.tokens.tolist() == prompt + ids("yes") + ids("no")
    np.testing.assert_array_equal(row.segments, [0] * start + [1] * yes + [2] * no)
    np.testing.assert_array_equal(row.blocks, [0] * start + [*range(1, yes + 1), *range(1, no + 1)])
    np.testing.assert_array_equal(row.positions, [*range(start), *range(start, start + yes), *range(start, start + no)])
    assert row.targets.tolist() == [*ids("yes"), TINY.eos, *ids("no"), TINY.eos, TINY.eos]
    assert row.candidates.tolist() == [0] * (yes + 1) + [1] * (no + 1) + [2]
    assert row.predict.tolist() == [
        start - 1, *range(start, start + yes), start - 1, *range(start + yes, start + yes + no), start - 1,
    ]  # fmt: skip
    assert row.label == 1 and {each.dtype for each in row[:8]} == {np.dtype(np.int32)}
    causal = encode(CHAT, TINY, 0, [Turn("user", "is it red")], ["yes", "no"], [])
    np.testing.assert_array_equal(causal.blocks, causal.positions)


def test_without_answers_a_row_is_the_prompt():
    row = encode(CHAT, TINY, 0, TALK, [], [], all_turns=True)
    assert row.tokens.tolist()[-len(ids("A")) :] == ids("A")
    assert len(row.predict) == len(row.targets) == len(row.candidates) == 0 and not row.segments.any()


def test_every_turn_is_trained_where_wanted():
    last = encode(CHAT, TINY, 0, TALK, ["no"], [])
    every = encode(CHAT, TINY, 0, TALK, ["no"], [], all_turns=True)
    assert last.targets.tolist() == [*ids("no"), TINY.eos, TINY.eos]
    assert every.targets.tolist() == [*ids("yes"), TINY.eos, *ids("no"), TINY.eos, TINY.eos]
    earlier = len(ids("yes")) + 1
    assert not every.candidates.any() and not every.segments[every.predict[:earlier] + 1].any()
    np.testing.assert_array_equal(every.tokens, last.tokens)
    # What is seen both ways can't be trained: it would be its own input.
    both = dataclasses.replace(CHAT, prefix_lm=True)
    assert encode(both, TINY, 0, TALK, ["no"], [], all_turns=True).targets.tolist() == last.targets.tolist()
    with pytest.raises(ValueError, match="one or the other"):
        encode(CHAT, TINY, 0, TALK, ["no", "yes"], [], all_turns=True)


WORDS = st.text("abc \n?é😀", max_size=8)


@given(
    asked=st.lists(st.tuples(WORDS, WORDS), max_size=2),
    question=WORDS,
    answers=st.lists(WORDS, min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 3), max_size=3),
    template=st.sampled_from([PLAIN, CHAT, dataclasses.replace(CHAT, prefix_lm=True)]),
    every=st.booleans(),
)
def test_each_target_is_what_comes_next_for_the_one_who_predicts_it(asked, question, answers, sizes, template, every):
    turns = [turn for pair in asked for turn in map(Turn, ("user", "assistant"), pair)] + [Turn("user", question)]
    pictures = [picture(size, number, learned=2) for number, size in enumerate(sizes)]
    row = encode(template, TINY, 2, turns, answers, pictures, all_turns=every and len(answers) == 1)
    start = int(np.sum(row.segments == 0))
    for place, target, candidate in zip(row.predict, row.targets, row.candidates, strict=True):
        own = row.segments[place]
        assert own in (0, candidate + 1)
        # The next place that the predictor's successor takes: in the prompt, or in this candidate's segment.
        here = (row.segments == 0) if place < start - 1 else (row.segments == candidate + 1)
        after = np.flatnonzero(here & (row.positions == row.positions[place] + 1))
        assert len(after) <= 1
        if len(after):
            assert row.tokens[after[0]] == target and row.slots[after[0]] == -1
            assert row.blocks[after[0]] > row.blocks[place]  # or it would see its own answer
        else:
            assert target == TINY.eos or place == row.predict[row.candidates == candidate][-1]
    # The answers in the row are what the tokenizer makes of each alone.
    for number, answer in enumerate(answers):
        said = row.targets[row.candidates == number].tolist()
        assert said[-1 - len(template.last_stop) - len(ids(answer)) :][: len(ids(answer))] == ids(answer)
    # Every row of every picture stands in the text once, in order.
    assert row.slots[row.slots >= 0].tolist() == list(range(2, 2 + sum(sizes)))
    assert row.counts == tuple(sizes) and row.pictures == tuple(range(len(sizes)))


def test_own_learned_and_picture_rows_stand_where_the_family_says():
    first = Picture("a", np.array([2, 0, 3, 1], np.int32), np.zeros(0, np.int32), 2)
    second = Picture("b", np.array([4, 1], np.int32), np.zeros(0, np.int32), 5)
    row = encode(templates.PLAIN_PREFIX, TINY, 2, [Turn("user", "a")], [], [first, second])
    assert row.slots[:6].tolist() == [2, 0, 3, 1, 6, 1] and set(row.slots[6:]) == {-1}
    assert (row.pictures, row.counts) == (("a", "b"), (2, 5))
    with pytest.raises(ValueError, match="a has 2 rows, and 2 is asked for"):
        encode(PLAIN, TINY, 2, [Turn("user", "a")], [], [first._replace(slots=np.array([4], np.int32))])


def test_text_sees_the_last_pictures_that_stand_side_by_side():
    turns = [Turn("user", "a<image><image>b"), Turn("assistant", "c"), Turn("user", "d<image>e")]
    template = dataclasses.replace(CHAT, image_end=())
    row = encode(template, TINY, 0, turns, ["yes", "no"], [crossing(3), crossing(2), crossing(4)])
    one, two, three = np.flatnonzero((row.tokens == TINY.eos) & (row.segments == 0))[[0, 1, 3]]
    assert two == one + 1 and set(row.slots) == {-1}
    assert row.keys.tolist() == list(range(9)) and row.counts == (3, 2, 4)
    expected = np.zeros((len(row.tokens), 2), int)
    expected[one:] = 0, 3
    expected[two:] = 0, 5
    expected[three:] = 5, 9  # answers, too
    np.testing.assert_array_equal(row.seen, expected)
    assert encode(template, TINY, 0, TALK, [], [picture(3)]).keys.shape == (0,)


@pytest.mark.parametrize("training", [True, False])
def test_a_classifiers_row_asks_its_last_token(training):
    turns, ended = [Turn("user", "is it red")], dataclasses.replace(templates.BARE_TEXT, row_end=(templates.EOS,))
    for template, end in ((templates.BARE_TEXT, []), (ended, [TINY.eos])):
        classes, label = ([2], 0) if training else (range(3), 2)
        row, cut = classify_row(template, TINY, 0, turns, classes, [], label)
        assert row.tokens.tolist() == [TINY.bos, *ids("is it red"), *end] and cut == 0
        last = len(row.tokens) - 1
        asked = [row.predict.tolist(), row.targets.tolist(), row.candidates.tolist(), row.label]
        assert asked == ([[last], [2], [0], 0] if training else [[last] * 3, [0, 1, 2], [0, 1, 2], 2])
        np.testing.assert_array_equal(row.blocks, np.arange(last + 1))


def test_a_classifiers_text_is_cut_as_a_tokenizer_would(shared):
    """As `tokenizer(text, max_length=..., truncation=True)` with an eos that its post-processor adds."""
    folder, text = shared("tokenizers/gemma"), "This is a long text about nothing. " * 4
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.post_processor = TemplateProcessing("<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)])
    whole = len(theirs.encode(text).ids)
    ended = dataclasses.replace(templates.BARE_TEXT, row_end=(templates.EOS,))
    ours = tokenizer.load(folder / "tokenizer.model")
    for limit in (whole + 1, whole, whole - 1, 10):
        theirs.enable_truncation(limit)
        expected = theirs.encode(text).ids
        row, cut = classify_row(ended, ours, 0, [Turn("user", text)], [0], [], limit=limit)
        assert row.tokens.tolist() == expected and cut == whole - len(expected)
        assert row.predict.tolist() == [len(expected) - 1]


def test_a_picture_is_never_cut():
    template = dataclasses.replace(templates.BARE_TEXT, row_end=(templates.EOS,))
    make = lambda limit: classify_row(template, TINY, 0, [Turn("user", "red")], [0], [picture(4)], limit=limit)
    row, cut = make(5)
    assert row.slots.tolist() == [0, 1, 2, 3, -1] and cut == 1 + len(ids("red"))
    with pytest.raises(UserError, match="can't be cut to 4: 5 of them are pictures"):
        make(4)


class Knows(Letters):
    """Letters that have these special tokens, and no others."""

    def special(self, name):
        if name not in self.specials:
            raise UserError(f"no {name}")
        return super().special(name)


def test_the_format_is_the_first_whose_tokens_are_there():
    formats = (templates.HEADER_CHAT, templates.CHATML)
    headers = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")
    chatml = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert fitting(formats, Knows(*headers)) is templates.HEADER_CHAT
    assert fitting(formats, Knows(*chatml)) is templates.CHATML
    assert fitting(formats, Knows(*headers, *chatml)) is templates.HEADER_CHAT
    assert fitting(formats, Knows(*headers[1:])) is templates.HEADER_CHAT  # whose missing token is then named
    assert fitting(formats[1:], TINY) is templates.CHATML


def test_generated_text_ends_at_any_stop(published):
    phi = published("phi3")
    assert stop_ids(templates.BAR_CHAT, phi) == (32007, 32000, 2)
    assert answer_text(templates.BAR_CHAT, phi, [319, 6635, 29889, 32007, 29871, 319]) == "A cat."
    said = [*TINY.encode(" yes"), TINY.eos, 5]
    assert answer_text(templates.BARE_TEXT, TINY, said) == "yes"


def test_encoding_takes_little_beside_the_tokenizer(published):
    gemma, text = published("gemma"), "It was a good day. " * 33
    assert 190 <= len(gemma.encode(text)) <= 210

    def fastest(work) -> float:
        times = []
        for _ in range(50):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    turns, pieces = [Turn("user", text)], ("user\n" + text, "\n", "model\n", "good")
    row = fastest(lambda: encode(templates.TURN_CHAT, gemma, 0, turns, ["good"], []))
    alone = fastest(lambda: [gemma.encode(piece) for piece in pieces])
    assert row - alone < 150e-6
