"""The text decoder of all families: one layer function, whose differences are data.

Gemma 1 and 2, Llama, Mistral and Phi-3 differ in norms, activation, soft-caps, windows and rotary embedding; Mllama
has layers of gated cross-attention between them. Layers are a tree stacked on axis 0, scanned: compiled once for all;
or a list of trees, one a layer, unrolled: longer to compile, and no layer's weights are copied out of the stack at run
time. Layers of two kinds are always a list; the kind is seen from a layer's keys.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Shaped

from rolltune.models import attention
from rolltune.models import layers as nn
from rolltune.models.attention import Rope
from rolltune.models.cut import held, lookup, one_by_one, whole
from rolltune.trees import Either

PLAIN = Rope()


@dataclasses.dataclass(frozen=True)
class Config:
    vocab: int
    width: int
    layers: int  # of all kinds
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    norm: str = "gemma"  # gemma: the stored scale is an offset from one; llama: the factor itself
    act: str = "gelu"  # gelu (tanh) or silu
    scaled_embedding: bool = True  # Gemma multiplies token embeddings by sqrt(width)
    post_norms: bool = False  # Gemma 2: also norm what attention and MLP give back
    attn_softcap: float | None = None
    final_softcap: float | None = None  # on the logits; big_vision leaves it out, transformers applies it
    query_scale: float | None = None  # None: head_dim ** -0.5
    sliding_window: int | None = None  # of even layers; big_vision has none
    all_slide: bool = False  # of all layers, as Mistral 7B has it
    rope: Rope = PLAIN
    norm_eps: float = 1e-6
    empty_rows_attend: bool = False  # in cross layers, a token that sees no picture: Meta leaves it as it is, and so
    # do we; transformers lets it attend to all of them (True is for parity with it)

    @property
    def attn_scale(self) -> float:
        return self.head_dim**-0.5 if self.query_scale is None else self.query_scale


class Context(NamedTuple):
    """What every layer needs of the sequence."""

    angles: tuple[Array, Array]
    mask: Bool[Array, "b t s"]
    local: Bool[Array, "b t s"] | None  # the mask of sliding-window layers
    keys: Float[Array, "b x d"] | None = None  # picture rows that cross layers attend to
    sees: Bool[Array, "b t x"] | None = None  # which of them each token sees
    causal: bool = False  # the mask is causal and nothing else, padding at the end apart


def visible(blocks: Int[Array, "b t"], segments: Int[Array, "b t"]) -> Bool[Array, "b t t"]:
    """Who sees whom. With image and prompt i p, answers a (1) and b (2), and padding:

      i p a a b b .
    i 1 1 0 0 0 0 0     blocks   0 0 1 2 1 2 0
    p 1 1 0 0 0 0 0     segments 0 0 1 1 2 2 -1
    a 1 1 1 0 0 0 0
    a 1 1 1 1 0 0 0     image and prompt see each other both ways and never
    b 1 1 0 0 1 0 0     the answer; an answer sees them and itself causally,
    b 1 1 0 0 1 1 0     and no other answer. A causal prompt has rising blocks.
    """
    q, k = segments[:, :, None], segments[:, None, :]
    return (blocks[:, None, :] <= blocks[:, :, None]) & ((k == 0) | (k == q)) & (k >= 0) & (q >= 0)


def context(
    config: Config,
    positions: Int[Either, "b t"],
    blocks: Int[Either, "b t"],
    segments: Int[Either, "b t"],
    keys: Float[Array, "b x d"] | None = None,
    sees: Bool[Array, "b t x"] | None = None,
    causal: bool = False,
) -> Context:
    positions, blocks, segments = jnp.asarray(positions), jnp.asarray(blocks), jnp.asarray(segments)
    mask = visible(blocks, segments)
    local = None
    if config.sliding_window and positions.shape[1] > config.sliding_window:
        near = positions[:, :, None] - positions[:, None, :] < config.sliding_window
        prompt = (blocks[:, :, None] == 0) & (blocks[:, None, :] == 0)
        local = mask & (near | prompt)
    angles = attention.rope_angles(config.rope, positions, config.head_dim, jnp.sum(segments == 0, 1))
    return Context(angles, mask, local, keys, sees, causal and local is None)


def places(x: Shaped[Array, "b t *x"], at: Int[Either, "b m"]) -> Shaped[Array, "b m *x"]:
    """The rows of x at these places."""
    return jnp.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), 1)


def kept(x: Array) -> Array:
    """The same, by a name: what remat "attention" keeps of a layer, beside its input."""
    return checkpoint_name(x, attention.ATTENTION)


def depth(layers: Any) -> int:
    """How many layers a stacked tree or a list of layers holds."""
    return len(layers) if isinstance(layers, list | tuple) else jax.tree.leaves(layers)[0].shape[0]


def _norm(config: Config, p: dict, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    return nn.rms_norm(x, p["scale"], config.norm_eps, config.norm == "gemma")


def _bound(config: Config, p: dict) -> Float[Array, ""]:
    return nn.norm_bound(p["scale"], config.norm == "gemma")


def _heads(config: Config, x: Float[Array, "b t f"]) -> Float[Array, "b t n h"]:
    return x.reshape(*x.shape[:-1], -1, config.head_dim)


def _qkv(
    config: Config, attn: dict, y: Float[Array, "b t d"], at: Int[Either, "b m"] | None, largest: Float[Array, ""]
) -> tuple[Array, ...]:
    """Queries (at some places only), keys and values: of three matrices, or of Phi's fused one."""
    if "qkv" in attn:
        cuts = (config.heads * config.head_dim, (config.heads + config.kv_heads) * config.head_dim)
        q, k, v = jnp.split(nn.linear(attn["qkv"], y, largest), cuts, -1)
        q = q if at is None else places(q, at)
    elif at is None:
        q, k, v = nn.linears([attn["q"], attn["k"], attn["v"]], y, largest)
    else:
        k, v = nn.linears([attn["k"], attn["v"]], y, largest)
        q = nn.linear(attn["q"], places(y, at), largest)
    return _heads(config, q), _heads(config, k), _heads(config, v)


