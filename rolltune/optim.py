"""Optimizers and schedules. Rate and decay stay outside: each roll has its own, so they are arguments of the step.

What an optimizer remembers is there for trained leaves only, one entry a leaf, and is updated matrix by matrix: no
float32 copy of all of it lives at once, whatever it is kept in.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from rolltune import blockwise
from rolltune.blockwise import Blocks
from rolltune.errors import UserError
from rolltune.sharding import CARDS

SCHEDULES = ("cosine", "linear", "constant")
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam, in eight bits, too
SMALL = 4096  # numbers: matrices below it stay in 32 bits, as in bitsandbytes
# Numbers of one leaf above which it is updated part by part, where that takes memory of its own (64 MiB in float32),
# and of each part. Below, all at once: a loop costs more than it saves.
LARGE, PART = 1 << 24, 1 << 22


class Rule(NamedTuple):
    """How one matrix moves: `direct(gradient, state, weight, number of this update)`, in float32, gives its direction
    and its next state; what is subtracted from the weight is the direction times the rate."""

    init: Callable[[Array], Any]
    direct: Callable[[Array, Any, Array, Array], tuple[Array, Any]]
    by_parts: bool = True  # a block of rows moves as it would within its matrix
    works_aside: bool = False  # needs float32 copies of what it updates


class Moments(NamedTuple):
    """Adam's running means, in float32, or in eight bits as far as the matrix is large enough."""

    mean: Array | Blocks
    square: Array | Blocks


def _adam_direction(gradient: Array, mean: Array, square: Array, number: Array) -> tuple[Array, Array, Array]:
    mean = BETA1 * mean + (1 - BETA1) * gradient
    square = BETA2 * square + (1 - BETA2) * gradient * gradient
    number = number.astype(jnp.float32)
    root = jnp.sqrt(square / (1 - BETA2**number)) + EPSILON
    return mean / (1 - BETA1**number) / root, mean, square


def adam() -> Rule:
    """Adam (arXiv:1412.6980); decay is added apart (AdamW, arXiv:1711.05101)."""

    def direct(gradient, state, weight, number):
        direction, mean, square = _adam_direction(gradient, state.mean, state.square, number)
        return direction, Moments(mean, square)

    return Rule(lambda weight: Moments(*[jnp.zeros(weight.shape, jnp.float32)] * 2), direct)


def adam8bit() -> Rule:
    """Adam whose means are kept in eight bits: the direction is of the exact new ones, what is kept of them is rounded.

    A signed map for the mean, an unsigned one for the square, blocks of 256 along the rows, as bitsandbytes'
    AdamW8bit has them.
    """

    def init(weight):
        zeros = jnp.zeros(weight.shape, jnp.float32)
        if weight.size < SMALL:
            return Moments(zeros, zeros)
        return Moments(blockwise.encode(zeros, signed=True), blockwise.encode(zeros, signed=False))

    def direct(gradient, state, weight, number):
        if not isinstance(state.mean, Blocks):
            return adam().direct(gradient, state, weight, number)
        mean = blockwise.decode(state.mean, weight.shape, signed=True)
        square = blockwise.decode(state.square, weight.shape, signed=False)
        direction, mean, square = _adam_direction(gradient, mean, square, number)
        return direction, Moments(blockwise.encode(mean, signed=True), blockwise.encode(square, signed=False))

    return Rule(init, direct, works_aside=True)


def by_optax(transform: optax.GradientTransformation, **more: bool) -> Rule:
    """A rule out of optax, applied to one matrix at a time."""
    return Rule(
        lambda weight: transform.init(weight.astype(jnp.float32)),
        lambda gradient, state, weight, number: transform.update(gradient, state, weight),
        **more,
    )


def adafactor() -> Rule:
    """Adafactor (arXiv:1804.04235) without momentum and without the weights' own scale, so that a rate means what it
    means for Adam: squares are kept as their means over rows and columns, where a matrix has 128 of both."""
    transform = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    return by_optax(transform, by_parts=False, works_aside=True)


def sgd(momentum: float) -> Rule:
    """The gradient itself, or its running sum."""
    return by_optax(optax.trace(momentum) if momentum else optax.identity())


