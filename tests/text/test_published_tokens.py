"""Rows equal, token for token, what the families' own processors made of the same texts."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
from made_pictures import crossing, picture

from rolltune.data.examples import Turn
from rolltune.text import templates
from rolltune.text.encode import classify_row, encode

TEXT = r"^'(.*)'$"
IMAGE_IDS = {"paligemma": 257152, "llava_next": 32000}


@pytest.fixture
def stored(shared):
    """`stored("mllama")`: (what is in the name, entry) of one family's entries, run lengths undone."""

    def entries(family: str) -> list[tuple[list[str], dict]]:
        found = []
        for name, entry in json.loads(shared("oracle/tokens.json").read_text()).items():
            first, *rest = name.split(" | ")
            if first.split(" ")[0] == family:
                parts = [re.sub(TEXT, r"\1", part).replace("\\n", "\n") for part in rest]
                entry = entry if isinstance(entry, dict) else {"input_ids": entry}
                entry = {key: spread(value) if isinstance(value, list) else value for key, value in entry.items()}
                found.append(([first, *parts], entry))
        return found

    return entries


def spread(ids: list) -> list[int]:
    return [each for part in ids for each in (itertools.repeat(*part) if isinstance(part, list) else [part])]


def sequence(row, image: int = 0, number=None) -> list[int]:
    """The row's ids with `image` where features stand (or -1, -2, ... by picture), and the last target behind."""
    ends = np.cumsum(row.counts)
    ids = []
    for token, slot in zip(row.tokens.tolist(), row.slots.tolist(), strict=True):
        ids.append(token if slot < 0 else -1 - int(np.searchsorted(ends, slot, "right")) if number else image)
    return [*ids, *row.targets[-1:].tolist()]


def test_paligemma(stored, published):
    # transformers tokenises the newline together with the prompt, and takes no white space off.
    jointly = dataclasses.replace(templates.PLAIN_PREFIX, reply=("\n",), strip=False)
    alone = dataclasses.replace(templates.PLAIN_PREFIX, strip=False)
    entries = [(*entry, template) for family, template in (("paligemma", jointly), ("big_vision", alone))
               for entry in stored(family)]  # fmt: skip
    assert len(entries) == 7
    for (family, prompt, answer), entry, template in entries:
        pictures = [picture(256)] if family == "paligemma" else []
        row = encode(template, published("paligemma"), 0, [Turn("user", prompt)], [answer], pictures)
        assert sequence(row, 257152) == entry["input_ids"], prompt
        start = len(entry["input_ids"]) - len(row.targets)
        assert row.blocks.tolist() == [0] * start + list(range(1, len(row.targets)))
        np.testing.assert_array_equal(row.segments, row.blocks > 0)
        if "labels" in entry:
            assert [-100] * start + row.targets.tolist() == entry["labels"]
            assert entry["token_type_ids"] == [0] * start + [1] * len(row.targets)


def test_gemma(stored, published):
    (_, plain), = stored("gemma2")  # fmt: skip
    (_, chat), = stored("gemma2-it")  # fmt: skip
    turns = [Turn("user", "The movie was great.")]
    row, cut = classify_row(templates.BARE_TEXT, published("gemma"), 0, turns, [1], [])
    assert (row.tokens.tolist(), cut) == (plain["input_ids"], 0)
    row = encode(templates.TURN_CHAT, published("gemma"), 0, [Turn("user", "Hello")], [], [])
    assert row.tokens.tolist() == chat["input_ids"]


def test_mllama(stored, published):
    (_, ids), (chat, expected), (base, begun) = sorted(stored("mllama"), key=lambda entry: entry[0][1] != "special ids")
    for name, number in ids.items():
        assert published("llama3").special(name) == number
    assert chat[1].startswith("<|begin_of_text|>") and base[1] == "<|image|>If I had to write"
    turns = [Turn("user", "What is shown in this image?")]
    row = encode(templates.HEADER_CHAT, published("llama3"), 0, turns, ["A cat."], [crossing(4)])
    assert [*row.tokens, row.targets[-1]] == expected["input_ids"]
    assert row.seen[:, 1].tolist() == expected["cross_attention_mask_rows"][:-1]
    assert not row.seen[:, 0].any() and row.slots.max() == -1
    turns = [Turn("user", "If I had to write")]
    row = encode(templates.HEADER_TEXT, published("llama3"), 0, turns, [], [crossing(4)])
    assert row.tokens.tolist() == begun["input_ids"]


def test_llava(stored, published):
    entries = stored("llava_next")
    assert len(entries) == 4
    for _, entry in entries:
        turns, places = [Turn("user", "What is shown in this image?")], entry["n_image"]
        row = encode(templates.INST_CHAT, published("mistral"), 1, turns, ["A cat."], [picture(places, learned=1)])
        assert sequence(row, 32000) == entry["input_ids"]
        assert row.targets.tolist() == [330, 5255, 28723, 2]


def test_phi(stored, published):
    (_, one), (_, two), (_, none) = stored("phi3v")
    ask = lambda text, answers, *pictures: encode(
        templates.BAR_CHAT, published("phi3"), 0, [Turn("user", text)], answers, pictures
    )
    row = ask("What is shown in this image?", ["A cat."], picture(469))
    assert sequence(row, number=True) == one["input_ids"]
    assert row.targets.tolist() == [319, 6635, 29889, 32007, 29871, 13, 32000]
    assert sequence(ask("Compare.", [], picture(469), picture(757)), number=True) == two["input_ids"]
    assert sequence(ask("Hi", [])) == none["input_ids"]
    # A mark in the text is where the processor has <|image_1|>\n.
    assert sequence(ask("<image>\n<image>\nCompare.", [], picture(469), picture(757)), number=True) == two["input_ids"]
