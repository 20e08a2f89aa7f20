"""Compiled programs that evaluate: the scores of candidate answers, for all rolls at once; answers that are written."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from rolltune import adapters
from rolltune.device import compiler_options
from rolltune.models import forward, generate
from rolltune.models.cut import specs_of, trained_specs
from rolltune.models.forward import Network
from rolltune.sharding import CARDS, ROLLS, SPLIT, WHOLE, by_rolls, cards_in_group, size_of
from rolltune.trees import Stacks


def compile_score(
    net: Network, stacks: Stacks, candidates: int, mesh: Mesh | None = None
) -> Callable[..., Float[Array, "r b c"]]:
    """The jitted score of R rolls on one batch: log-probability of each candidate answer as a whole, [R, B, C].

    Over the cards of a mesh, each scores its own rolls; of a group of cards each some rows, of which there are as many
    on each.
    """

    def one(base, source, trainable, scale, batch):
        params = adapters.combine(base, trainable, stacks, scale, cut=net.cut)
        log_probs = forward.log_probs(net, params, batch, source) * batch.weights
        return sum_by_candidate(log_probs, batch.candidates, candidates)

    rolls = jax.vmap(one, in_axes=(None, None, 0, 0, None))
    return by_rolls(rolls, mesh, SPECS, _in_groups(net), ROWS, compiler_options=compiler_options())


SPECS = (WHOLE, WHOLE, SPLIT, SPLIT, WHOLE)  # of a base, a source, what is trained, its scales, a batch
ROWS = PartitionSpec(CARDS)  # of a batch, over the cards of each group


def _in_groups(net: Network) -> Callable[..., Any]:
    """How these lie on cards in groups, and what is worked out for rolls and rows."""

    def specs(base, source, trainable, scale, batch):
        trained = trained_specs(trainable, net.cut or frozenset(), (ROLLS,))
        return (specs_of(base), WHOLE, trained, SPLIT, ROWS), PartitionSpec(ROLLS, CARDS)

    return specs


def sum_by_candidate(
    log_probs: Float[Array, "b m"], candidate: Int[Array, "b m"], candidates: int
) -> Float[Array, "b c"]:
    return jnp.einsum("bm,bmc->bc", log_probs, jax.nn.one_hot(candidate, candidates), precision="highest")


def compile_write(
    net: Network, stacks: Stacks, tokens: int, stops: Sequence[int], mesh: Mesh | None = None
) -> Callable[..., Int[Array, "d b n"]]:
    """The jitted greedy answers of one roll a card on one batch of prompts: [D, B, N] ids. All layers are run.

    Trainables and scales have a leading axis D, see `picked`.
    """

    def one(base: dict, source: Any, trainables: dict, scales: Any, batch: Any) -> Any:
        trainable, scale = jax.tree.map(lambda leaf: leaf[0], (trainables, scales))
        params = adapters.combine(base, trainable, stacks, scale, cut=net.cut)
        return generate.generate(net, params, batch, source, tokens, stops)[None]

    return by_rolls(one, mesh, SPECS, _in_groups(net), ROWS, compiler_options=compiler_options())


@functools.cache
def picked(mesh: Mesh | None) -> Callable[..., Any]:
    """The jitted choice of one roll of each card, or of each group of cards: (leaves [R, ...], its place there) ->
    leaves [D, ...]."""
    if cards_in_group(mesh) > 1:
        by_group = lambda leaf: leaf.reshape(size_of(mesh), -1, *leaf.shape[1:])
        return jax.jit(lambda rolls, place: jax.tree.map(lambda leaf: by_group(leaf)[:, place], rolls))
    return by_rolls(lambda rolls, place: jax.tree.map(lambda leaf: leaf[place][None], rolls), mesh, (SPLIT, WHOLE))
