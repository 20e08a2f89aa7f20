"""PaliGemma and PaliGemma 2 (Beyer et al. 2024, arXiv:2407.07726; Steiner et al. 2024, arXiv:2412.03555).

A SigLIP tower's patch states go through one linear layer and stand before the text in a Gemma decoder.
Image and prompt see each other both ways; the answer is causal. Reference: big_vision's
models/proj/paligemma/paligemma.py, with its conventions for tokens and preprocessing; transformers differs
where `Config` has a switch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Num
from PIL import Image

from rolltune.families import paligemma_config
from rolltune.families import paligemma_names as names
from rolltune.models import decoder, vision
from rolltune.models import layers as nn
from rolltune.models.family import Family, Size, Tiles
from rolltune.text.templates import PLAIN_PREFIX
from rolltune.weights import whole
from rolltune.weights.names import Shape


@dataclasses.dataclass(frozen=True)
class Config:
    vision: vision.Config
    text: decoder.Config
    resize: str = "bilinear"  # of `picture`: bilinear (big_vision's training), bilinear_float (its demo), bicubic (HF)
    dtype: str = "float32"  # of activations


def _so400m(size: int) -> vision.Config:
    return vision.Config(image_size=size, patch=14, width=1152, layers=27, heads=16, mlp=4304)


_GEMMA = decoder.Config(vocab=257152, width=2048, layers=18, heads=8, kv_heads=1, head_dim=256, mlp=16384)


def _gemma2(head_dim: int = 256, **sizes: Any) -> decoder.Config:
    return decoder.Config(vocab=257152, head_dim=head_dim, post_norms=True, attn_softcap=50.0, **sizes)


_GEMMA2_SIZES = {
    "3b": _gemma2(width=2304, layers=26, heads=8, kv_heads=4, mlp=9216),
    "10b": _gemma2(width=3584, layers=42, heads=16, kv_heads=8, mlp=14336),
    "28b": _gemma2(128, width=4608, layers=46, heads=32, kv_heads=16, mlp=36864, query_scale=144**-0.5),
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


def read_config(config: Mapping[str, Any] | None, shapes: Mapping[str, Shape], source: str) -> Config:
    """From config.json or, beside a npz, from the shapes of its tensors and what a whole model has beside it."""
    if config is not None and config.get("format") == whole.FORMAT:
        sizes, resize = paligemma_config.with_unsaid(names.sizes_from_npz(shapes, source), config["config"], source)
    elif config is not None:
        sizes, resize = paligemma_config.sizes_from_hf(config, source), "bicubic"
    else:
        sizes, resize = names.sizes_from_npz(shapes, source), "bilinear"
        # big_vision, whose format this is, applies neither in training.
        sizes["text"] |= {"final_softcap": None, "sliding_window": None}
    return Config(vision.Config(**sizes["vision"]), decoder.Config(**sizes["text"]), resize)


def picture(config: Config, image: Image.Image) -> Tiles:
    """One tile: an RGB picture at the model's size, aspect ignored, in 0..255.

    uint8, but float32 for `bilinear_float`, which does not round. `bilinear` truncates to uint8
    as big_vision's `resize(antialias=True)` does; `bicubic` is transformers' SiglipImageProcessor.
    """
    size = (config.vision.image_size,) * 2
    if config.resize == "bicubic":
        return Tiles(np.asarray(image.resize(size, Image.Resampling.BICUBIC))[None])
    bands = [band.convert("F").resize(size, Image.Resampling.BILINEAR) for band in image.split()]
    resized = np.stack([np.asarray(band) for band in bands], -1)[None]
    return Tiles(resized if config.resize == "bilinear_float" else np.clip(resized, 0, 255).astype(np.uint8))


def slots(config: Config, size: Size) -> Int32[np.ndarray, " p"]:
    """Every patch in its order, whatever the picture's size."""
    return np.arange(config.vision.patches, dtype=np.int32)


def normalize(config: Config, tiles: Num[Array, "b n h w 3"], aspect: Int32[Array, "b i"]) -> Float[Array, "b n h w 3"]:
    return tiles.astype(jnp.float32) / 127.5 - 1


def features(
    config: Config, params: dict, tiles: Float[Array, "b n h w 3"], aspect: Int32[Array, "b i"]
) -> Float[Array, "b s c"]:
    b, n = tiles.shape[:2]
    x = vision.run(config.vision, params["vision"], tiles.reshape(b * n, *tiles.shape[2:]), config.dtype)
    return x.reshape(b, n * x.shape[1], -1)


def project(config: Config, params: dict, rows: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
    return nn.linear(params["projector"], rows)


FAMILY = Family(
    name="PaliGemma",
    model_types=("paligemma",),
    config=read_config,
    tensors=lambda config, found: names.rows_for(found, config),
    template=PLAIN_PREFIX,
    classifier=PLAIN_PREFIX,
    special_ids={"pad": 0, "eos": 1, "bos": 2},
    tokenizers=("tokenizer.model", "paligemma_tokenizer.model"),
    towers=("vision",),
    npz=names.npz_rows,
    unsaid=paligemma_config.unsaid,
    hf_entries=paligemma_config.hf_config,
    picture=picture,
    tiles=lambda config, size: 1,
    tile_rows=lambda config: config.vision.patches,
    slots=slots,
    feature_width=lambda config: config.vision.width,
    normalize=normalize,
    features=features,
    project=project,
)


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
