"""Greedy answers of any family, with cached keys and values."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rolltune.batch import Batch, Source
from rolltune.models import decoder, forward
from rolltune.models import layers as nn
from rolltune.models.forward import Network
from rolltune.sharding import CARDS


def generate(
    net: Network, params: dict, batch: Batch, source: Source, steps: int, stops: Sequence[int]
) -> Int[Array, "b n"]:
    """Up to `steps` tokens for each row encoded without answers; `stops[0]` from the first of `stops` on.

    Ends early where every row has come to a stop. All layers are run, those in `text/lower` too, so `net.first` is 0.
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
    prompt = batch.tokens.shape[1]
    places = jnp.arange(prompt + steps)
    seen = None if here.sees is None else decoder.places(here.sees, last)  # an answer sees what its prompt's end sees
    stop = jnp.asarray(stops)

    def step(state):
        i, token, done, cache, written = state
        done = done | jnp.any(token[:, None] == stop, 1)
        out = jnp.where(done, stop[0], token)
        positions = (lengths + i)[:, None]
        mask = (places < lengths[:, None]) | ((places >= prompt) & (places <= prompt + i))  # [B, S]
        local = None
        if config.sliding_window and len(places) > config.sliding_window:
            at = jnp.where(places >= prompt, lengths[:, None] + places - prompt, places)
            local = (mask & (positions - at < config.sliding_window))[:, None]
        angles = nn.rope_angles(config.rope, positions, config.head_dim, lengths)
        x = decoder.embed(config, text, out[:, None], net.config.dtype)
        now = decoder.Context(angles, mask[:, None], local, None, seen)
        grown = []
        for part, first, own in zip(parts, firsts, cache, strict=True):
            x, kv = decoder.run(config, part, x, now, first=first, cache=(own, prompt + i))
            grown.append(kv)
        return i + 1, _best(net, params, x), done, grown, written.at[:, i].set(out)

    def going(state):
        left = ~jnp.all(state[2])
        if net.cut is not None:  # the cards of a group go on together: each layer needs parts of all
            left = jax.lax.pmax(left.astype(jnp.int32), CARDS) > 0
        return (state[0] < steps) & left

    blank = jnp.full((len(lengths), steps), stop[0], jnp.int32)
    start = (jnp.asarray(0), _best(net, params, x), jnp.zeros(len(lengths), bool), cache, blank)
    return jax.lax.while_loop(going, step, start)[-1]


def _best(net: Network, params: dict, x: Any) -> Int[Array, " b"]:
    return jnp.argmax(forward.logits(net, params, x[:, 0]), -1).astype(jnp.int32)


def _with_room(layers: Any, kv: Any, steps: int) -> Any:
    """The prompt's keys and values with places for `steps` more; those of cross-attention to pictures never grow."""
    if isinstance(layers, list | tuple):
        grow = lambda x: jnp.pad(x, ((0, 0), (0, steps), (0, 0), (0, 0)))
        return [own if "cross" in p else jax.tree.map(grow, own) for p, own in zip(layers, kv, strict=True)]
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, steps), (0, 0), (0, 0))), kv)
