"""Tokenizer, encoding and the order of batches."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import CONFIG, encoded, make_params
from small_model import drawn as pictures_of

from rolltune.families import paligemma
from rolltune.text import tokenizer
from rolltune.tiny import feed, pretrain, pretraining, tasks, vocabulary


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


def test_each_question_is_answered_from_its_own_picture():
    params, draw = make_params(), np.random.default_rng(0)
    pixels = jnp.asarray(draw.uniform(-1, 1, (2, 28, 28, 3)), jnp.float32)
    text = np.zeros((2, 3, feed.TEXT), np.int16)
    text[..., :9] = draw.integers(3, 60, (2, 3, 9))
    fields = [jnp.asarray(one) for one in (text, np.full((2, 3), 6, np.int16), np.full((2, 3), 9, np.int16))]
    run = jax.jit(lambda seen: pretraining.answer_logits(CONFIG, params, seen, fields))
    logits, batch = run(pixels)
    assert logits.shape == (6, feed.TEXT, CONFIG.text.vocab)
    other, _ = run(pixels.at[0].multiply(-1))
    weighed = np.asarray(batch.weights) > 0
    apart = [float(abs(logits[n][weighed[n]] - other[n][weighed[n]]).max()) for n in range(6)]
    assert min(apart[:3]) > 1e-4 and max(apart[3:]) < 1e-6


@pytest.mark.parametrize("broken", [False, True])
def test_the_processes_that_draw_are_ended_however_the_training_ends(monkeypatch, broken):
    ended, ran = [], []

    class Feed:
        def __init__(self, workers, seed, batch, asked, held_out):
            ran.append((workers, seed, batch, asked, held_out))

        def close(self):
            ended.append(True)

    def run(args, feed, held_out):
        ran.append(held_out)
        if broken:
            raise KeyboardInterrupt

    monkeypatch.setattr(feed, "Feed", Feed)
    monkeypatch.setattr(pretraining, "run", run)
    typed = ["--output=t.npz", "--steps=3", "--batch=8", "--workers=2", "--seed=4", "--questions=4", "--uses=2"]
    with pytest.raises(KeyboardInterrupt) if broken else contextlib.nullcontext():
        assert pretrain.main([*typed, "--held-out=20"]) == 0
    assert ran == [(2, 5, 8, 8, 2), 2] and ended == [True]
    if not broken:
        assert pretrain.main([*typed, "--held-out=1"]) == 0 and ran[-1] == 1  # a batch at least


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