def _mlp(config: Config, p: dict, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    y = _norm(config, p["pre_mlp_norm"], x)
    names = ("gate_up",) if "gate_up" in p["mlp"] else ("gate", "up")
    kernels = [p["mlp"][name]["kernel"] for name in names]
    y = nn.gated_mlp(y, kernels, p["mlp"]["down"]["kernel"], config.act, _bound(config, p["pre_mlp_norm"]))
    return _norm(config, p["post_mlp_norm"], y) if config.post_norms else y


def layer(config: Config, p: dict, x: Float[Array, "b t d"], angles, mask, past=None, at=None, causal=False):
    """One block. `past` is (keys, values, slot) of this layer; returns the states and the keys and values seen.

    With `at` [B, M], the states at these places only: nothing but keys and values is computed elsewhere.
    """
    y = _norm(config, p["pre_attn_norm"], x)
    q, k, v = _qkv(config, p["attn"], y, at, _bound(config, p["pre_attn_norm"]))
    asked = angles
    if at is not None:
        x, mask = places(x, at), places(mask, at)
        asked = places(angles[0], at), places(angles[1], at)
    q, k, v = map(kept, (attention.rotate(q, asked), attention.rotate(k, angles), v))
    if past is not None:
        keys, values, slot = past
        k, v = attention.put(keys, k.astype(keys.dtype), slot), attention.put(values, v.astype(values.dtype), slot)
    y = kept(attention.attend(q, k, v, mask, config.attn_scale, config.attn_softcap, causal and at is None))
    y = kept(nn.linear(p["attn"]["o"], y.reshape(*y.shape[:2], -1)))
    x = x + (_norm(config, p["post_attn_norm"], y) if config.post_norms else y)
    return x + _mlp(config, p, x), (k, v)


def cross_layer(config: Config, p: dict, x: Float[Array, "b t d"], keys, sees, past=None, at=None):
    """A block of gated cross-attention to picture rows (Llama 3.2: Grattafiori et al. 2024, arXiv:2407.21783).

    `keys` [B, X, D] are the rows, `sees` [B, T, X] which of them a token attends to; a token that sees none is left as
    it is. `past` holds the keys' projections once they are known.
    """
    cross = p["cross"]
    if at is not None:
        x, sees = places(x, at), places(sees, at)
    some = jnp.any(sees, -1, keepdims=True)
    q = _norm(config, cross["q_norm"], _heads(config, nn.linear(cross["q"], _norm(config, p["pre_attn_norm"], x))))
    if past is None:
        k, v = (_heads(config, y) for y in nn.linears([cross["k"], cross["v"]], keys))
        past = (_norm(config, cross["k_norm"], k), v)
    q, (k, v) = kept(q), map(kept, past)
    y = kept(attention.attend(q, k, v, sees | ~some if config.empty_rows_attend else sees, config.attn_scale))
    y = kept(nn.linear(cross["o"], y.reshape(*y.shape[:2], -1)))
    gate = lambda name, y: jnp.tanh(p[name].astype(jnp.float32)).astype(x.dtype) * y
    x = x + gate("gate_attn", y if config.empty_rows_attend else jnp.where(some, y, 0))
    return x + gate("gate_mlp", jnp.where(some, _mlp(config, p, x), 0)), (k, v)


LAST = 2  # layers of a list that keep all with remat: going back begins with them, while nothing else is held


def run(
    config: Config,
    layers: Any,
    x: Float[Array, "b t d"],
    context: Context,
    *,
    first: int = 0,
    cache: tuple[Any, Int[Array, ""]] | None = None,
    keep_kv: bool = False,
    remat: bool | str = False,
    at: Int[Either, "b m"] | None = None,
) -> tuple[Float[Array, "b _ d"], Any]:
    """Runs the layers, which are numbers `first`, `first` + 1, ... of the model (odd and even ones may differ).

    Returns the states and, with `keep_kv` or a `cache`, each layer's keys and values [B, S, K, H]: stacked on a leading
    axis or in a list, as the layers are. `cache` is such keys and values and the place where the next tokens go. With
    `at`, the states at these places only [B, M, D]; the last layer of a list then computes no others. Without rows to
    attend to, cross layers are left out. `remat` keeps a layer's input alone for the way back, with "attention" all
    that its attention makes, too: only the MLP, whose gate and up are the widest, is worked out again.
    """
    keep_kv = keep_kv or cache is not None
    past, slot = (None, None) if cache is None else cache

    def block(x, p, sliding, past, at=None):
        if "cross" in p:
            x, kv = cross_layer(config, p, x, context.keys, context.sees, past, at)
        else:
            mask = context.mask if context.local is None else jnp.where(sliding, context.local, context.mask)
            own = None if past is None else (*past, slot)
            x, kv = layer(config, p, x, context.angles, mask, own, at, context.causal)
        return x, kv if keep_kv else None

    n, plain = depth(layers), block
    names = (attention.ATTENTION,) if remat == attention.ATTENTION else ()
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    block = jax.checkpoint(lambda x, p, *more: plain(x, held(p), *more), policy=policy) if remat else block
    sliding = ((jnp.arange(n) + first) % 2 == 0) | config.all_slide
    if isinstance(layers, list | tuple):
        kept = []
        block, plain = jax.jit(block), jax.jit(plain)  # traced once for all layers of a kind
        for i, p in enumerate(layers):
            if i >= n - LAST:
                block = plain
            own, asked = None if past is None else past[i], at if i == n - 1 else None
            if "cross" in p and context.keys is None and own is None:
                x, kv = x if asked is None else places(x, asked), None
            else:
                p = nn.in_dtype(p, x.dtype)
                x, p = nn.in_turn(x, p) if cache is None else one_by_one(x, p)
                x, kv = block(x, p, sliding[i], own, asked)
            kept.append(kv)
        return x, kept if keep_kv else None
    x, kept = jax.lax.scan(lambda x, each: block(x, *each), x, (layers, sliding, past))
    return x if at is None else places(x, at), kept


def embed(config: Config, p: dict, tokens: Int[Either, "b t"], dtype: Any) -> Float[Array, "b t d"]:
    """Token embeddings; Gemma's times sqrt(width), the factor rounded to the embedding's dtype as published."""
    found = lookup(p["embed"]["embedding"], tokens).astype(dtype)
    return found * jnp.asarray(config.width**0.5, dtype) if config.scaled_embedding else found


def logits(config: Config, p: dict, x: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
    """Float32 logits of final states: of the classes, where there is such a head; else through the head or the tied
    embedding."""
    return _logits(config, p, _norm(config, p["norm"], x))


def _logits(config: Config, p: dict, y: Float[Array, "*b d"], low: Float[Array, "*b r"] | None = None) -> Array:
    """`logits` of normed states; `low` is what an adapter of the head makes of them, where that is known."""
    if "classes" in p:  # few columns, newly trained: in float32
        return nn.product(y.astype(jnp.float32), p["classes"]["kernel"])
    if "head" in p:
        out = nn.logits(y, p["head"]["kernel"], low)
    else:
        out = nn.tied_logits(y, whole(p["embed"]["embedding"], y.dtype))
    return config.final_softcap * jnp.tanh(out / config.final_softcap) if config.final_softcap else out


# Float32 logits [*, V] held at a time: 256 MiB, 260 rows at V = 257,152. Batch 4 of PaliGemma-3B with answers of 512
# tokens needs 0.8 GiB beside two layers so, 1.2 with twice as many rows, 3.4 with all; each further part reads the
# table of words twice more.
HEAD_LOGITS_AT_ONCE = 2**26


def target_log_probs(
    config: Config, p: dict, states: Float[Array, "b m d"], targets: Int[Either, "b m"]
) -> Float[Array, "b m"]:
    """Log-probability of each target given the state that predicts it, in float32. Logits come a chunk at a time."""
    y, own = _norm(config, p["norm"], states), {name: p[name] for name in OUTPUTS if name in p}
    head = own.get("head", {}).get("kernel")
    # An adapter's dropout goes by row and place, which are not to be told any more once the rows are one after another.
    low = nn.low_rank(y, head) if isinstance(head, nn.LoRA) else None
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    return _log_probs(config, own, *jax.tree.map(flat, (y, low, jnp.asarray(targets)))).reshape(targets.shape)


OUTPUTS = ("classes", "head", "embed")  # what logits are made by, of parameters


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_probs(config, p, y, low, wanted):
    """[N] of states [N, D]. The slope of a row is its own times what comes back for it: it is worked out while its
    logits are there, so that they are neither kept nor made again."""
    return _in_chunks(config, lambda *rows: _chunk_log_probs(config, p, *rows), (y, low, wanted))


def _chunk_log_probs(config, p, y, low, wanted):
    out = _logits(config, p, y, low)
    # Compared, not taken: the slope is then one pass over the logits, where an index would scatter into zeros.
    own = jnp.where(jnp.arange(out.shape[-1]) == wanted[:, None], out, 0)
    return jnp.sum(own, -1) - jax.nn.logsumexp(out, -1)


def _in_chunks(config, of_rows, given):
    """`of_rows` of all rows [N, ...], for some of them at a time."""
    count, at_once = len(given[-1]), max(1, HEAD_LOGITS_AT_ONCE // config.vocab)
    if count <= at_once:
        return of_rows(*given)
    chunks = -(-count // at_once)
    size = -(-count // chunks)

    def cut(x):
        return jnp.pad(x, ((0, chunks * size - count), *[(0, 0)] * (x.ndim - 1))).reshape(chunks, size, *x.shape[1:])

    found = jax.lax.map(lambda each: of_rows(*each), jax.tree.map(cut, given))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def _log_probs_forward(config, p, y, low, wanted):
    def with_slopes(y, low, wanted):
        found, back = jax.vjp(lambda y, low: _chunk_log_probs(config, p, y, low, wanted), y, low)
        return found, back(jnp.ones_like(found))

    found, slopes = _in_chunks(config, with_slopes, (y, low, wanted))
    return found, (p, y, low, wanted, slopes)


def _log_probs_backward(config, saved, dy):
    p, y, low, wanted, slopes = saved
    again = jax.checkpoint(lambda p, *rows: _chunk_log_probs(config, p, *rows))
    whole = lambda p: _in_chunks(config, lambda *rows: again(p, *rows), (y, low, wanted))
    # Logits are made again where they are trained; else this is used by nobody, and left out when compiled.
    of_p = jax.vjp(whole, p)[1](dy)[0]
    dy, dlow = jax.tree.map(lambda slope: (dy[:, None] * slope).astype(slope.dtype), slopes)
    return of_p, dy, dlow, None


_log_probs.defvjp(_log_probs_forward, _log_probs_backward)
