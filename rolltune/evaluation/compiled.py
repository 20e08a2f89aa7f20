"""Compiled programs that evaluate: the scores of candidate answers, for all rolls at once; answers that are written."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from rolltune import adapters
from rolltune.device import compiler_options, options_of_loops
from rolltune.models import forward, generate
from rolltune.models.cut import specs_of, trained_specs
from rolltune.models.forward import Network
from rolltune.models.generate import Sampling
from rolltune.sharding import CARDS, ROLLS, SPLIT, WHOLE, by_rolls, cards_in_group, size_of
from rolltune.trees import Stacks


def compile_score(
    net: Network, stacks: Stacks, candidates: int, mesh: Mesh | None = None, per_token: bool = False
) -> Callable[..., Float[Array, "r b c"]]:
    """The jitted score of R rolls on one batch: log-probability of each candidate answer as a whole, [R, B, C], or
    with `per_token` the mean of its tokens', the end among them.

    Over the cards of a mesh, each scores its own rolls; of a group of cards each some rows, of which there are as many
    on each.
    """

    def one(base, source, trainable, scale, batch):
        params = adapters.combine(base, trainable, stacks, scale, cut=net.cut)
        log_probs = forward.log_probs(net, params, batch, source) * batch.weights
        whole = sum_by_candidate(log_probs, batch.candidates, candidates)
        if not per_token:
            return whole
        return whole / jnp.maximum(sum_by_candidate(batch.weights, batch.candidates, candidates), 1)

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


WRITERS = "writers"


def compile_write(
    net: Network,
    stacks: Stacks,
    tokens: int,
    stops: Sequence[int],
    mesh: Mesh | None = None,
    sampling: Sampling | None = None,
) -> Callable[..., Int[Array, "r b n"]]:
    """The jitted answers of R rolls to (one batch of prompts, its rows' numbers [B]): [R, B, N] ids.

    All layers are run. The rolls write side by side: a token reads the base once for all of them.
    """

    def one(base: dict, source: Any, trainable: dict, scale: Any, asked: Any) -> Any:
        params, (batch, numbers) = adapters.combine(base, trainable, stacks, scale, cut=net.cut), asked
        return generate.generate(net, params, batch, source, tokens, stops, WRITERS, sampling, numbers)

    rolls = jax.vmap(one, in_axes=(None, None, 0, 0, None), axis_name=WRITERS)
    # Not of a group of cards, which speak with each other in every step.
    options = options_of_loops() if net.cut is None else compiler_options()
    return by_rolls(rolls, mesh, SPECS, _in_groups(net), ROWS, compiler_options=options)


@functools.cache
def picked(mesh: Mesh | None, count: int) -> Callable[..., Any]:
    """The jitted choice of `count` rolls of each card, or of each group of cards: (leaves [R, ...], the first one's
    place there) -> leaves."""

    def some(rolls: Any, place: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, place, count), rolls)

    if cards_in_group(mesh) == 1:
        return by_rolls(some, mesh, (SPLIT, WHOLE))

    def of_groups(rolls: Any, place: Any) -> Any:
        parts = jax.tree.map(lambda leaf: leaf.reshape(size_of(mesh), -1, *leaf.shape[1:]), rolls)
        found = jax.vmap(some, in_axes=(0, None))(parts, place)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)

    return jax.jit(of_groups)
