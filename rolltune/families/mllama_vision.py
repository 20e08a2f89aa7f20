"""Llama 3.2 Vision's tower: all tiles of a picture attend to each other (Llama Team 2024, arXiv:2407.21783, section 7).

Reference: `VisionEncoder` of Meta's llama-models, models/llama3/multimodal/model.py; transformers differs where
`Config` has a switch. The tree of parameters, with A the number of aspect ids:

    patch/kernel, class [D]
    position/{embedding [P, D], tiles [A, 4, P, D], gate [1]}
    pre_tile/{embedding [A, 4, D], gate [1]}, post_tile/...
    pre_norm/{scale, bias}, norm/...      before and after the local layers
    layers/{norm1, attn/{q, k, v, o}, norm2, mlp/{up, down}}
    global_layers/{the same, gate_attn [L, 1], gate_mlp [L, 1]}
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Num

from rolltune.data.tiles import CANVAS_TILES, GRIDS
from rolltune.models import attention
from rolltune.models import layers as nn
from rolltune.models.vision import clip_normalize, patchify

OUTER_EPS = 1e-5  # of the norms around the local layers: torch's default, whatever the config says of the others
LOGITS_AT_ONCE = 1 << 28  # bytes of float32 attention logits held at a time; a picture's whole are 2.65 GB a layer
FILLED = np.array([0, *(down * across for down, across in GRIDS)])  # tiles of each aspect id; 0 is no picture


@dataclasses.dataclass(frozen=True)
class Config:
    image_size: int  # side of a tile
    patch: int
    width: int
    layers: int
    global_layers: int
    heads: int
    mlp: int
    kept: tuple[int, ...]  # local layers whose states are part of the features, rising
    norm_eps: float = 1e-5
    kept_outputs: bool = False  # Meta keeps what goes into those layers; transformers 4.57 to 5.23 what comes out

    @property
    def patches(self) -> int:
        """Of a tile, its class token among them."""
        return (self.image_size // self.patch) ** 2 + 1

    @property
    def features(self) -> int:
        return self.width * (1 + len(self.kept))


def normalize(tiles: Num[Array, "b n h w 3"], aspect: Int32[Array, "b i"]) -> Float[Array, "b n h w 3"]:
    """As CLIP's. Tiles that the canvas lacks become 0, which is not black: the others attend to them."""
    filled = jnp.arange(CANVAS_TILES) < jnp.asarray(FILLED)[aspect][:, :, None]
    return jnp.where(filled.reshape(*tiles.shape[:2], 1, 1, 1), clip_normalize(tiles), 0)


def run(
    config: Config, p: dict, tiles: Float[Array, "b n h w 3"], aspect: Int32[Array, "b i"], dtype: Any
) -> Float[Array, "b s c"]:
    """Features of normalized tiles, N = 4 I: [B, N*P, C], those of tiles that the canvases lack among them."""
    pictures, width, places = aspect.size, config.width, config.patches
    of_batch, aspect = len(aspect), aspect.reshape(pictures)
    gate = lambda value: jnp.tanh(value.astype(jnp.float32)).astype(dtype)
    of_tiles = lambda q: gate(q["gate"]) * q["embedding"][aspect].astype(dtype)[:, :, None]

    x = nn.linear(p["patch"], patchify(tiles.reshape(-1, *tiles.shape[2:]).astype(dtype), config.patch))
    x = x.reshape(pictures, CANVAS_TILES, places - 1, width) + of_tiles(p["pre_tile"])
    first = jnp.broadcast_to(p["class"].astype(dtype), (*x.shape[:2], 1, width))
    x = jnp.concatenate([first, x], 2)
    position, opened = p["position"], gate(p["position"]["gate"])
    x = x + (1 - opened) * position["embedding"].astype(dtype) + opened * position["tiles"][aspect].astype(dtype)
    x = nn.layer_norm(p["pre_norm"], x, OUTER_EPS)

    fill = -places % 8
    by_tile = lambda x: x.reshape(pictures, CANVAS_TILES, places + fill, -1)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, fill), (0, 0))).reshape(pictures, -1, width)
    filled = jnp.arange(CANVAS_TILES) < jnp.maximum(jnp.asarray(FILLED)[aspect], 1)[:, None]  # no picture: as if one
    real = (filled[:, :, None] & (jnp.arange(places + fill) < places)).reshape(pictures, -1)

    x, kept = _local(config, p["layers"], x, real)
    x = nn.layer_norm(p["norm"], x, OUTER_EPS)
    x = (by_tile(x) + of_tiles(p["post_tile"])).reshape(x.shape)
    x, _ = jax.lax.scan(lambda x, q: (_layer(config, q, x, real), None), x, p["global_layers"])
    kept = jnp.moveaxis(kept, 0, -1).reshape(pictures, -1, width * len(config.kept))  # a channel's layers side by side
    x = jnp.concatenate([by_tile(x), by_tile(kept)], -1)[:, :, :places]
    return x.reshape(of_batch, -1, config.features)


