"""Rows, draws and starts for the tests of training."""

import jax
import pytest
from small_families import FAMILIES, PALIGEMMA, Prepared, name_of
from small_model import make_example

from rolltune.data.batches import Encoded
from rolltune.data.shapes import shapes_for
from rolltune.training import rolls as tickets
from rolltune.training.rolls import Draw, Lottery

LOTTERY = Lottery(seed=0, rates=(1.0,), alphas=(4.0,), weight_decays=(0.0,), rank=2)


@pytest.fixture(scope="session", params=FAMILIES, ids=name_of)
def small(request):
    return request.param


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """What adapters on the first of the families are trained with."""
    return PALIGEMMA.prepare()


def drawn(roll: int, seed: int, rate: float, alpha: float = 4.0, weight_decay: float = 0.0) -> Draw:
    return Draw(roll, seed, rate, alpha, weight_decay)


def started(config, start, *draws: Draw):
    """Rolls with something in every adapter: a `b` of zeros would leave half the gradients zero."""
    rolls = tickets.begin(LOTTERY, config, start, draws)
    noise = lambda leaf, n: leaf + 0.05 * jax.random.normal(jax.random.key(n), leaf.shape[1:])
    leaves, tree = jax.tree.flatten(rolls.trainable)
    return rolls._replace(trainable=jax.tree.unflatten(tree, [noise(leaf, n) for n, leaf in enumerate(leaves)]))


@pytest.fixture(scope="session")
def encoded_rows(prepared):
    """`encoded_rows(answers)`: rows with these answers, each with the picture of its number, and their examples."""

    def make(answers, prompts=("is it?",)):
        examples = [make_example(n, prompts[n % len(prompts)], answer) for n, answer in enumerate(answers)]
        rows = [PALIGEMMA.row(one.prompt, one.answer, shown=[n % 8]) for n, one in enumerate(examples)]
        return Encoded(rows, prepared.feed, shapes_for([prepared.feed.shape(row) for row in rows]), list(answers))

    return make
