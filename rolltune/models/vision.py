"""Vision towers, scanned over their stacked layers: SigLIP's and CLIP's ViT.

Zhai et al. 2023, arXiv:2303.15343; Radford et al. 2021, arXiv:2103.00020. Both are pre-norm transformers over patches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from rolltune.models import attention
from rolltune.models import layers as nn


@dataclasses.dataclass(frozen=True)
class Config:
    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp: int
    norm_eps: float = 1e-6

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch) ** 2


def patchify(pixels: Num[Array, "b h w 3"], patch: int) -> Num[Array, "b p q"]:
    """[B, H, W, 3] -> [B, patches, patch*patch*3], row by row: a patch convolution is then one product."""
    b, height, width, channels = pixels.shape
    x = pixels.reshape(b, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * channels)


def run(config: Config, p: dict, pixels: Float[Array, "b h w 3"], dtype: Any) -> Float[Array, "b p d"]:
    """All patch states after the final norm."""
    x = nn.linear(p["patch"], patchify(pixels, config.patch).astype(dtype)) + p["position"].astype(dtype)
    return nn.layer_norm(p["norm"], _blocks(config, p["layers"], x, jax.nn.gelu), config.norm_eps)


# Of the pictures that OpenAI's CLIP was trained on, in 0..1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_normalize(pixels: Num[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """Pixels in 0..255 as `clip` takes them, float32."""
    return (pixels.astype(jnp.float32) / 255 - jnp.asarray(CLIP_MEAN)) / jnp.asarray(CLIP_STD)


def clip(config: Config, p: dict, pixels: Float[Array, "b h w 3"], dtype: Any) -> Float[Array, "b p d"]:
    """The patch states that vision-language models read: those below CLIP's last layer, without a norm, or the class's.

    `p["layers"]` are the layers below it: nothing here reads the last one, or the norm after it.
    """
    x = nn.linear(p["patch"], patchify(pixels, config.patch).astype(dtype))
    first = jnp.broadcast_to(p["class"].astype(dtype), (len(x), 1, config.width))
    x = jnp.concatenate([first, x], 1) + p["position"].astype(dtype)
    x = _blocks(config, p["layers"], nn.layer_norm(p["pre_norm"], x, config.norm_eps), quick_gelu)
    return x[:, 1:]


def quick_gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The approximation of GELU that OpenAI's CLIP was trained with (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return x * jax.nn.sigmoid(1.702 * x)


def _blocks(
    config: Config, layers: dict, x: Float[Array, "b p d"], act: Callable[[Array], Array]
) -> Float[Array, "b p d"]:
    heads = lambda y: y.reshape(*y.shape[:-1], config.heads, -1)

    def block(x, p):
        y = nn.layer_norm(p["norm1"], x, config.norm_eps)
        q, k, v = (heads(nn.linear(p["attn"][name], y)) for name in "qkv")
        y = attention.attend(q, k, v, None, q.shape[-1] ** -0.5)
        x = x + nn.linear(p["attn"]["o"], y.reshape(*y.shape[:2], -1))
        y = nn.linear(p["mlp"]["up"], nn.layer_norm(p["norm2"], x, config.norm_eps))
        return x + nn.linear(p["mlp"]["down"], act(y)), None

    return jax.lax.scan(block, x, layers)[0]
