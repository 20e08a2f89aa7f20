"""The one way through a model of any family: from a batch and what its slots point into, to log-probabilities."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from rolltune.batch import Batch, Source
from rolltune.models import decoder
from rolltune.models.family import Family
from rolltune.trees import Either


@dataclasses.dataclass(frozen=True)
class Network:
    """What is fixed while a program is compiled: the family, its sizes, and where the batch's rows come in."""

    family: Family
    config: Any
    projected: bool = False  # the source's rows are past the projector; False where a projector is trained
    first: int = 0  # the lowest layer that is run; above 0 the source's rows are states of the layers below it
    remat: bool | str = False  # see `decoder.run`
    causal: bool = False  # rows are one causal text each: no candidates side by side, no prompt seen both ways
    # The paths of what is trained in parts over the cards of a group, which has a batch's rows between it, too; None:
    # no group, one card has all.
    cut: frozenset[str] | None = None

    @property
    def text(self) -> decoder.Config:
        return self.config.text


def feature_rows(
    net: Network, params: dict, tiles: Num[Either, "b n h w 3"], aspect: Int[Either, "b i"]
) -> Float[Array, "b s c"]:
    """What the tower makes of a batch's tiles, P rows each: [B, N * P, C]. Frozen, it is worth computing once."""
    family, config = net.family, net.config
    assert family.normalize and family.features, f"{family.name} reads text only"
    tiles, aspect = jnp.asarray(tiles), jnp.asarray(aspect)
    return family.features(config, params, family.normalize(config, tiles, aspect), aspect)


@dataclasses.dataclass(frozen=True)
class PictureRows:
    """The rows that numbers E + i mean: of the batch's own tiles, a batch axis first, or of the source."""

    values: Float[Array, "..."]
    own: bool
    projected: bool


def picture_rows(net: Network, params: dict, batch: Batch, source: Source) -> PictureRows | None:
    """None for text alone: known while tracing, from the lengths of the axes."""
    if batch.tiles.shape[1]:
        return PictureRows(feature_rows(net, params, batch.tiles, batch.aspect), True, False)
    if source.rows.shape[0]:
        return PictureRows(source.rows, False, net.projected)
    return None


def _pick(net: Network, params: dict, rows: PictureRows, numbers: Int[Either, "b x"]) -> Float[Array, "b x d"]:
    """The decoder's inputs that stand behind these numbers; what is below E is some row, to be masked."""
    place = jnp.maximum(numbers - net.family.learned_count, 0)
    picked = decoder.places(rows.values, place) if rows.own else rows.values[place]
    picked = picked.astype(net.config.dtype)
    if rows.projected:
        return picked
    assert net.family.project, f"{net.family.name} reads text only"
    return net.family.project(net.config, params, picked)


def embed(net: Network, params: dict, batch: Batch, rows: PictureRows | None) -> Float[Array, "b t d"]:
    """The decoder's input: a token's embedding, a learned vector, or a row, as the slot says. Rows are not scaled."""
    config, slots = net.config, batch.slots[:, :, None]
    x = decoder.embed(net.text, params["text"], batch.tokens, config.dtype)
    count = net.family.learned_count
    if rows is None:
        return x
    if count:
        assert net.family.learned
        learned = net.family.learned(config, params).astype(config.dtype)
        x = jnp.where(slots >= 0, learned[jnp.clip(batch.slots, 0, count - 1)], x)
    if net.family.keys is not None and not net.first:  # its pictures stand in the keys
        return x
    return jnp.where(slots >= count, _pick(net, params, rows, batch.slots), x)


def sees(seen: Int[Either, "b t 2"], keys: Int[Either, "b x"]) -> Bool[Array, "b t x"]:
    number = jnp.arange(keys.shape[1])
    return (number >= seen[:, :, :1]) & (number < seen[:, :, 1:]) & (keys >= 0)[:, None]


def context(net: Network, params: dict, batch: Batch, rows: PictureRows | None) -> decoder.Context:
    keys = seen = None
    if batch.keys.shape[1] and rows is not None:
        keys, seen = _pick(net, params, rows, batch.keys), sees(batch.seen, batch.keys)
    return decoder.context(net.text, batch.positions, batch.blocks, batch.segments, keys, seen, net.causal)


def hidden(
    net: Network, params: dict, batch: Batch, source: Source, *, at: Int[Either, "b m"] | None = None
) -> Float[Array, "b _ d"]:
    """Decoder states before the final norm, with `at` [B, M] at these places only.

    Layers in `text/lower` are run first: nothing in them is trained. Where the source's rows are their states already,
    they are there for generation alone.
    """
    rows, text = picture_rows(net, params, batch, source), params["text"]
    here = context(net, params, batch, rows)
    x, first = embed(net, params, batch, rows), net.first
    if "lower" in text and not first:
        first, (x, _) = decoder.depth(text["lower"]), decoder.run(net.text, text["lower"], x, here)
    return decoder.run(net.text, text["layers"], x, here, first=first, remat=net.remat, at=at)[0]


def lower_states(net: Network, params: dict, batch: Batch, source: Source) -> Float[Array, "b t d"]:
    """The decoder's states above `text/lower`: the rows of a source for a network whose `first` is that depth."""
    rows = picture_rows(net, params, batch, source)
    here = context(net, params, batch, rows)
    return decoder.run(net.text, params["text"]["lower"], embed(net, params, batch, rows), here)[0]


def log_probs(net: Network, params: dict, batch: Batch, source: Source) -> Float[Array, "b m"]:
    """Log-probability of each of the batch's targets, float32."""
    states = hidden(net, params, batch, source, at=batch.predict)
    return decoder.target_log_probs(net.text, params["text"], states, batch.targets)


def logits(net: Network, params: dict, states: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
    """Float32 logits of states out of `hidden`; ask for few of them: V may be 257,152."""
    return decoder.logits(net.text, params["text"], states)
