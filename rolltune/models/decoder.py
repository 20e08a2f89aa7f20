"""The text decoder: Gemma 1 and 2. One layer function, run by a scan over stacked weights or over a list of layers."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from rolltune.models import layers as nn


@dataclasses.dataclass(frozen=True)
class Config:
    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    post_norms: bool = False  # Gemma 2: also norm what attention and MLP give back
    attn_softcap: float | None = None
    final_softcap: float | None = None  # on the logits; big_vision leaves it out, transformers applies it
    query_scale: float | None = None  # None: head_dim ** -0.5
    sliding_window: int | None = None  # of even layers; big_vision has none
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6

    @property
    def attn_scale(self) -> float:
        return self.head_dim**-0.5 if self.query_scale is None else self.query_scale


class Context(NamedTuple):
    """What every layer needs of the sequence."""

    angles: tuple[Array, Array]
    mask: Bool[Array, "b t s"]
    local: Bool[Array, "b t s"] | None  # the mask of sliding-window layers


def visible(blocks: Int[Array, "b t"], segments: Int[Array, "b t"]) -> Bool[Array, "b t t"]:
    """Who sees whom. With image and prompt i p, answers a (1) and b (2), and padding:

      i p a a b b .
    i 1 1 0 0 0 0 0     blocks   0 0 1 2 1 2 0
    p 1 1 0 0 0 0 0     segments 0 0 1 1 2 2 -1
    a 1 1 1 0 0 0 0
    a 1 1 1 1 0 0 0     image and prompt see each other both ways and never
    b 1 1 0 0 1 0 0     the answer; an answer sees them and itself causally,
    b 1 1 0 0 1 1 0     and no other answer.
    """
    q, k = segments[:, :, None], segments[:, None, :]
    return (blocks[:, None, :] <= blocks[:, :, None]) & ((k == 0) | (k == q)) & (k >= 0) & (q >= 0)


def context(config: Config, positions: Array, blocks: Array, segments: Array) -> Context:
    mask = visible(blocks, segments)
    local = None
    if config.sliding_window and positions.shape[1] > config.sliding_window:
        near = positions[:, :, None] - positions[:, None, :] < config.sliding_window
        prompt = (blocks[:, :, None] == 0) & (blocks[:, None, :] == 0)
        local = mask & (near | prompt)
    return Context(nn.rope_angles(positions, config.head_dim, config.rope_theta), mask, local)


class Cache(NamedTuple):
    """Keys and values of all layers, and the slot the next tokens go to."""

    k: Float[Array, "l b s k h"]
    v: Float[Array, "l b s k h"]
    at: Int[Array, ""]


def layer(config: Config, p: dict, x: Float[Array, "b t d"], angles, mask, past=None, at=None):
    """One block. `past` is (keys, values, slot) of this layer; returns the states and the keys and values seen.

    With `at` [B, M], the states at these places only: nothing but keys and values is worked out elsewhere.
    """
    norm = lambda name, y: nn.rms_norm(y, p[name]["scale"], config.norm_eps)
    heads = lambda y: y.reshape(*y.shape[:-1], -1, config.head_dim)
    attn, y = p["attn"], norm("pre_attn_norm", x)
    if at is None:
        q, k, v = map(heads, nn.linears([attn["q"], attn["k"], attn["v"]], y))
        asked = angles
    else:
        k, v = map(heads, nn.linears([attn["k"], attn["v"]], y))
        x, y, mask = (places(part, at) for part in (x, y, mask))
        q = heads(nn.linear(attn["q"], y))
        asked = tuple(jnp.take_along_axis(part, at[:, :, None, None], 1) for part in angles)
    q, k = nn.rotate(q, asked), nn.rotate(k, angles)
    if past is not None:
        keys, values, slot = past
        k = jax.lax.dynamic_update_slice_in_dim(keys, k.astype(keys.dtype), slot, 1)
        v = jax.lax.dynamic_update_slice_in_dim(values, v.astype(values.dtype), slot, 1)
    y = nn.attend(q, k, v, mask, config.attn_scale, config.attn_softcap)
    y = nn.linear(attn["o"], y.reshape(*y.shape[:2], -1))
    x = x + (norm("post_attn_norm", y) if config.post_norms else y)
    gate, up = nn.linears([p["mlp"]["gate"], p["mlp"]["up"]], norm("pre_mlp_norm", x))
    y = nn.gelu_gated_product(gate, up, p["mlp"]["down"]["kernel"])
    return x + (norm("post_mlp_norm", y) if config.post_norms else y), (k, v)


def places(x: Num[Array, "b t x"], at: Int[Array, "b m"]) -> Num[Array, "b m x"]:
    """The rows of x at these places."""
    return jnp.take_along_axis(x, at[:, :, None], 1)


def depth(layers: Any) -> int:
    """How many layers a stacked tree or a list of layers holds."""
    return len(layers) if isinstance(layers, list | tuple) else jax.tree.leaves(layers)[0].shape[0]


def run(
    config: Config,
    layers: Any,
    x: Float[Array, "b t d"],
    context: Context,
    *,
    first: int = 0,
    cache: Cache | None = None,
    keep_kv: bool = False,
    remat: bool = False,
    at: Int[Array, "b m"] | None = None,
) -> tuple[Float[Array, "b t d"], Any]:
    """Runs the layers, which are numbers `first`, `first` + 1, ... of the model (odd and even ones may differ).

    `layers` is a tree stacked on axis 0, scanned: compiled once for all layers; or a list of trees, one a
    layer, unrolled: longer to compile, and no layer's weights are copied out of the stack at run time.
    Returns the states and, with `keep_kv` or a `cache`, keys and values [L, B, S, K, H] of all layers. With `at`,
    the states at these places only [B, M, D]; the last layer of a list then works out no others.
    """
    keep_kv = keep_kv or cache is not None

    def block(x, p, sliding, past, at=None):
        mask = context.mask
        if context.local is not None:
            mask = jnp.where(sliding, context.local, context.mask)
        past = None if past is None else (*past, cache.at)
        x, kv = layer(config, p, x, context.angles, mask, past, at)
        return x, kv if keep_kv else None

    if remat:
        block = jax.checkpoint(block)
    n = depth(layers)
    sliding = (jnp.arange(n) + first) % 2 == 0
    past = None if cache is None else (cache.k, cache.v)
    if isinstance(layers, list | tuple):
        kept = []
        block = jax.jit(block)  # traced once for all of them
        for i, p in enumerate(layers):
            own = jax.tree.map(lambda c, i=i: c[i], past)
            x, kv = block(x, p, sliding[i], own, at if i == n - 1 else None)
            kept.append(kv)
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept) if keep_kv else None
    x, kept = jax.lax.scan(lambda x, each: block(x, *each), x, (layers, sliding, past))
    return x if at is None else places(x, at), kept


def embed(config: Config, p: dict, tokens: Int[Array, "b t"], dtype: Any) -> Float[Array, "b t d"]:
    """Token embeddings times sqrt(width), the factor rounded to the embedding's dtype as in the published models."""
    return p["embed"]["embedding"][tokens].astype(dtype) * jnp.asarray(config.width**0.5, dtype)


