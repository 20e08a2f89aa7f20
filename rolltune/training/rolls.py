"""The K axis: what each roll draws, how rolls are started, watched, stopped and drawn again."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rolltune import adapters
from rolltune.recipe import Recipe
from rolltune.training.step import ALIVE, Plan, Roll


@dataclasses.dataclass(frozen=True)
class Draw:
    """One ticket of the lottery. `attempt` counts how often its slot diverged before."""

    roll: int
    seed: int
    rate: float
    attempt: int = 0
    fold: int | None = None


def draw(recipe: Recipe, roll: int, attempt: int = 0, fold: int | None = None) -> Draw:
    """The roll's seed and peak rate: the same for the same recipe and number, whatever else is drawn."""
    seed = recipe.seed + roll
    if recipe.rates:
        rate = recipe.rates[roll % len(recipe.rates)]
    elif recipe.rate_range:
        low, high = map(math.log, recipe.rate_range)
        share = np.random.Philox(key=np.array([recipe.seed, roll], np.uint64)).random_raw() / 2**64
        rate = math.exp(low + (high - low) * share)
    else:
        rate = recipe.rate
    return Draw(roll, seed, rate * recipe.redraw_factor**attempt, attempt, fold)


@dataclasses.dataclass(frozen=True)
class Start:
    """What a roll begins with: shapes of its fresh adapters, and leaves that are trained from their present values."""

    lora: dict[str, tuple[int, ...]]
    full: dict[str, Any]
    adapters: dict[str, Any] = dataclasses.field(default_factory=dict)  # of a second pass: trained before


def begin(recipe: Recipe, plan: Plan, start: Start, draws: Sequence[Draw]) -> Roll:
    """Fresh rolls, every leaf [R, ...]."""
    seeds = jnp.asarray([one.seed for one in draws], jnp.uint32)
    rates = jnp.asarray([one.rate for one in draws], jnp.float32)
    return _begin(recipe, plan, tuple(sorted(start.lora.items())), start.full, start.adapters, seeds, rates)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _begin(recipe, plan, lora, full, trained, seeds, rates):
    def one(seed, rate):
        key = jax.random.PRNGKey(seed)
        fresh = trained or adapters.init_lora(jax.random.fold_in(key, 0), dict(lora), recipe.rank)
        trainable = full | fresh
        number = lambda value, kind=jnp.float32: jnp.asarray(value, kind)
        return Roll(
            trainable=trainable,
            optimizer=plan.transform.init(trainable),
            key=jax.random.fold_in(key, 1),
            step=number(0, jnp.int32),
            rate=rate,
            scale=number(recipe.scale),
            decay=number(recipe.weight_decay),
            fast=number(0),
            best=number(0),
            state=number(ALIVE, jnp.int32),
        )

    return jax.vmap(one)(seeds, rates)


@functools.partial(jax.jit, donate_argnums=0)
def replace(rolls: Roll, slot: Any, fresh: Roll) -> Roll:
    """`rolls` with the one roll of `fresh` in `slot`."""
    return jax.tree.map(lambda old, new: old.at[slot].set(new[0]), rolls, fresh)


@functools.partial(jax.jit, donate_argnums=0)
def mark(rolls: Roll, slot: Any, state: Any) -> Roll:
    """`rolls` with `slot` ended: its updates are masked from now on."""
    return rolls._replace(state=rolls.state.at[slot].set(state))


def trainable_of(rolls: Roll, slot: int) -> dict[str, Any]:
    """What one roll trained, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[slot]), rolls.trainable)


def passes_rung(figure: float, reached: Sequence[float], keep_share: float) -> bool:
    """Whether a roll goes on from a rung: it is among the best `keep_share` of all that reached it so far.

    Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934): nobody waits for the others,
    which suits slots that began at different times. Higher figures are better; `reached` includes it.
    """
    better = sum(other > figure for other in reached)
    return better < max(1, math.ceil(len(reached) * keep_share))
