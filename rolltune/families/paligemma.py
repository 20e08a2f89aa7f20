"""PaliGemma and PaliGemma 2 (Beyer et al. 2024, arXiv:2407.07726; Steiner et al. 2024, arXiv:2412.03555).

A SigLIP tower's patch states go through one linear layer and stand before the text in a Gemma decoder.
Image and prompt see each other both ways; the answer is causal. Reference: big_vision's
models/proj/paligemma/paligemma.py, with its conventions for tokens and preprocessing; transformers differs
where `Config` has a switch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num
from PIL import Image

from rolltune.data.batches import IMAGE, Batch, Row
from rolltune.models import decoder, vision


@dataclasses.dataclass(frozen=True)
class Config:
    vision: vision.Config
    text: decoder.Config
    resize: str = "bilinear"  # of `pixels`: bilinear (big_vision's training), bilinear_float (its demo), bicubic (HF)
    dtype: str = "float32"  # of activations

    @property
    def image_tokens(self) -> int:
        return self.vision.patches


def _so400m(size: int) -> vision.Config:
    return vision.Config(image_size=size, patch=14, width=1152, layers=27, heads=16, mlp=4304)


_GEMMA = decoder.Config(vocab=257152, width=2048, layers=18, heads=8, kv_heads=1, head_dim=256, mlp=16384)
_GEMMA2 = dict(vocab=257152, head_dim=256, post_norms=True, attn_softcap=50.0)
_GEMMA2_SIZES = {
    "3b": decoder.Config(width=2304, layers=26, heads=8, kv_heads=4, mlp=9216, **_GEMMA2),
    "10b": decoder.Config(width=3584, layers=42, heads=16, kv_heads=8, mlp=14336, **_GEMMA2),
    "28b": decoder.Config(
        width=4608, layers=46, heads=32, kv_heads=16, mlp=36864, query_scale=144**-0.5, **(_GEMMA2 | {"head_dim": 128})
    ),
}

CONFIGS = {f"paligemma-3b-{size}": Config(_so400m(size), _GEMMA) for size in (224, 448, 896)} | {
    f"paligemma2-{name}-{size}": Config(_so400m(size), text)
    for name, text in _GEMMA2_SIZES.items()
    for size in (224, 448, 896)
}
CONFIGS["tiny"] = Config(
    vision.Config(image_size=112, patch=14, width=192, layers=6, heads=4, mlp=768),
    decoder.Config(vocab=1024, width=160, layers=4, heads=4, kv_heads=1, head_dim=40, mlp=448),
)


def pixels(config: Config, image: Image.Image) -> Num[np.ndarray, "h w 3"]:
    """An RGB picture at the model's size, aspect ignored, in 0..255.

    uint8, but float32 for `bilinear_float`, which does not round. `bilinear` truncates to uint8
    as big_vision's `resize(antialias=True)` does; `bicubic` is transformers' SiglipImageProcessor.
    """
    size = (config.vision.image_size,) * 2
    if config.resize == "bicubic":
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    bands = [band.convert("F").resize(size, Image.Resampling.BILINEAR) for band in image.split()]
    resized = np.stack([np.asarray(band) for band in bands], -1)
    if config.resize == "bilinear_float":
        return resized
    return np.clip(resized, 0, 255).astype(np.uint8)


def encode(
    config: Config, tokenizer: Any, prompt: str, answers: Sequence[str], label: int, pixels: Num[np.ndarray, "i h w 3"]
) -> Row:
    """Tokens of `<image>... <bos> prompt \\n`, then each candidate answer with its end of sequence.

    The newline is tokenised by itself, as big_vision does. Without answers the row is the prompt alone,
    for generation.
    """
    images = len(pixels) * config.image_tokens
    shared = [IMAGE] * images + [tokenizer.bos, *tokenizer.encode(prompt), *tokenizer.encode("\n")]
    start = len(shared)
    tokens, positions = list(shared), list(range(start))
    blocks, segments = [0] * start, [0] * start
    predict, targets, candidates = [], [], []
    for number, answer in enumerate(answers):
        ids = tokenizer.encode(answer)
        predict += [start - 1, *range(len(tokens), len(tokens) + len(ids))]
        targets += [*ids, tokenizer.eos]
        candidates += [number] * (len(ids) + 1)
        tokens += ids
        positions += range(start, start + len(ids))
        blocks += range(1, len(ids) + 1)
        segments += [number + 1] * len(ids)
    ints = lambda values: np.asarray(values, np.int32)
    lists = (tokens, positions, blocks, segments, predict, targets, candidates)
    return Row(*map(ints, lists), label=label, pixels=pixels)  # type: ignore[misc]  # it can't count the seven


def image_features(config: Config, params: dict, pixels: Num[Array, "b i h w 3"]) -> Float[Array, "b p d"]:
    """What stands for the images in the decoder: [B, I*patches, D]. Frozen, it is worth computing once."""
    b, i = pixels.shape[:2]
    x = vision.run(config.vision, params["vision"], pixels.reshape(b * i, *pixels.shape[2:]), config.dtype)
    return vision.nn.linear(params["projector"], x).reshape(b, i * x.shape[1], -1)


def context(config: Config, batch: Batch) -> decoder.Context:
    return decoder.context(config.text, batch.positions, batch.blocks, batch.segments)


def embed(config: Config, params: dict, batch: Batch, features: Float[Array, "b p d"]) -> Float[Array, "b t d"]:
    """The decoder's input: image features, which are not scaled, then token embeddings, which are.

    A row with fewer images than its neighbours has fewer places for them; one without has text alone.
    """
    text = decoder.embed(config.text, params["text"], jnp.maximum(batch.tokens, 0), config.dtype)
    features = jnp.pad(features.astype(config.dtype), ((0, 0), (0, text.shape[1] - features.shape[1]), (0, 0)))
    return jnp.where((batch.tokens == IMAGE)[:, :, None], features, text)


class Pixels(NamedTuple):
    """Decoded pictures: `Batch.images` holds rows of it."""

    values: Num[Array, "n h w 3"]


class Features(NamedTuple):
    """Image features worked out before: `Batch.images` holds rows of it."""

    values: Float[Array, "n p d"]


class States(NamedTuple):
    """States of whole rows above the layers that nobody trains: `Batch.images[:, 0]` is the row of it.

    None: `Batch.images[:, 0]` are the states themselves.
    """

    values: Float[Array, "n t d"] | None


Table = Pixels | Features | None  # None: the batch brings its pixels, or their features


def features_of(config: Config, params: dict, images: Array, table: Table) -> Float[Array, "b p d"]:
    """The image features of a batch's `images`: brought by it, out of the table, or worked out here."""
    if not images.shape[1]:
        return jnp.zeros((len(images), 0, config.text.width), config.dtype)
    if images.ndim == 4:
        return images.reshape(len(images), -1, config.text.width)
    if isinstance(table, Features):
        return table.values[images].reshape(len(images), -1, config.text.width)
    return image_features(config, params, images if table is None else table.values[images])