def logits(config: Config, p: dict, x: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
    """Float32 logits of final states, through the tied embedding."""
    y = nn.rms_norm(x, p["norm"]["scale"], config.norm_eps)
    out = nn.tied_logits(y, p["embed"]["embedding"])
    return config.final_softcap * jnp.tanh(out / config.final_softcap) if config.final_softcap else out


TARGETS_AT_ONCE = 2048  # rows of [*, V] float32 logits held at a time: 2 GiB at V = 257,152


def target_log_probs(
    config: Config, p: dict, states: Float[Array, "b m d"], targets: Int[Array, "b m"]
) -> Float[Array, "b m"]:
    """Log-probability of each target given the state that predicts it, in float32. Logits come a chunk at a time."""

    def some(states, wanted):
        out = logits(config, p, states)
        return jnp.take_along_axis(out, wanted[:, None], -1)[:, 0] - jax.nn.logsumexp(out, -1)

    states, wanted = states.reshape(-1, states.shape[-1]), targets.reshape(-1)
    count = wanted.size
    if count <= TARGETS_AT_ONCE:
        return some(states, wanted).reshape(targets.shape)
    chunks = -(-count // TARGETS_AT_ONCE)
    size = -(-count // chunks)
    fill = chunks * size - count
    states = jnp.pad(states, ((0, fill), (0, 0))).reshape(chunks, size, -1)
    wanted = jnp.pad(wanted, (0, fill)).reshape(chunks, size)
    found = jax.lax.map(lambda each: jax.checkpoint(some)(*each), (states, wanted))
    return found.reshape(-1)[:count].reshape(targets.shape)