RULES: Mapping[str, Callable[[float], Rule]] = {
    "adamw": lambda momentum: adam(),
    "adamw8bit": lambda momentum: adam8bit(),
    "adafactor": lambda momentum: adafactor(),
    "sgd": sgd,
}
OPTIMIZERS = tuple(RULES)


class Update(NamedTuple):
    """What one update of one roll knows beside gradients and weights."""

    rate: Float[Array, ""]  # of this step
    decay: Float[Array, ""]  # decoupled: the weight shrinks by rate * decay
    number: Int[Array, ""]  # of this update, from 1
    factor: Float[Array, ""]  # of the gradients: their mean is taken, and clipped, as they are used
    going: Bool[Array, ""]  # False: everything stays as it is
    key: Key[Array, ""] | UInt32[Array, "2"]  # of stochastic rounding


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer over what one roll trains: a dict of paths, whose leaves are weights or a LoRA's two factors.

    `stacks` are the subtrees whose leaves have layers on axis 0: each layer is a matrix of its own.
    Raises UserError for a name that is not known.
    """

    name: str
    clip: float | None = None  # of the norm of the whole gradient
    momentum: float = 0.0  # of sgd
    stacks: tuple[str, ...] = ()
    # Paths of leaves that are cut over the cards of a group: each card moves its own rows, as they would move within
    # their matrix. What a rule that needs a whole matrix remembers is the same on every card.
    cut: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise UserError(f"optimizer: {self.name!r} is not known; expected one of {', '.join(RULES)}")

    def init(self, trainable: dict[str, Any]) -> Any:
        """What is remembered of each leaf, zero: a tree of the trained leaves, each a rule's state."""

        def begin(path, weight):
            if self._is_cut(path) and not self.keeps_rows:
                weight = jnp.zeros(self._whole_shape(path, weight), weight.dtype)
            return jax.vmap(self._rule.init)(weight) if self._is_stacked(path) else self._rule.init(weight)

        return jax.tree.map_with_path(begin, trainable)

    @property
    def keeps_rows(self) -> bool:
        """Whether what is remembered of a leaf lies as the leaf does, row by row."""
        return self._rule.by_parts

    def update(self, update: Update, gradients: Any, state: Any, trainable: dict[str, Any]) -> tuple[Any, Any]:
        """(the weights, the state) after one step. Weights in bfloat16 are rounded up or down at random."""
        weights, tree = jax.tree.flatten_with_path(trainable)
        up_to = tree.flatten_up_to  # type: ignore[attr-defined]  # not in the stubs
        found, kept = up_to(gradients), up_to(state)
        moved = []
        for leaf, ((path, weight), gradient, own) in enumerate(zip(weights, found, kept, strict=True)):
            here = update._replace(key=jax.random.fold_in(update.key, leaf))
            moved.append(self._moved(path, here, gradient, own, weight))
        built = lambda leaves: jax.tree.unflatten(tree, leaves)
        return built([new for new, _ in moved]), built([own for _, own in moved])

    def _moved(self, path: tuple, update: Update, gradient: Array, state: Any, weight: Array) -> tuple[Array, Any]:
        """One leaf and its state after the update, matrix by matrix, of a large one part by part."""
        decay = update.decay if _is_matrix(path) else jnp.zeros(())
        window = self._window(path, weight)
        one = lambda number, *matrix: _move(self._rule, update, decay, window, number, *matrix)
        shape = self._matrices(path, weight)
        if not shape:
            return one(jnp.zeros((), jnp.int32), gradient, state, weight)
        run = _in_turn if self._is_large(math.prod(self._whole_shape(path, weight)), weight.dtype) else _at_once
        at = int(self._is_stacked(path))  # the axis of a matrix's rows, or blocks
        parts = shape[0] // (weight.shape[0] if at else 1)
        apart = lambda leaf: leaf.reshape(shape[0], leaf.shape[at] // parts, *leaf.shape[at + 1 :])
        cut = state if parts == 1 else jax.tree.map(apart, state)
        new, own = run(one, gradient.reshape(shape), cut, weight.reshape(shape))
        return new.reshape(weight.shape), jax.tree.map(lambda leaf, old: leaf.reshape(old.shape), own, state)

    def norm(self, gradients: dict[str, Any]) -> Float[Array, ""]:
        """Over all leaves, whole ones and the parts that other cards have, summed in float32 whatever they are in."""
        if not self.cut:
            return norm(gradients)
        own = {path: leaf for path, leaf in gradients.items() if path in self.cut}
        whole = {path: leaf for path, leaf in gradients.items() if path not in self.cut}
        return jnp.sqrt(_squares(whole) + jax.lax.psum(_squares(own), CARDS))

    def clipping(self, norm: Float[Array, ""]) -> Float[Array, ""]:
        """What gradients of this norm are multiplied by."""
        return jnp.minimum(1, self.clip / jnp.maximum(norm, 1e-30)) if self.clip else jnp.ones(())

    def _is_large(self, size: int, dtype: Any) -> bool:
        """Whether updating so many numbers at once would take too much memory beside them."""
        return size > LARGE and (self._rule.works_aside or dtype != jnp.float32)

    def _is_stacked(self, path: tuple) -> bool:
        return _names(path)[0].startswith(tuple(f"{stack}/" for stack in self.stacks))

    def _is_cut(self, path: tuple) -> bool:
        return _names(path)[0] in self.cut

    def _whole_shape(self, path: tuple, weight: Array) -> tuple[int, ...]:
        """A leaf's shape with the rows of all cards."""
        if not self._is_cut(path):
            return weight.shape
        *stack, rows, width = weight.shape
        return (*stack, rows * jax.lax.axis_size(CARDS), width)

    def _parts(self, path: tuple, weight: Array) -> int:
        """Into how many parts of their rows the matrices of a leaf, whole ones, are cut for an update."""
        shape = self._whole_shape(path, weight)
        matrix = shape[1:] if self._is_stacked(path) else shape
        if not self._rule.by_parts or not self._is_large(math.prod(shape), weight.dtype):
            return 1
        rows, size = matrix[0], math.prod(matrix)
        whole = lambda parts: rows % parts == 0 and size // parts % blockwise.BLOCK == 0
        least = -(-size // PART)
        return next((n for n in range(least, min(rows, 64 * least) + 1) if whole(n)), 1)

    def _matrices(self, path: tuple, weight: Array) -> tuple[int, ...]:
        """A leaf's shape as [n, ...], the matrices of a stack's layers, or of a large leaf parts of their rows; empty
        where the leaf is one matrix that is updated as it is."""
        stacked = self._is_stacked(path)
        count, matrix = (weight.shape[0], weight.shape[1:]) if stacked else (1, weight.shape)
        parts = self._parts(path, weight)
        if self._is_cut(path):
            parts = max(1, parts // jax.lax.axis_size(CARDS))
        if not stacked and parts == 1:
            return ()
        return (count, *matrix) if parts == 1 else (count * parts, matrix[0] // parts, *matrix[1:])

    def _window(self, path: tuple, weight: Array) -> "Window | None":
        """Which rows of each matrix this card has; None: all."""
        if not self._is_cut(path):
            return None
        cards, card, parts = jax.lax.axis_size(CARDS), jax.lax.axis_index(CARDS), self._parts(path, weight)
        rows = weight.shape[-2]
        if parts % cards == 0:  # whole parts
            own = parts // cards
            return Window(card * rows, own, parts, card * own, rows // own, jnp.zeros((), jnp.int32))
        each = max(1, cards // parts)  # cards that have a part between them
        return Window(card * rows, 1, parts, card // each, rows * each, card % each * rows)

    @property
    def _rule(self) -> Rule:
        return RULES[self.name](self.momentum)


class Window(NamedTuple):
    """Which rows of a matrix a card has, and which of the parts that the matrix is updated in."""

    start: Array  # the card's first row
    own: int  # parts, or pieces of one, that the card goes through
    parts: int  # of the whole matrix
    first: Array  # the part that the card's first row lies in
    part_rows: int  # of a part
    within: Array  # where in it the card's first row is

    def number(self, number: Array) -> Array:
        """That of the whole leaf's part, for the card's own."""
        return number // self.own * self.parts + self.first + number % self.own


def _move(
    rule: Rule,
    update: Update,
    decay: Array,
    window: Window | None,
    number: Array,
    gradient: Array,
    state: Any,
    weight: Array,
) -> tuple[Array, Any]:
    """One matrix and its state after the update; `number` tells it from the others of its leaf."""
    old = weight.astype(jnp.float32)
    gradient = gradient.astype(jnp.float32) * update.factor
    if window is None or rule.by_parts:
        direction, new_state = rule.direct(gradient, state, old, update.number)
    else:
        whole = lambda rows: jax.lax.all_gather(rows, CARDS, axis=0, tiled=True)
        direction, new_state = rule.direct(whole(gradient), state, whole(old), update.number)
        direction = jax.lax.dynamic_slice_in_dim(direction, window.start, len(gradient), 0)
    new = old - update.rate * (direction + decay * old)
    if weight.dtype == jnp.bfloat16:
        key = jax.random.fold_in(update.key, number if window is None else window.number(number))
        new = round_at_random(key, new) if window is None else round_at_random(key, new, window)
    keep = lambda after, before: jnp.where(update.going, after, before)
    return keep(new, weight), jax.tree.map(keep, new_state, state)


def _at_once(one: Callable, gradient: Array, state: Any, weight: Array) -> tuple[Array, Any]:
    return jax.vmap(one)(jnp.arange(weight.shape[0]), gradient, state, weight)


def _in_turn(one: Callable, gradient: Array, state: Any, weight: Array) -> tuple[Array, Any]:
    """Matrix by matrix, in place: beside the leaf, one matrix in float32 is all that is held."""

    def at(number, moving):
        take = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False)
        new = one(number, take(gradient), *(jax.tree.map(take, old) for old in moving[::-1]))
        put = lambda leaf, value: jax.lax.dynamic_update_index_in_dim(leaf, value, number, 0)
        return jax.tree.map(put, moving, new)

    return jax.lax.fori_loop(0, weight.shape[0], at, (weight, state))


def round_at_random(key: Array, values: Float[Array, "*s"], window: Window | None = None) -> Float[Array, "*s"]:
    """bfloat16 of float32, up or down with the chance that makes the mean right; what bfloat16 holds stays as it is.

    Of a float32's bits the upper 16 are a bfloat16: 16 random bits are added to the lower ones, then these are cut off.
    A card that has some rows of a matrix takes the bits that they have within it.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    if window is None or window.part_rows == values.shape[0]:
        drawn = jax.random.bits(key, values.shape, jnp.uint16)
    else:
        drawn = jax.random.bits(key, (window.part_rows, *values.shape[1:]), jnp.uint16)
        drawn = jax.lax.dynamic_slice_in_dim(drawn, window.within, values.shape[0], 0)
    carried = (bits + drawn) >> 16
    rounded = jax.lax.bitcast_convert_type(carried.astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(values), rounded, values.astype(jnp.bfloat16))


def norm(gradients: Any) -> Float[Array, ""]:
    """Over all leaves, summed in float32 whatever they are in."""
    return jnp.sqrt(_squares(gradients))


def _squares(gradients: Any) -> Float[Array, ""]:
    total: Any = sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(gradients))
    return total


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A factor of the peak rate at step 1..steps: linear warm-up, then `cosine`, `linear` or `constant`.

    The rate falls to zero one step after the last, as in big_vision's demo (its total_steps is TRAIN_STEPS + 1), so no
    update is wasted on a rate of zero. `warmup` below 1 is a share of these steps + 1, rounded as big_vision does
    (never to zero unless it is zero); from 1, a number of steps.
    """

    kind: str
    steps: int
    warmup: float

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise UserError(f"schedule: {self.kind!r} is not known; expected cosine, linear or constant")

    @property
    def warmup_steps(self) -> int:
        if self.warmup >= 1:
            return int(self.warmup)
        return max(1, round(self.warmup * (self.steps + 1))) if self.warmup else 0

    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        warmup = self.warmup_steps
        done = jnp.clip((step - warmup) / max(self.steps + 1 - warmup, 1), 0, 1)
        shape = {"cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)), "linear": 1 - done, "constant": jnp.ones_like(done)}
        return shape[self.kind] * jnp.minimum(1, step / max(warmup, 1))


def _names(path: tuple) -> list[str]:
    return [str(getattr(part, "key", part)) for part in path]


def _is_matrix(path: tuple) -> bool:
    """Whether weight decay is for it: matrices, not norms and biases."""
    last = _names(path)[-1]
    return last in ("a", "b") or last.endswith(("kernel", "embedding"))
