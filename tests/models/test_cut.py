"""Which matrices lie in parts over the cards of a group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_families import PALIGEMMA

from rolltune import trees
from rolltune.models import attention, decoder
from rolltune.models.cut import EMBEDDING, Cut, can_be_cut
from rolltune.quantize import encode_int8, encode_nf4
from rolltune.sharding import CARDS


def plain(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("path", "leaf", "cards", "expected"),
    [
        ("a/kernel", plain(8, 16), 4, True),
        ("a/kernel", plain(3, 256, 100), 4, True),
        (EMBEDDING, plain(96, 32), 4, True),
        ("text/positions/embedding", plain(96, 32), 4, False),
        ("text/norm/scale", plain(2, 256), 4, False),
        ("text/classes/kernel", plain(32, 4), 4, False),
        ("a/kernel", plain(30, 16), 4, False),  # rows that four cards do not divide
        ("a/kernel", plain(30, 16), 3, True),
        ("a/kernel", plain(100, 60), 4, False),  # in eight bits as one, a card's part is too small for it
        ("a/kernel", plain(512, 33), 4, False),  # a block would lie on two cards
        ("a/kernel", encode_nf4(plain(64, 128)), 4, True),
        ("a/kernel", encode_nf4(plain(30, 128)), 4, False),
        ("a/kernel", encode_nf4(plain(30, 128), double=False), 3, True),
        ("a/kernel", encode_nf4(plain(6, 64)), 4, False),
        ("a/kernel", encode_int8(plain(64, 30)), 4, True),
        ("a/kernel", encode_int8(plain(30, 64)), 4, False),
    ],
)
def test_what_can_be_cut(path, leaf, cards, expected):
    assert can_be_cut(path, leaf, cards) == expected


def test_each_layer_that_is_cut_waits_for_its_input_where_one_token_is_written():
    """Without that all layers would come together at once, ahead of it."""
    config, params = PALIGEMMA.model.config.text, trees.unflatten(trees.flatten(PALIGEMMA.params))
    layers = trees.arrange(params, PALIGEMMA.model.stacks, listed=True)["text"]["layers"]
    in_parts = [
        trees.unflatten(
            {path: Cut(leaf) if path.endswith("kernel") else leaf for path, leaf in trees.flatten(p).items()}
        )
        for p in layers
    ]
    kv = [(jnp.zeros((1, 4, config.kv_heads, config.head_dim)),) * 2] * len(layers)
    angles = attention.rope_angles(config.rope, jnp.zeros((1, 1), int), config.head_dim, jnp.ones(1, int))
    now = decoder.Context(angles, jnp.ones((1, 1, 4), bool), None)

    def waits(layers):
        write = lambda x: decoder.run(config, layers, x, now, cache=(kv, jnp.asarray(3)))[0]
        traced = jax.make_jaxpr(jax.vmap(write, axis_name=CARDS))(jnp.zeros((1, 1, 1, config.width)))
        return str(traced).count("= optimization_barrier")

    assert waits(in_parts) - waits(layers) == len(layers) > 1
