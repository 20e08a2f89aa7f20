"""Compiled programs that evaluate: the scores of candidate answers, for all rolls at once; answers that are written."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rolltune import adapters
from rolltune.device import compiler_options
from rolltune.models import forward, generate
from rolltune.models.forward import Network
from rolltune.trees import Stacks


def compile_score(net: Network, stacks: Stacks, candidates: int) -> Callable[..., Float[Array, "r b c"]]:
    """The jitted score of R rolls on one batch: log-probability of each candidate answer as a whole, [R, B, C]."""

    def one(base, source, trainable, scale, batch):
        params = adapters.combine(base, trainable, stacks, scale)
        log_probs = forward.log_probs(net, params, batch, source) * batch.weights
        return sum_by_candidate(log_probs, batch.candidates, candidates)

    return jax.jit(jax.vmap(one, in_axes=(None, None, 0, 0, None)), compiler_options=compiler_options())


def sum_by_candidate(
    log_probs: Float[Array, "b m"], candidate: Int[Array, "b m"], candidates: int
) -> Float[Array, "b c"]:
    return jnp.einsum("bm,bmc->bc", log_probs, jax.nn.one_hot(candidate, candidates), precision="highest")


def compile_write(net: Network, stacks: Stacks, tokens: int, stops: Sequence[int]) -> Callable[..., Int[Array, "b n"]]:
    """The jitted greedy answers of one roll on one batch of prompts: [B, N] ids. All layers are run."""

    def one(base: dict, source: Any, trainable: dict, scale: Any, batch: Any) -> Any:
        params = adapters.combine(base, trainable, stacks, scale)
        return generate.generate(net, params, batch, source, tokens, stops)

    return jax.jit(one, compiler_options=compiler_options())