def hidden(
    config: Config,
    params: dict,
    batch: Batch,
    table: Table | States = None,
    *,
    at: Int[Array, "b m"] | None = None,
    remat: bool = False,
) -> Float[Array, "b t d"]:
    """Decoder states before the final norm, with `at` [B, M] at these places only.

    Layers in `text/lower` are run first: nothing in them is trained.
    """
    here = context(config, batch)
    lower = params["text"].get("lower")
    if isinstance(table, States):
        first, x = config.text.layers - decoder.depth(params["text"]["layers"]), batch.images[:, 0]
        x = (x if table.values is None else table.values[x])[:, : batch.tokens.shape[1]]
    else:
        first, x = 0, embed(config, params, batch, features_of(config, params, batch.images, table))
        if lower is not None:
            first, (x, _) = decoder.depth(lower), decoder.run(config.text, lower, x, here)
    return decoder.run(config.text, params["text"]["layers"], x, here, first=first, remat=remat, at=at)[0]


def lower_states(config: Config, params: dict, batch: Batch, table: Table = None) -> Float[Array, "b t d"]:
    """What `States` holds of these rows: the decoder's states above `text/lower`."""
    below = params | {"text": params["text"] | {"layers": params["text"]["lower"]}}
    del below["text"]["lower"]
    return hidden(config, below, batch, table)


def log_probs(
    config: Config, params: dict, batch: Batch, table: Table | States = None, *, remat: bool = False
) -> Float[Array, "b m"]:
    """Log-probability of each of the batch's targets, float32."""
    states = hidden(config, params, batch, table, at=batch.predict, remat=remat)
    return decoder.target_log_probs(config.text, params["text"], states, batch.targets)


