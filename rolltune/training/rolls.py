"""The K axis: what each roll draws, how rolls are started, watched, stopped and drawn again."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from rolltune import adapters
from rolltune.models.cut import trained_specs
from rolltune.optim import Optimizer
from rolltune.sharding import SPLIT, WHOLE, by_rolls, cards_in_group, fetched, own_cards, placed, size_of
from rolltune.training.step import ALIVE, STOPPED, Roll, StepConfig, roll_specs


@dataclasses.dataclass(frozen=True)
class Draw:
    """One ticket of the lottery. `attempt` counts how often its slot diverged before."""

    roll: int
    seed: int
    rate: float
    alpha: float
    weight_decay: float
    attempt: int = 0
    fold: int | None = None


@dataclasses.dataclass(frozen=True)
class Lottery:
    """What rolls differ in. Of several rates, alphas or decays each roll has the next in turn."""

    seed: int  # of roll 0; the others count up
    rates: tuple[float, ...]  # peak learning rates
    alphas: tuple[float, ...]
    weight_decays: tuple[float, ...]
    rank: int  # of adapters, the same for all
    rslora: bool = False
    rate_range: tuple[float, ...] = ()  # (low, high): each roll's rate is drawn log-uniformly, instead of `rates`
    redraw_factor: float = 0.5  # of the rate, each time a slot is drawn again

    def draw(self, roll: int, attempt: int = 0, fold: int | None = None) -> Draw:
        """The roll's seed, peak rate, alpha and decay: the same for its number, whatever else is drawn."""
        in_turn = lambda values: values[roll % len(values)]
        if self.rate_range:
            low, high = map(math.log, self.rate_range)
            share = np.random.Philox(key=np.array([self.seed, roll], np.uint64)).random_raw() / 2**64
            rate = math.exp(low + (high - low) * share)
        else:
            rate = in_turn(self.rates)
        rate *= self.redraw_factor**attempt
        seed = (self.seed + roll) % 2**32  # a random key is made of 32 bits
        return Draw(roll, seed, rate, in_turn(self.alphas), in_turn(self.weight_decays), attempt, fold)


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """What a roll begins with: shapes of its fresh adapters, and leaves that are trained from their present values."""

    lora: dict[str, tuple[int, ...]]
    full: dict[str, Any]
    heads: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # drawn anew: of a classifier
    adapters: dict[str, Any] = dataclasses.field(default_factory=dict)  # of a second pass: trained before


def begin(
    lottery: Lottery, config: StepConfig, start: InitialWeights, draws: Sequence[Draw], mesh: Mesh | None = None
) -> Roll:
    """Fresh rolls, every leaf [R, ...]; over the cards of a mesh, each card's own are made there."""
    program, given = beginning(lottery, config, start, draws, mesh)
    return program(*given)


def beginning(
    lottery: Lottery, config: StepConfig, start: InitialWeights, draws: Sequence[Draw], mesh: Mesh | None = None
) -> tuple[Any, tuple[Any, ...]]:
    """(the jitted program that makes fresh rolls, what it is given)."""
    seeds = np.asarray([one.seed for one in draws], np.uint32)
    scale = lambda one: adapters.rank_scale(one.alpha, lottery.rank, lottery.rslora)
    numbers = [[one.rate, scale(one), one.weight_decay] for one in draws]
    fresh = Fresh(lottery.rank, tuple(sorted(start.lora.items())), tuple(sorted(start.heads.items())))
    own: tuple[Any, Any] = (seeds, np.asarray(numbers, np.float32))
    if mesh is not None and own_cards(mesh) is not None:
        own = jax.tree.map(lambda array: placed(array, NamedSharding(mesh, SPLIT)), own)
    return _beginning(fresh, config.optimizer, mesh), (start.full, start.adapters, *own)


def begin_one(
    lottery: Lottery, config: StepConfig, start: InitialWeights, draw: Draw, mesh: Mesh | None = None
) -> Roll:
    """One fresh roll, for `replace`."""
    if cards_in_group(mesh) == 1:
        return begin(lottery, config, start, [draw])
    return begin(lottery, config, start, [draw] * size_of(mesh), mesh)


class Fresh(NamedTuple):
    """Shapes of what each roll draws for itself."""

    rank: int
    lora: tuple[tuple[str, tuple[int, ...]], ...]
    heads: tuple[tuple[str, tuple[int, ...]], ...]


HEAD_DEVIATION = 0.02  # of a new head's weights, as transformers draws them


