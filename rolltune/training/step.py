"""One training step of one roll, a pure function; `jax.vmap` makes it the step of K rolls over one frozen base."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from rolltune import adapters, optim, trees
from rolltune.batch import Batch, Source
from rolltune.device import compiler_options
from rolltune.models import forward
from rolltune.models.cut import specs_of, trained_specs
from rolltune.models.forward import Network
from rolltune.optim import Optimizer, Schedule
from rolltune.sharding import CARDS, ROLLS, SPLIT, WHOLE, by_rolls, cards_in_group
from rolltune.trees import Stacks

ALIVE, NOT_FINITE, EXPLODED, STOPPED = range(4)
ROUNDING = 0x7FFFFFFF  # its random key's number, beside those of micro-batches
REASONS = ("alive", "loss or gradient not finite", "loss exploded", "stopped early")


class Roll(NamedTuple):
    """The state of one roll. With a leading axis R on every leaf, of R rolls."""

    trainable: dict[str, Any]
    optimizer: Any
    key: Array  # for dropout and stochastic rounding
    step: Int[Array, ""]  # updates done
    rate: Float[Array, ""]  # peak learning rate
    scale: Float[Array, ""]  # of LoRA: alpha / rank
    decay: Float[Array, ""]  # weight decay
    fast: Float[Array, ""]  # running level of the loss
    best: Float[Array, ""]  # its lowest value so far
    stalled: Int[Array, ""]  # updates for which the running level has been no better than guessing
    state: Int[Array, ""]  # ALIVE, or why it is not


class StepMetrics(NamedTuple):
    loss: Float[Array, ""]
    rate: Float[Array, ""]
    gradient_norm: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What is the same for all rolls and compiled in. `stacks` are of the layers that the network runs."""

    network: Network
    stacks: Stacks
    schedule: Schedule
    optimizer: Optimizer
    dropout: float = 0.0
    average: str = "example"  # the loss: mean over examples of their token means (big_vision), or over all "token"s
    explosion_factor: float = 3.0
    explosion_margin: float = 2.0  # nats
    memory: float = 0.9  # of the running level: about the last ten losses
    guess: float = 0.0  # the loss of who only guesses (`guessing_loss`); 0: nobody can


def targets_loss(config: StepConfig, log_probs: Float[Array, "b m"], batch: Batch) -> tuple[Array, Array]:
    """(sum, weight) of the negative log-likelihood: divided once, after all micro-batches are added up."""
    weights = batch.weights * batch.valid[:, None]
    if config.average == "token":
        return -jnp.sum(log_probs * weights), jnp.sum(weights)
    # Tokens are counted, not their weights summed: a class weight is to weigh its row, not to cancel out.
    each = jnp.sum(log_probs * weights, -1) / jnp.maximum(jnp.sum(weights > 0, -1), 1)
    return -jnp.sum(each), jnp.sum(batch.valid.astype(jnp.float32))


def gradient(config: StepConfig, base: dict, source: Source, roll: Roll, batch: Batch) -> tuple[Array, Any]:
    """(loss, gradient) over all micro-batches: every leaf of `batch` is [A, B, ...]."""
    loss, weight, grads = summed(config, base, source, roll, batch)
    return loss / weight, jax.tree.map(lambda g: g / weight, grads)


def summed(config: StepConfig, base: dict, source: Source, roll: Roll, batch: Batch) -> tuple[Array, Array, Any]:
    """(loss, weight, gradient) as sums over all micro-batches, to be divided by the weight where they are used.

    A gradient has its leaf's dtype where there is one micro-batch; over several, they are added up in float32. In a
    group of cards the sums are over the rows of all, and of a leaf that is cut each card has its own part's gradient.
    """
    cut = config.network.cut

    def sum_of(trainable, micro, key):
        used = key if config.dropout else None
        params = adapters.combine(base, trainable, config.stacks, roll.scale, used, config.dropout, cut)
        return targets_loss(config, forward.log_probs(config.network, params, micro, source), micro)

    step_key = jax.random.fold_in(roll.key, roll.step)
    count = batch.tokens.shape[0]
    value_and_grad = jax.value_and_grad(sum_of, has_aux=True)
    # Layers in a list want their gradients in lists: out of a slice of a stack comes a padded sum a layer, which
    # XLA fuses with the norm into one slow kernel (26 of 108 ms a step for eight rolls). Hence the barrier, too.
    listed = isinstance(base["text"]["layers"], list)
    trainable = trees.by_layer(roll.trainable, config.stacks) if listed else roll.trainable

    def add(total, each):
        micro, number = each
        (loss, weight), grads = value_and_grad(trainable, micro, jax.random.fold_in(step_key, number))
        return jax.tree.map(jnp.add, total, (loss, weight, grads)), None  # float32, whatever the gradients are in

    if count == 1:
        (loss, weight), grads = value_and_grad(
            trainable, jax.tree.map(lambda x: x[0], batch), jax.random.fold_in(step_key, 0)
        )
    else:
        zero = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(lambda x: jnp.zeros(x.shape), trainable))
        (loss, weight, grads), _ = jax.lax.scan(add, zero, (batch, jnp.arange(count)))
    if listed:
        grads = jax.lax.optimization_barrier(trees.by_stack(grads))
    if cut is not None:
        loss, weight = jax.lax.psum((loss, weight), CARDS)
        grads = {path: leaf if path in cut else jax.tree.map(_over_cards, leaf) for path, leaf in grads.items()}
    return loss, jnp.maximum(weight, 1e-8), grads


