"""Compiled programs that evaluate: the scores of candidate answers, for all rolls at once; answers that are written."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from rolltune import adapters
from rolltune.device import compiler_options
from rolltune.models import forward, generate
from rolltune.models.forward import Network
from rolltune.models.generate import Sampling
from rolltune.sharding import SPLIT, WHOLE, by_rolls
from rolltune.trees import Stacks


def compile_score(
    net: Network, stacks: Stacks, candidates: int, mesh: Mesh | None = None, per_token: bool = False
) -> Callable[..., Float[Array, "r b c"]]:
    """The jitted score of R rolls on one batch: log-probability of each candidate answer as a whole, [R, B, C], or
    with `per_token` the mean of its tokens', the end among them.

    Over the cards of a mesh, each scores its own rolls.
    """

    def one(base, source, trainable, scale, batch):
        params = adapters.combine(base, trainable, stacks, scale)
        log_probs = forward.log_probs(net, params, batch, source) * batch.weights
        whole = sum_by_candidate(log_probs, batch.candidates, candidates)
        if not per_token:
            return whole
        return whole / jnp.maximum(sum_by_candidate(batch.weights, batch.candidates, candidates), 1)

    rolls = jax.vmap(one, in_axes=(None, None, 0, 0, None))
    return by_rolls(rolls, mesh, (WHOLE, WHOLE, SPLIT, SPLIT, WHOLE), compiler_options=compiler_options())


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
    """The jitted answers of R rolls to one batch of prompts, of rows with these numbers [B]: [R, B, N] ids. All layers
    are run.

    The rolls write side by side: a token reads the base once for all of them.
    """

    def one(base: dict, source: Any, trainable: dict, scale: Any, batch: Any, numbers: Any) -> Any:
        params = adapters.combine(base, trainable, stacks, scale)
        return generate.generate(net, params, batch, source, tokens, stops, WRITERS, sampling, numbers)

    rolls = jax.vmap(one, in_axes=(None, None, 0, 0, None, None), axis_name=WRITERS)
    return by_rolls(rolls, mesh, (WHOLE, WHOLE, SPLIT, SPLIT, WHOLE, WHOLE), compiler_options=compiler_options())


@functools.cache
def picked(mesh: Mesh | None, count: int) -> Callable[..., Any]:
    """The jitted choice of `count` rolls of each card: (leaves [R, ...], the first one's place there) -> leaves."""

    def some(rolls: Any, place: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, place, count), rolls)

    return by_rolls(some, mesh, (SPLIT, WHOLE))