def _local(config: Config, p: dict, x: Float[Array, "i s d"], real: Bool[Array, "i s"]) -> tuple[Array, Array]:
    """The local layers' last states, and those that `config.kept` names: [len(kept), I, S, D]."""
    count = len(config.kept)
    rooms = np.full(config.layers, count)  # one room more than wanted, for the states of the other layers
    rooms[list(config.kept)] = range(count)

    def block(carry, layer):
        (x, kept), (q, room) = carry, layer
        y = _layer(config, q, x, real)
        return (y, kept.at[room].set(y if config.kept_outputs else x)), None

    kept = jnp.zeros((count + 1, *x.shape), x.dtype)
    (x, kept), _ = jax.lax.scan(block, (x, kept), (p, jnp.asarray(rooms)))
    return x, kept[:count]


def _layer(config: Config, p: dict, x: Float[Array, "i s d"], real: Bool[Array, "i s"]) -> Float[Array, "i s d"]:
    """One block. Going back, it is worked out again: at 6,432 places, what 40 layers keep would be 12 GB a picture."""

    def through(p, x):
        heads = lambda y: y.reshape(*y.shape[:-1], config.heads, -1)
        opened = lambda name: jnp.tanh(p[name].astype(jnp.float32)).astype(x.dtype) if name in p else 1
        y = nn.layer_norm(p["norm1"], x, config.norm_eps)
        q, k, v = map(heads, nn.linears([p["attn"][name] for name in "qkv"], y))
        y = nn.linear(p["attn"]["o"], _attend(q, k, v, real).reshape(x.shape))
        x = x + opened("gate_attn") * y
        y = nn.linear(p["mlp"]["up"], nn.layer_norm(p["norm2"], x, config.norm_eps))
        return x + opened("gate_mlp") * nn.linear(p["mlp"]["down"], jax.nn.gelu(y, approximate=False))

    return jax.checkpoint(through)(p, x)


def _attend(
    q: Float[Array, "i s n h"], k: Float[Array, "i s n h"], v: Float[Array, "i s n h"], real: Bool[Array, "i s"]
) -> Float[Array, "i s n h"]:
    """Attention in which padding doesn't see padding but is seen by all else: the published weights learned it so.

    Where the logits would take too much memory, some queries at a time.
    """
    i, s, n, h = q.shape
    parts = next((parts for parts in range(1, s) if s % parts == 0 and 4 * i * n * s * s <= parts * LOGITS_AT_ONCE), s)

    def some(q, real_q):
        return attention.attend(q, k, v, real_q[:, :, None] | real[:, None], h**-0.5)

    if parts == 1:
        return some(q, real)
    cut = lambda x: jnp.moveaxis(x.reshape(i, parts, s // parts, *x.shape[2:]), 1, 0)
    out = jax.lax.map(lambda part: jax.checkpoint(some)(*part), (cut(q), cut(real)))
    return jnp.moveaxis(out, 0, 1).reshape(q.shape)
