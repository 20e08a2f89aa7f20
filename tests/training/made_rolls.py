"""Draws, and rolls that begin with them."""

import jax

from rolltune.training import rolls as tickets
from rolltune.training.rolls import Draw, Lottery

LOTTERY = Lottery(seed=0, rates=(1.0,), alphas=(4.0,), weight_decays=(0.0,), rank=2)


def drawn(roll: int, seed: int, rate: float, alpha: float = 4.0, weight_decay: float = 0.0) -> Draw:
    return Draw(roll, seed, rate, alpha, weight_decay)


def started(config, start, *draws: Draw):
    """Rolls with something in every adapter: a `b` of zeros would leave half the gradients zero."""
    rolls = tickets.begin(LOTTERY, config, start, draws)
    noise = lambda leaf, n: leaf + 0.05 * jax.random.normal(jax.random.key(n), leaf.shape[1:])
    leaves, tree = jax.tree.flatten(rolls.trainable)
    return rolls._replace(trainable=jax.tree.unflatten(tree, [noise(leaf, n) for n, leaf in enumerate(leaves)]))