def logits(config: Config, params: dict, hidden_at: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
    """Float32 logits of states out of `hidden`; ask for few of them: V is 257,152."""
    return decoder.logits(config.text, params["text"], hidden_at)


def generate(
    config: Config,
    params: dict,
    batch: Batch,
    steps: int,
    eos: int,
    table: Table = None,
) -> Int[Array, "b n"]:
    """Greedy answers to rows encoded without answers: `steps` tokens each, `eos` from the first one on."""
    features = features_of(config, params, batch.images, table)
    text, layers = params["text"], params["text"]["layers"]
    lengths = jnp.sum(batch.segments == 0, 1)  # [B]
    x = embed(config, params, batch, features)
    last = lengths[:, None] - 1
    x, (k, v) = decoder.run(config.text, layers, x, context(config, batch), keep_kv=True, at=last)
    first = jnp.argmax(logits(config, params, x[:, 0]), -1)
    room = lambda kv: jnp.pad(kv, ((0, 0), (0, 0), (0, steps), (0, 0), (0, 0)))
    prompt = batch.tokens.shape[1]
    cache = decoder.Cache(room(k), room(v), jnp.asarray(prompt))
    slots = jnp.arange(prompt + steps)

    def step(carry, i):
        token, done, (k, v) = carry
        done = done | (token == eos)
        out = jnp.where(done, eos, token)
        positions = (lengths + i)[:, None]
        mask = (slots < lengths[:, None]) | ((slots >= prompt) & (slots <= prompt + i))  # [B, S]
        angles = decoder.nn.rope_angles(positions, config.text.head_dim, config.text.rope_theta)
        local = None
        if config.text.sliding_window and len(slots) > config.text.sliding_window:
            at = jnp.where(slots >= prompt, lengths[:, None] + slots - prompt, slots)
            local = (mask & (positions - at < config.text.sliding_window))[:, None]
        x = decoder.embed(config.text, text, out[:, None], config.dtype)
        here = decoder.Context(angles, mask[:, None], local)
        x, kv = decoder.run(config.text, layers, x, here, cache=decoder.Cache(k, v, prompt + i))
        return (jnp.argmax(logits(config, params, x[:, 0]), -1), done, kv), out

    done = jnp.zeros(len(lengths), bool)
    _, tokens = jax.lax.scan(step, (first, done, (cache.k, cache.v)), jnp.arange(steps))
    return tokens.T


def init(config: Config, key: Array, dtype: Any = jnp.float32) -> dict:
    """Random parameters, for pretraining and tests: normal with a deviation of fan_in ** -0.5, norms at identity."""
    v, t = config.vision, config.text
    keys = iter(jax.random.split(key, 32))

    def weight(*shape, fan_in=None):
        fan_in = fan_in or shape[-2]
        return (jax.random.normal(next(keys), shape, jnp.float32) * fan_in**-0.5).astype(dtype)

    zeros = lambda *shape: jnp.zeros(shape, dtype)
    norm = lambda *shape: {"scale": jnp.ones(shape, dtype), "bias": zeros(*shape)}
    dense = lambda *shape: {"kernel": weight(*shape), "bias": zeros(*shape[:-2], shape[-1])}
    offset = lambda *shape: {"scale": zeros(*shape)}
    queries, keys_ = t.heads * t.head_dim, t.kv_heads * t.head_dim
    text_layers = {
        "attn": {
            "q": {"kernel": weight(t.layers, t.width, queries)},
            "k": {"kernel": weight(t.layers, t.width, keys_)},
            "v": {"kernel": weight(t.layers, t.width, keys_)},
            "o": {"kernel": weight(t.layers, queries, t.width)},
        },
        "mlp": {
            "gate": {"kernel": weight(t.layers, t.width, t.mlp)},
            "up": {"kernel": weight(t.layers, t.width, t.mlp)},
            "down": {"kernel": weight(t.layers, t.mlp, t.width)},
        },
        "pre_attn_norm": offset(t.layers, t.width),
        "pre_mlp_norm": offset(t.layers, t.width),
    }
    if t.post_norms:
        text_layers |= {name: offset(t.layers, t.width) for name in ("post_attn_norm", "post_mlp_norm")}
    return {
        "vision": {
            "patch": dense(v.patch**2 * 3, v.width),
            "position": weight(v.patches, v.width, fan_in=v.width),
            "layers": {
                "norm1": norm(v.layers, v.width),
                "attn": {name: dense(v.layers, v.width, v.width) for name in "qkvo"},
                "norm2": norm(v.layers, v.width),
                "mlp": {"up": dense(v.layers, v.width, v.mlp), "down": dense(v.layers, v.mlp, v.width)},
            },
            "norm": norm(v.width),
        },
        "projector": dense(v.width, t.width),
        "text": {
            "embed": {"embedding": weight(t.vocab, t.width, fan_in=t.width)},
            "layers": text_layers,
            "norm": offset(t.width),
        },
    }
