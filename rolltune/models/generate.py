"""Written answers of any family, greedy or drawn, with cached keys and values."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from rolltune.batch import Batch, Source
from rolltune.models import attention, decoder, forward
from rolltune.models.forward import Network
from rolltune.models.ready import ready
from rolltune.sharding import CARDS


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Tokens are drawn instead of taking the likeliest: of the fewest that make up `top_p` of the probability."""

    temperature: float = 1.0  # logits are divided by it
    top_p: float = 1.0
    seed: int = 0


def generate(
    net: Network,
    params: dict,
    batch: Batch,
    source: Source,
    steps: int,
    stops: Sequence[int],
    axis: str | None = None,
    sampling: Sampling | None = None,
    numbers: Integer[Array, " b"] | None = None,
) -> Int[Array, "b n"]:
    """Up to `steps` tokens for each row encoded without answers; `stops[0]` from the first of `stops` on.

    Ends early where every row has come to a stop: under a vmap with this name for its axis, every row of all that are
    mapped over. All layers are run, those in `text/lower` too, so `net.first` is 0. With `sampling`, what is drawn for
    a row depends on the seed and the row's own number, never on its neighbours.
    """
    config, text = net.text, params["text"]
    rows = forward.picture_rows(net, params, batch, source)
    here = forward.context(net, params, batch, rows)
    lengths = jnp.sum(batch.segments == 0, 1)  # [B]
    last = lengths[:, None] - 1
    x = forward.embed(net, params, batch, rows)
    parts = [text[name] for name in ("lower", "layers") if name in text]
    firsts = [0, *map(decoder.depth, parts[:-1])]
    cache = []
    for part, first in zip(parts, firsts, strict=True):
        asked = last if part is parts[-1] else None
        x, kv = decoder.run(config, part, x, here, first=first, keep_kv=True, at=asked)
        cache.append(_with_room(part, kv, steps))
    parts = [ready(part, net.config.dtype) for part in parts]
    prompt = batch.tokens.shape[1]
    places = jnp.arange(prompt + steps)
    seen = None if here.sees is None else decoder.places(here.sees, last)  # an answer sees what its prompt's end sees
    stop = jnp.asarray(stops)

    def chosen(x, i):
        logits = forward.logits(net, params, x[:, 0])
        if sampling is None:
            return jnp.argmax(logits, -1).astype(jnp.int32)
        key = jax.random.fold_in(jax.random.PRNGKey(sampling.seed), i)
        return drawn(sampling, logits, jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers))

    def going(done):
        some = jnp.any(~done)
        # One end for all: were each row of a vmap to end by itself, every step would copy the caches to mask them; and
        # of a group of cards, each needs parts of every layer from all.
        together = [name for name in (axis, None if net.cut is None else CARDS) if name]
        return jax.lax.pmax(some.astype(jnp.int32), tuple(together)) > 0 if together else some

    def step(state):
        i, token, done, _, cache, written = state
        done = done | jnp.any(token[:, None] == stop, 1)
        out = jnp.where(done, stop[0], token)
        positions = (lengths + i)[:, None]
        mask = (places < lengths[:, None]) | ((places >= prompt) & (places <= prompt + i))  # [B, S]
        local = None
        if config.sliding_window and len(places) > config.sliding_window:
            at = jnp.where(places >= prompt, lengths[:, None] + places - prompt, places)
            local = (mask & (positions - at < config.sliding_window))[:, None]
        angles = attention.rope_angles(config.rope, positions, config.head_dim, lengths)
        x = decoder.embed(config, text, out[:, None], net.config.dtype)
        now = decoder.Context(angles, mask[:, None], local, None, seen)
        grown = []
        for part, first, own in zip(parts, firsts, cache, strict=True):
            x, kv = decoder.run(config, part, x, now, first=first, cache=(own, prompt + i))
            grown.append(kv)
        return i + 1, chosen(x, i + 1), done, going(done), grown, written.at[:, i].set(out)

    blank = jnp.full((len(lengths), steps), stop[0], jnp.int32)
    start = (jnp.asarray(0), chosen(x, 0), jnp.zeros(len(lengths), bool), jnp.asarray(True), cache, blank)
    return jax.lax.while_loop(lambda state: (state[0] < steps) & state[3], step, start)[-1]


def kept_bytes(net: Network) -> int:
    """Of the keys and values of one token, in all layers."""
    return 2 * net.text.layers * net.text.kv_heads * net.text.head_dim * jnp.dtype(net.config.dtype).itemsize


def drawn(sampling: Sampling, logits: Float[Array, "b v"], keys: Array) -> Int[Array, " b"]:
    """One token a row, by nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751); `keys` are the rows' own [B]."""
    scaled = logits / sampling.temperature
    if sampling.top_p < 1:
        ordered = jnp.sort(scaled, -1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ordered, -1), -1) - jax.nn.softmax(ordered, -1)
        least = jnp.min(jnp.where(before < sampling.top_p, ordered, jnp.inf), -1, keepdims=True)
        scaled = jnp.where(scaled >= least, scaled, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)


def _with_room(layers: Any, kv: Any, steps: int) -> Any:
    """The prompt's keys and values with places for `steps` more; those of cross-attention to pictures never grow."""
    if isinstance(layers, list | tuple):
        grow = lambda x: jnp.pad(x, ((0, 0), (0, steps), (0, 0), (0, 0)))
        return [own if "cross" in p else jax.tree.map(grow, own) for p, own in zip(layers, kv, strict=True)]
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, steps), (0, 0), (0, 0))), kv)
