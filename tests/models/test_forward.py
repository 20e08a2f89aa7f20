"""Where pictures stand: a slot says which row is a token's input, anywhere in the text, however many there are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_families import FAMILIES, log_probs, name_of
from small_model import CONFIG, FEED, NET, PICTURES, Letters, encoded, make_batch, make_params, make_row

from rolltune.batch import NOTHING, Source
from rolltune.models import decoder, forward
from rolltune.models.forward import Network
from rolltune.text.templates import Template

near = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
CHAT = Template(start=(), stop=())  # a text and nothing around it; pictures stand where it has their marks


class Numbers(Letters):
    """A tokenizer of what is numbers already."""

    def encode(self, text):
        return [int(word) for word in text.split()]


@pytest.fixture(scope="module")
def params():
    return make_params()


@pytest.fixture(scope="module")
def features(params):
    """Rows of the pictures 0 to 7 past the projector, [8, 4, D]."""
    tiles = np.stack([PICTURES.open(key).pixels for key in PICTURES.sizes])
    rows = forward.feature_rows(NET, params, tiles, np.zeros((8, 1), np.int32))
    return np.asarray(NET.family.project(CONFIG, params, rows))


def embedded(params, *rows) -> np.ndarray:
    batch = make_batch(*rows)
    return np.asarray(forward.embed(NET, params, batch, forward.picture_rows(NET, params, batch, NOTHING)))


def test_a_picture_stands_between_the_words_where_its_mark_is(params, features):
    row = encoded(PICTURES, Numbers(), "2 5 6 <image> 7 8 9", ["11"], [3], template=CHAT)
    assert row.tokens.tolist() == [2, 5, 6, 0, 0, 0, 0, 7, 8, 9] and row.targets.tolist() == [11]
    assert row.slots.tolist() == [-1, -1, -1, 0, 1, 2, 3, -1, -1, -1]
    (found,) = embedded(params, row)
    words = np.asarray(decoder.embed(CONFIG.text, params["text"], row.tokens[None], "float32"))[0]
    near(found[3:7], features[3])
    for place in (0, 1, 2, 7, 8, 9):
        np.testing.assert_array_equal(found[place], words[place])
    assert np.abs(found[3:7] - words[3:7]).max() > 0.1


def test_several_pictures_stand_in_their_order_and_each_in_its_place(params, features):
    both = encoded(PICTURES, Numbers(), "2 <image> 5 <image> 6", ["11"], [6, 1], template=CHAT)
    without = encoded(PICTURES, Numbers(), "2 5 6", ["11"], [], template=CHAT)
    twice = encoded(PICTURES, Numbers(), "<image> <image>", ["11"], [2, 2], template=CHAT)
    found = embedded(params, both, without, twice)
    near(found[0, 1:5], features[6])
    near(found[0, 6:10], features[1])
    near(found[2, :4], features[2])
    near(found[2, 4:8], features[2])
    words = np.asarray(decoder.embed(CONFIG.text, params["text"], without.tokens[None], "float32"))[0]
    np.testing.assert_array_equal(found[1, :3], words)


def test_learned_vectors_stand_between_the_rows_of_a_picture(params, features):
    """A family with two: slots below 2 are theirs, and row i of the table is slot 2 + i."""
    learned = lambda config, params: jnp.stack([jnp.full(32, 7.0), jnp.full(32, -7.0)])
    family = dataclasses.replace(NET.family, learned_count=2, learned=learned)
    net = Network(family, CONFIG, projected=True)
    one, other = np.array([-1, *range(2, 6), 0, 1]), np.array([1, 9, 8, 7, 6, -1, -1])
    batch = make_batch(make_row("ab", "c"), make_row("de", "f"))
    batch = batch._replace(slots=np.stack([one, other]), tokens=np.full((2, 7), 5), tiles=batch.tiles[:, :0])
    source = Source(jnp.asarray(features[:2].reshape(8, 32)))
    x = forward.embed(net, params, batch, forward.picture_rows(net, params, batch, source))
    word = decoder.embed(CONFIG.text, params["text"], np.array([[5]]), "float32")[0, 0]
    near(x[0], np.stack([word, *features[0], np.full(32, 7.0), np.full(32, -7.0)]))
    near(x[1], np.stack([np.full(32, -7.0), *features[1, ::-1], word, word]))


@pytest.mark.parametrize("small", FAMILIES, ids=name_of)
def test_rows_with_and_without_pictures_stand_side_by_side(small):
    rows = [small.row("a b", "cd", shown=shown) for shown in ([2, 1], [1, 2], [2], [])]
    room = small.room(16, 4, pictures=2)
    alone = [np.asarray(log_probs(small.net, small.ready, small.batch(row, size=4, room=room), NOTHING))[0]
             for row in rows]  # fmt: skip
    assert len({round(float(found[0]), 3) for found in alone}) == 4
    together = log_probs(small.net, small.ready, small.batch(*rows, room=room), NOTHING)
    near(together, alone)
    # Without tiles at all, as where no row of the data has a picture: another program, the same number.
    text = small.batch(rows[3])
    assert text.tiles.shape[1] == 0
    near(log_probs(small.net, small.ready, text, NOTHING)[0, :3], alone[3][:3])


def test_a_gather_passes_gradients_to_each_row_that_is_read(params):
    rows = [make_row("a b", "cd", shown=[1, 2]), make_row("e", "f", shown=[2])]
    batch = make_batch(*rows)
    starts = [[4, 5, 6, 7, 8, 9, 10, 11], [8, 9, 10, 11]]  # of 16 rows in a table
    slots = batch.slots.copy()
    for place, own in enumerate(starts):
        slots[place, : len(own)] = own
    batch = batch._replace(slots=slots, tiles=batch.tiles[:, :0])
    table = jax.random.normal(jax.random.key(0), (16, CONFIG.vision.width))
    loss = lambda values: -jnp.sum(forward.log_probs(NET, params, batch, Source(values)) * batch.weights)
    gradient = np.abs(jax.jit(jax.grad(loss))(table)).max(1)
    assert np.all(gradient[4:12] > 0) and not gradient[:4].any() and not gradient[12:].any()


def test_a_batch_has_the_axes_of_what_is_in_it():
    assert FEED.shape(make_row("a", "b", shown=[])).tiles == 0
    assert make_batch(make_row("a", "b", shown=[]), make_row("a", "b", shown=[1, 2])).tiles.shape == (2, 2, 28, 28, 3)
