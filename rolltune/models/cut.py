"""Matrices that lie in parts on the cards of a group, and are put together where they are used: FSDP.

Zhao et al. 2023 (arXiv:2304.11277), Rajbhandari et al. 2020 (arXiv:1910.02054). Each card has some rows of a matrix as
it lies in memory: of [in, out], or of the file's [out, in] where it is quantized. The rows of a batch are over the same
cards, so a gradient of the whole matrix is a sum over cards of which each keeps its own rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from rolltune import rules as path_rules
from rolltune.errors import UserError
from rolltune.quantize import NF4, DoubleScales, Float8, Int8Rows, Quantized
from rolltune.sharding import CARDS, WHOLE, WORDS, cards_in_group, placed
from rolltune.trees import Either

EMBEDDING = "text/embed/embedding"


@struct.dataclass
class Cut:
    """A matrix, or a stack of such. Within a program (`sharding.by_rolls`) the card's own rows, elsewhere arrays of all
    rows that lie on several cards."""

    values: Any  # an array [*l, i, o], or a quantized matrix
    trained: bool = struct.field(pytree_node=False, default=False)
    # Within jax.checkpoint, which gives it up: the whole matrix may stay for the way back. Else it is gathered again.
    kept: bool = struct.field(pytree_node=False, default=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def take(self, layer: Any) -> "Cut":
        """One layer of a stack, or a slice of it."""
        return dataclasses.replace(self, values=self.values[layer])

    __getitem__ = take

    def __iter__(self) -> Iterator["Cut"]:
        return (self.take(layer) for layer in range(self.shape[0]))


def is_cut(leaf: Any) -> bool:
    return isinstance(leaf, Cut)


def one_by_one(x: Float[Array, "b t d"], p: dict) -> tuple[Array, dict]:
    """x and a layer's weights, as they are; but what is cut over cards comes together when x is there, not before.
    While one token is written there is so little else to do that XLA would gather all layers at once, and hold the
    whole base on every card."""
    cut = any(map(is_cut, jax.tree.leaves(p, is_leaf=is_cut)))
    return jax.lax.optimization_barrier((x, p)) if cut else (x, p)


def axes_of(values: Any) -> Any:
    """The axis along which each array of a matrix is cut, counted from its end; 0: it is whole on every card."""
    like: Callable[..., Any] = type(values)
    if isinstance(values, NF4):
        scales: Any = -2
        if isinstance(values.scales, DoubleScales):  # the scales of the scales are a sixteen-thousandth of the matrix
            double: Callable[..., Any] = DoubleScales
            scales = double(codes=-1, code=0, absmax=0, offset=0)
        return like(packed=-2, scales=scales, block=values.block, float8=values.float8)
    if isinstance(values, Float8):
        return like(values=-2, scale=0, float8=values.float8)
    return like(values=-2, scales=-1) if isinstance(values, Int8Rows) else -2


def _spec(leaf: Any, axis: int) -> PartitionSpec:
    return PartitionSpec(*[None] * (leaf.ndim + axis), CARDS) if axis else WHOLE


def specs_of(tree: Any) -> Any:
    """How the leaves of a base lie on the cards, as `shard_map` takes it."""
    place = lambda leaf: (
        dataclasses.replace(leaf, values=jax.tree.map(_spec, leaf.values, axes_of(leaf.values)))
        if is_cut(leaf)
        else WHOLE
    )
    return jax.tree.map(place, tree, is_leaf=is_cut)


def trained_specs(trainable: Mapping[str, Any], cut: frozenset[str], lead: tuple[str, ...]) -> dict[str, PartitionSpec]:
    """How what is trained lies on the cards, leaves of some leading axes, which lie along `lead`."""
    inner = lambda leaf: [None] * (leaf.ndim - 2 - len(lead))
    return {
        path: PartitionSpec(*lead, *inner(leaf), CARDS) if path in cut else PartitionSpec(*lead)
        for path, leaf in trainable.items()
    }


def mesh_in(tree: Any) -> Mesh | None:
    """The cards that a base is cut over; None where nothing of it is."""
    found = [leaf for leaf in jax.tree.leaves(tree, is_leaf=is_cut) if is_cut(leaf)]
    return jax.tree.leaves(found[0])[0].sharding.mesh if found else None


def words_for(rules: Sequence[tuple[str, str]], paths: Sequence[str]) -> dict[str, str]:
    """path -> replicate, fsdp or rolls. Raises UserError for a rule without a match or another word."""
    words = path_rules.match(rules, paths, "what to cut over cards")
    for path, word in words.items():
        if word not in WORDS:
            raise UserError(f"what to cut over cards: {path!r} is given {word!r}; expected {', '.join(WORDS)}")
    return words


def can_be_cut(path: str, leaf: Any, cards: int) -> bool:
    """Whether a leaf of this shape is a matrix whose rows the cards divide, into parts as the optimizers need them."""
    if (path != EMBEDDING and not path.endswith("/kernel")) or path.startswith("text/classes/"):
        return False
    divides = lambda part, axis: not axis or part.shape[axis] % cards == 0
    if not jax.tree.all(jax.tree.map(divides, leaf, axes_of(leaf))):
        return False
    return isinstance(leaf, Quantized) or even(leaf.shape[-2:], cards)


SMALL, BLOCK = 4096, 256  # of eight-bit states: matrices that have none, and the numbers of a block


def even(shape: tuple[int, ...], cards: int) -> bool:
    """Whether a card's rows of a matrix have blocks of eight-bit states of their own."""
    whole, own = int(np.prod(shape)), int(np.prod(shape)) // cards
    return whole < SMALL or (own >= SMALL and own % BLOCK == 0)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the leaves of a base go: those of some paths in parts over the cards of a group, others whole on each."""

    mesh: Mesh
    paths: frozenset[str]

    def put(self, path: str, leaf: Any) -> Any:
        """A leaf of the host's, or of one card's, on the cards: each is sent its own part alone."""
        return self._laid(path, leaf, placed)

    def describe(self, path: str, leaf: Any) -> Any:
        """What `put` would make of a leaf, as shapes that say where they lie."""
        at = lambda part, place: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=place)
        return self._laid(path, leaf, at)

    def _laid(self, path: str, leaf: Any, lay: Callable[[Any, NamedSharding], Any]) -> Any:
        if path not in self.paths:
            return jax.tree.map(lambda part: lay(part, NamedSharding(self.mesh, WHOLE)), leaf)
        of_part = lambda part, axis: lay(part, NamedSharding(self.mesh, _spec(part, axis)))
        return Cut(jax.tree.map(of_part, leaf, axes_of(leaf)))


def places_for(mesh: Mesh, words: Mapping[str, str], shapes: Mapping[str, Any]) -> Places:
    """What the word `fsdp` stands for, and can be cut, is. `shapes` as `Opened.shapes` gives them."""
    cards = cards_in_group(mesh)
    paths = [path for path, word in words.items() if word == "fsdp" and can_be_cut(path, shapes[path], cards)]
    return Places(mesh, frozenset(paths))


def uncut(leaf: Any) -> Any:
    """What is within a leaf, or a list of such, that may be cut."""
    return jax.tree.map(lambda one: one.values if is_cut(one) else one, leaf, is_leaf=is_cut)


def held(tree: Any) -> Any:
    """The tree as jax.checkpoint is to see it: what it gathers is given up with all else."""
    hold = lambda leaf: dataclasses.replace(leaf, kept=True) if is_cut(leaf) else leaf
    return jax.tree.map(hold, tree, is_leaf=is_cut)


def whole(w: Any, dtype: Any) -> Any:
    """The whole matrix of a cut one, on every card of the group; a plain one in this dtype, which is what travels."""
    if not is_cut(w):
        return w
    if isinstance(w.values, Quantized):
        gather = lambda x, axis: jax.lax.all_gather(x, CARDS, axis=x.ndim + axis, tiled=True) if axis else x
        return jax.tree.map(gather, w.values, axes_of(w.values))
    return _gathered(w.values, jnp.dtype(dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(values: Float[Array, "i o"], dtype: Any) -> Float[Array, "i2 o"]:
    return jax.lax.all_gather(values.astype(dtype), CARDS, axis=values.ndim - 2, tiled=True)


def _gathered_forward(values, dtype):
    return _gathered(values, dtype), jnp.zeros((), values.dtype)


def _gathered_backward(dtype, like, slope):
    return (scattered(slope).astype(like.dtype),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def scattered(slope: Float[Array, "i2 o"]) -> Float[Array, "i o"]:
    """This card's rows of the sum, over the cards, of gradients of a whole matrix; added up in float32."""
    return jax.lax.psum_scatter(slope.astype(jnp.float32), CARDS, scatter_dimension=slope.ndim - 2, tiled=True)


def lookup(table: Any, tokens: Int[Either, "b *t"]) -> Shaped[Array, "b *t d"]:
    """`table[tokens]`. Of a cut table each card looks up all cards' tokens in its own rows: tokens and what is found
    travel, the table does not."""
    if not is_cut(table):
        return table[tokens]
    rows = table.values.shape[0]
    all_cards = jax.lax.all_gather(jnp.asarray(tokens), CARDS, axis=0, tiled=True)
    place = all_cards - jax.lax.axis_index(CARDS) * rows
    mine = (place >= 0) & (place < rows)
    found = jnp.where(mine[..., None], table.values[jnp.clip(place, 0, rows - 1)], 0)
    return jax.lax.psum_scatter(found, CARDS, scatter_dimension=0, tiled=True)