def _over_cards(leaf: Array) -> Array:
    return jax.lax.psum(leaf.astype(jnp.float32), CARDS).astype(leaf.dtype)


def watch(config: StepConfig, roll: Roll, loss: Array, norm: Array) -> tuple[Array, Array, Array]:
    """(running level, its lowest value, state after this loss)."""
    age = roll.step.astype(jnp.float32)
    # The running level is a mean of the losses seen so far until it is ten steps old, then an exponential one.
    keep = jnp.minimum(config.memory, age / (age + 1))
    fast = keep * roll.fast + (1 - keep) * loss
    best = jnp.where(roll.step == 0, fast, jnp.minimum(roll.best, fast))
    # Losses of two rows jump between 0.001 and 4 in a healthy run: a level under 1 nat is no better than 1 here.
    exploded = fast > config.explosion_factor * jnp.maximum(best, 1) + config.explosion_margin
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    state = jnp.where(finite, jnp.where(exploded, EXPLODED, roll.state), NOT_FINITE)
    return fast, best, jnp.where(roll.state == ALIVE, state, roll.state)


def step(config: StepConfig, base: dict, source: Source, roll: Roll, batch: Batch) -> tuple[Roll, StepMetrics]:
    """One update of one roll. A roll that is not alive, or that is done, stays exactly as it is."""
    loss, weight, grads = summed(config, base, source, roll, batch)
    loss, norm = loss / weight, config.optimizer.norm(grads) / weight
    fast, best, state = watch(config, roll, loss, norm)
    # Of ten losses about a guess's, the level is under it every other time: only who is well above it counts on.
    stalled = jnp.where(fast < config.guess, 0, roll.stalled + 1) if config.guess else roll.stalled
    rate = roll.rate * config.schedule(roll.step + 1)
    watched = roll.step < config.schedule.steps
    going: Bool[Array, ""] = (state == ALIVE) & watched
    factor = config.optimizer.clipping(norm) / weight
    key = jax.random.fold_in(jax.random.fold_in(roll.key, roll.step), ROUNDING)
    update = optim.Update(rate, roll.decay, roll.step + 1, factor, going, key)
    trainable, optimizer = config.optimizer.update(update, grads, roll.optimizer, roll.trainable)
    keep = lambda new, old: jnp.where(going, new, old)
    kept = roll._replace(
        trainable=trainable,
        optimizer=optimizer,
        step=roll.step + going,
        fast=keep(fast, roll.fast),
        best=keep(best, roll.best),
        stalled=keep(stalled, roll.stalled),
        state=jnp.where(watched, state, roll.state),
    )
    return kept, StepMetrics(loss, rate, norm)


def compile_step(
    config: StepConfig, mesh: Mesh | None = None, own_source: bool = False
) -> Callable[[dict, Source, Roll, Batch], tuple[Roll, StepMetrics]]:
    """The jitted step of R rolls: (base, source, rolls [R, ...], batches [R, A, B, ...]). Reuses the rolls' buffers.

    Over the cards of a mesh, R is a multiple of their number. `own_source`: a step's source is no table but made for
    it, each card's rows after the other's (see `joint_batch`). Over cards in groups, so many groups, and B is a
    multiple of the cards of one.
    """
    one = lambda base, source, roll, batch: step(config, base, source, roll, batch)
    made, rows = lying_as(mesh)
    specs = (WHOLE, made if own_source else WHOLE, SPLIT, SPLIT)
    rolls = jax.vmap(one, in_axes=(None, None, 0, 0))

    def in_groups(base, source, rolls, batch):
        own = roll_specs(config.optimizer, rolls.trainable, (ROLLS,))
        return (specs_of(base), specs[1], own, rows), (own, SPLIT)

    return by_rolls(rolls, mesh, specs, in_groups, rows, donate_argnums=2, compiler_options=compiler_options())


def lying_as(mesh: Mesh | None) -> tuple[PartitionSpec, PartitionSpec]:
    """How (a source that is made for a step, the step's batches [R, A, B, ...]) lie on the cards."""
    if cards_in_group(mesh) == 1:
        return SPLIT, SPLIT
    return PartitionSpec((ROLLS, CARDS)), PartitionSpec(ROLLS, None, CARDS)


def roll_specs(optimizer: Optimizer, trainable: dict[str, Any], lead: tuple[str, ...]) -> Roll:
    """How rolls lie on cards in groups, whose leaves in `trainable` have axes along `lead` before their own."""
    found = trained_specs(trainable, optimizer.cut, lead)
    own = {path: PartitionSpec(ROLLS, *spec[len(lead) :]) for path, spec in found.items()}
    alike: dict[str, Any] = dict.fromkeys(Roll._fields, SPLIT)
    return Roll(**alike | {"trainable": own, "optimizer": own if optimizer.keeps_rows else SPLIT})
