"""The vision tower: SigLIP's ViT, scanned over its stacked layers (Zhai et al. 2023, arXiv:2303.15343)."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float, Num

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
    heads = lambda y: y.reshape(*y.shape[:-1], config.heads, -1)

    def block(x, p):
        y = nn.layer_norm(p["norm1"], x, config.norm_eps)
        q, k, v = (heads(nn.linear(p["attn"][name], y)) for name in "qkv")
        y = nn.attend(q, k, v, None, q.shape[-1] ** -0.5)
        x = x + nn.linear(p["attn"]["o"], y.reshape(*y.shape[:2], -1))
        y = nn.linear(p["mlp"]["up"], nn.layer_norm(p["norm2"], x, config.norm_eps))
        return x + nn.linear(p["mlp"]["down"], jax.nn.gelu(y)), None

    x, _ = jax.lax.scan(block, x, p["layers"])
    return nn.layer_norm(p["norm"], x, config.norm_eps)
