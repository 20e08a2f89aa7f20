"""Tokenizer, encoding and the order of batches."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from small_model import drawn as pictures_of
from small_model import encoded

from rolltune.families import paligemma
from rolltune.text import tokenizer
from rolltune.tiny import feed, pretraining, tasks, vocabulary


@pytest.fixture(scope="module")
def tokens():
    return tokenizer.load(feed.TOKENIZER)


def test_any_text_comes_back_from_its_tokens(tokens):
    assert (tokens.pad, tokens.eos, tokens.bos, tokens.size) == (0, 1, 2, paligemma.CONFIGS["tiny"].text.vocab)
    for text in ("Is there a red circle?", "  two  spaces ", "$562.99", "広告は合法ですか", "a\nb", "ﬁ Ｆｕｌｌ"):
        assert tokens.decode(tokens.encode(text)) == text
    assert len(tokens.encode("\n")) == 1
    assert tokens.encode("yes") != tokens.encode(" yes")


def test_the_tokenizer_is_trained_alike_every_time(monkeypatch):
    lines = vocabulary.corpus(pictures=60)
    monkeypatch.setattr(vocabulary, "corpus", lambda pictures: lines)
    assert vocabulary.train() == vocabulary.train()


def test_the_batch_made_on_the_device_is_what_encode_gives(tokens):
    config = paligemma.CONFIGS["tiny"]
    drawn = feed.draw(range(3), 2, tokens)
    flat = [field.reshape(-1, *field.shape[2:]) for field in drawn[1:4]]
    batch = pretraining.batch_of(config, *(jnp.asarray(f, jnp.int32) for f in flat), 2)
    pictures, patches = pictures_of(paligemma.FAMILY, config, count=1), config.vision.patches
    for row, seed in enumerate(range(3)):
        picture = tasks.picture(seed, 2)
        for place, question in enumerate(picture.questions):
            want = encoded(pictures, tokens, question.prompt, [question.answer], [0])
            got, length = row * 2 + place, len(want.tokens)
            for name in ("tokens", "positions", "blocks", "segments"):
                assert np.array_equal(getattr(batch, name)[got, :length], getattr(want, name)), name
            assert (batch.segments[got, length:] == -1).all()
            slots = np.asarray(batch.slots[got])  # the picture's rows in the table of all pictures
            assert np.array_equal(slots[:length], np.where(want.slots >= 0, want.slots + row * patches, -1))
            assert (slots[length:] == -1).all()
            weighed = np.asarray(batch.weights[got]) > 0
            assert np.array_equal(batch.predict[got][weighed], want.predict)
            assert np.array_equal(batch.targets[got][weighed], want.targets)
    none = {name: getattr(batch, name).shape for name in ("keys", "seen", "tiles", "aspect")}
    assert none == {"keys": (6, 0), "seen": (6, 0, 2), "tiles": (6, 0, 1, 1, 3), "aspect": (6, 0)}
    assert batch.valid.all() and not batch.label.any() and not batch.candidates.any()


def test_batches_come_in_one_order_however_many_processes_draw():
    found = []
    for workers in (1, 2):
        source = feed.Feed(workers, seed=5, size=2, questions=1, held_out=1)
        found.append(list(itertools.islice(source, 4)))
        source.close()
    for one, two in zip(*found, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(found[0][0].pixels, found[0][1].pixels)


def test_a_picture_is_used_again_with_other_questions(tokens):
    batches = [feed.draw(range(i, i + 1), 4, tokens) for i in range(5)]
    out = list(feed.passes(iter(batches), uses=2, questions=2, apart=3))
    assert len(out) == 5 + 2
    assert np.array_equal(out[4].pixels, batches[0].pixels) and np.array_equal(out[4].text, batches[0].text[:, 2:])
    assert np.array_equal(out[3].pixels, batches[3].pixels) and np.array_equal(out[3].text, batches[3].text[:, :2])


def test_a_patch_knows_its_row_and_column_from_the_start():
    found = pretraining.grid_positions(64, 192).reshape(8, 8, 192)
    gaps = np.linalg.norm(found - found[3, 3], axis=-1)
    assert gaps[3, 3] == 0 and gaps[3, 4] < gaps[3, 5] < gaps[3, 7] and np.allclose(gaps, gaps.T)
    assert len(np.unique(found.reshape(64, -1).round(4), axis=0)) == 64
    config = paligemma.CONFIGS["tiny"]
    assert np.array_equal(pretraining.start(config, 0)["vision"]["position"], found.reshape(64, -1))