@functools.cache
def _beginning(fresh: Fresh, optimizer: Optimizer, mesh: Mesh | None) -> Callable[..., Roll]:
    """The jitted beginning of R rolls: (weights trained themselves, adapters trained before, seeds [R], numbers)."""

    def one(full, trained, seed, own):
        key = jax.random.PRNGKey(seed)
        lora = trained or adapters.init_lora(jax.random.fold_in(key, 0), dict(fresh.lora), fresh.rank)
        normal = lambda n, shape: HEAD_DEVIATION * jax.random.normal(jax.random.fold_in(key, 2 + n), shape)
        heads = {path: normal(n, shape) for n, (path, shape) in enumerate(fresh.heads)}
        trainable = full | lora | heads
        number = lambda value, kind=jnp.float32: jnp.asarray(value, kind)
        return Roll(
            trainable=trainable,
            optimizer=optimizer.init(trainable),
            key=jax.random.fold_in(key, 1),
            step=number(0, jnp.int32),
            rate=own[0],
            scale=own[1],
            decay=own[2],
            fast=number(0),
            best=number(0),
            stalled=number(0, jnp.int32),
            state=number(ALIVE, jnp.int32),
        )

    def in_groups(full, trained, seeds, numbers):
        into, own = trained_specs(full, optimizer.cut, ()), roll_specs(optimizer, full, ())
        drawn = dict.fromkeys((*trained, *dict(fresh.lora), *dict(fresh.heads)), SPLIT)
        kept = own.optimizer | drawn if optimizer.keeps_rows else SPLIT
        return (into, WHOLE, SPLIT, SPLIT), own._replace(trainable=own.trainable | drawn, optimizer=kept)

    return by_rolls(jax.vmap(one, in_axes=(None, None, 0, 0)), mesh, (WHOLE, WHOLE, SPLIT, SPLIT), in_groups, SPLIT)


@functools.partial(jax.jit, donate_argnums=0)
def replace(rolls: Roll, slot: Any, fresh: Roll) -> Roll:
    """`rolls` with the one roll of `fresh` in `slot`; of cards in groups each group brings its own copy of it."""

    def put(old: Array, new: Array) -> Array:
        if len(new) == 1:
            return jnp.where(_is(slot, old), new, old)
        by_group = lambda leaf: leaf.reshape(len(new), -1, *leaf.shape[1:])
        return jnp.where(by_group(_is(slot, old)), by_group(new), by_group(old)).reshape(old.shape)

    return jax.tree.map(put, rolls, fresh)


@functools.partial(jax.jit, donate_argnums=0)
def mark(rolls: Roll, slot: Any, state: Any) -> Roll:
    """`rolls` with `slot` ended: its updates are masked from now on."""
    return rolls._replace(state=jnp.where(_is(slot, rolls.state), state, rolls.state))


def _is(slot: Any, leaf: Array) -> Array:
    """bool [R, 1, ...]: which roll of a leaf stands in the slot. A mask works on each card; an index would gather."""
    return (jnp.arange(leaf.shape[0]) == slot).reshape(-1, *[1] * (leaf.ndim - 1))


@jax.jit
def take(rolls: Roll, slots: Any) -> Roll:
    """The rolls of these slots alone."""
    return jax.tree.map(lambda leaf: leaf[slots], rolls)


def moved(rolls: Roll, slots: np.ndarray, full: int) -> Roll:
    """The rolls of these slots, as many on each card; all but the first `full` are ended: they fill up the last card.

    Over several cards they go through the host, leaf by leaf: rolls change cards, and on no card would there be room
    for all of them.
    """
    if len(rolls.step.sharding.device_set) == 1:
        rolls = take(rolls, slots)
    else:
        rolls = jax.tree.map(lambda leaf: placed(fetched(leaf)[slots], leaf.sharding), rolls)
    for slot in range(full, len(slots)):
        rolls = mark(rolls, slot, STOPPED)
    return rolls


def trainable_of(rolls: Roll, slot: int) -> dict[str, Any]:
    """What one roll trained, in the memory of every host: from the card that has it, or those that have parts of it."""
    leaves, tree = jax.tree.flatten(rolls.trainable)
    if not all(leaf.is_fully_addressable for leaf in leaves):
        return jax.tree.unflatten(tree, [fetched(leaf, slot) for leaf in leaves])
    found = [np.zeros(leaf.shape[1:], leaf.dtype) for leaf in leaves]
    for card in zip(*(leaf.addressable_shards for leaf in leaves), strict=True):
        first, end, _ = card[0].index[0].indices(len(leaves[0]))
        if first <= slot < end:
            own = _one_of([shard.data for shard in card], slot - first)
            for place, shard, leaf in zip(found, card, own, strict=True):
                if shard.replica_id == 0:
                    place[shard.index[1:]] = leaf
    return jax.tree.unflatten(tree, found)


@jax.jit  # outside of it, every shape would be a program of its own to compile
def _one_of(leaves: Any, slot: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[slot], leaves)


def passes_rung(figure: float, reached: Sequence[float], keep_share: float) -> bool:
    """Whether a roll goes on from a rung: it is among the best `keep_share` of all that reached it so far.

    Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934): nobody waits for the others,
    which suits slots that began at different times. Higher figures are better; `reached` includes it.
    """
    better = sum(other > figure for other in reached)
    return better < max(1, math.ceil(len(reached) * keep_share))
