"""Pictures and texts become what the published models were trained on."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from small_model import drawn, encoded, make_row

from rolltune.families import paligemma
from rolltune.text import tokenizer

PICTURES = ["wide", "tall", "small", "sq", "huge"]


@pytest.fixture
def resized(shared):
    """`resized("wide", "bicubic")`: a stored picture as `pixels` gives it, at 224 x 224."""
    with np.load(shared("oracle/preproc/images.npz")) as file:
        pictures = dict(file)

    def resize(name: str, kind: str) -> np.ndarray:
        config = dataclasses.replace(paligemma.CONFIGS["paligemma-3b-224"], resize=kind)
        (tile,) = paligemma.picture(config, Image.fromarray(pictures[name])).pixels
        return tile

    return resize


@pytest.mark.parametrize("name", PICTURES)
def test_bilinear_pixels_equal_those_of_big_vision(shared, resized, name):
    with np.load(shared("oracle/preproc/big_vision_tf.npz")) as theirs:
        exact, rounded = theirs[f"{name}_224_colab"], theirs[f"{name}_224_pp"]
    ours = resized(name, "bilinear_float")
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours / 127.5 - 1, exact, atol=5e-4)
    ours = resized(name, "bilinear")
    assert ours.dtype == np.uint8
    levels = np.abs(ours.astype(int) - np.rint((rounded + 1) * 127.5).astype(int))
    # Truncation: where two libraries differ in the last bit around a whole number, they differ by one level.
    assert levels.max() <= 1 and np.count_nonzero(levels) <= levels.size / 1000, np.count_nonzero(levels)


@pytest.mark.parametrize("name", PICTURES)
def test_bicubic_pixels_equal_those_of_transformers(shared, resized, name):
    with np.load(shared("oracle/preproc/hf_slow_4_45.npz")) as theirs:
        expected = np.rint((theirs[f"{name}/paligemma"].transpose(1, 2, 0) + 1) * 127.5)
    np.testing.assert_array_equal(resized(name, "bicubic"), expected)


def test_token_ids_equal_those_of_the_published_tokenizers(shared):
    known = tokenizer.load(shared("tokenizers/paligemma_derived/tokenizer.model"))
    stored = json.loads(shared("oracle/tokens.json").read_text())
    config = paligemma.CONFIGS["paligemma-3b-224"]
    pictures, compared = drawn(paligemma.FAMILY, config, count=1), 0
    as_given = dataclasses.replace(paligemma.FAMILY.template, strip=False)  # theirs takes no white space off
    for name, ids in stored.items():
        family, *texts = name.split(" | ")
        if family != "big_vision":
            continue
        prompt, answer = (text[1:-1].replace("\\n", "\n") for text in texts)
        row = encoded(pictures, known, prompt, [answer], [0], template=as_given)
        assert [*row.tokens[256:], row.targets[-1]] == ids, name
        # Every answer token, and the end of sequence, is predicted from the place before it.
        start = 256 + len(ids) - len(row.targets)
        np.testing.assert_array_equal(row.predict, np.arange(start - 1, 256 + len(ids) - 1))
        np.testing.assert_array_equal(row.targets, ids[start - 256 :])
        theirs = stored.get(name.replace("big_vision", "paligemma"))
        if theirs and not prompt.endswith("\n"):  # transformers tokenises the newlines together
            labels = [label for label in theirs["labels"] if isinstance(label, int)]
            assert row.targets.tolist() == labels
        compared += 1
    assert compared == 3


def test_candidates_share_the_prompt_and_go_on_from_it():
    row = make_row("abc", "de", "f")
    length = 4 + 1 + 3 + 1  # image, bos, three letters, newline
    assert row.tokens[:length].tolist() == [0, 0, 0, 0, 2, 4, 5, 6, 3]
    assert row.slots.tolist() == [0, 1, 2, 3] + [-1] * (len(row.tokens) - 4)
    np.testing.assert_array_equal(row.segments, [0] * length + [1, 1, 2])
    np.testing.assert_array_equal(row.blocks, [0] * length + [1, 2, 1])
    np.testing.assert_array_equal(row.positions, [*range(length), length, length + 1, length])
    np.testing.assert_array_equal(row.predict, [length - 1, length, length + 1, length - 1, length + 2])
    np.testing.assert_array_equal(row.targets, [7, 8, 1, 9, 1])
    np.testing.assert_array_equal(row.candidates, [0, 0, 0, 1, 1])
