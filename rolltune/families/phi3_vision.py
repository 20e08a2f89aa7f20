"""Phi-3-vision and Phi-3.5-vision (Abdin et al. 2024, arXiv:2404.14219): microsoft/Phi-3.5-vision-instruct.

A picture is scaled onto as many tiles as it may have, padded with white, and read again small. Of the states below the
last layer of a CLIP tower, each square of four is one row, four times as wide; two learned vectors as wide end the
lines and part the two views. All of them go through two linear layers and stand in a causal text.

Reference: the repository's own modeling_phi3_v.py. One thing differs: its rotary embedding changes to the long factors
with the call that first sees a position past the original length, so that keys cached before it are turned otherwise
than those after. Here a row has the factors of its prompt's length throughout.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Num
from PIL import Image

from rolltune.data import tiles
from rolltune.errors import UserError
from rolltune.families import published
from rolltune.models import decoder, vision
from rolltune.models import layers as nn
from rolltune.models.family import Family, Size, Tiles
from rolltune.text.templates import BAR_CHAT
from rolltune.weights import layouts
from rolltune.weights.names import Shape, TensorMap, keep


@dataclasses.dataclass(frozen=True)
class Config:
    vision: vision.Config
    text: decoder.Config
    num_crops: int = 4  # tiles a picture may have beside the small view; 3.5 advises 16 for single pictures
    dtype: str = "float32"  # of activations

    @property
    def grid(self) -> int:
        """Rows of features along a tile's edge."""
        return self.vision.image_size // self.vision.patch // 2

    @property
    def feature_width(self) -> int:
        return 4 * self.vision.width


def read_config(entries: Mapping[str, Any] | None, shapes: Mapping[str, Shape], source: str) -> Config:
    """Raises UserError, which names the entry, for what would make it another model.

    `preprocessor_config`, the file of that name where the folder has it, tells `num_crops`. The published config.json
    has no sizes of the tower, which the published code knows by itself; `vision_config`, in CLIP's own words, is for
    others.
    """
    if entries is None:
        raise UserError(f"{source}: Phi-3-vision is read from a folder with its config.json, not from one file")
    tower = published.clip_tower(entries.get("vision_config") or {}, published.CLIP_LARGE, f"{source}: vision_config")
    published.allow(entries, {"tie_word_embeddings": (False, None)}, source)
    embedding = {
        "embedding_cls": ("image",),
        "hd_transform_order": ("sub_glb",),
        "projection_cls": ("mlp",),
        "use_hd_transform": (True,),
        "with_learnable_separator": (True,),
    }
    published.allow(published.part(entries, "embd_layer", source), embedding, f"{source}: embd_layer")
    reading = {
        "name": ("clip_vision_model",),
        "image_dim_out": (tower.width,),
        "num_img_tokens": (tower.patches // 4,),
        "layer_idx": (-2,),
        "type_feature": ("patch",),
    }
    published.allow(published.part(entries, "img_processor", source), reading, f"{source}: img_processor")
    if tower.image_size // tower.patch % 2:
        raise UserError(f"{source}: vision_config has {tower.patches} patches a tile, which are no squares of four")
    pictures, where = entries.get("preprocessor_config") or {}, f"{source}: preprocessor_config"
    published.clip_pictures(pictures, where)
    crops = published.sizes(pictures, {"num_crops": 4}, ("num_crops",), where)
    return Config(tower, published.llama_text(entries, "phi3_v", source), crops["num_crops"])


def tensors(config: Config, names: Iterable[str] = ()) -> list[TensorMap]:
    own, width, D = "model.vision_embed_tokens", config.feature_width, config.text.width
    return [
        *layouts.clip_tower(config.vision, f"{own}.img_processor.vision_model"),
        *layouts.linear("projector/linear1", f"{own}.img_projection.0", width, D, bias=True),
        *layouts.linear("projector/linear2", f"{own}.img_projection.2", D, D, bias=True),
        TensorMap("separators/line", f"{own}.sub_GN", (width,), keep(1, 1, 1, width)),
        TensorMap("separators/views", f"{own}.glb_GN", (width,), keep(1, 1, width)),
        *layouts.llama_text(config.text, "model", "lm_head.weight", fused=True),
    ]


def picture(config: Config, image: Image.Image) -> Tiles:
    return Tiles(tiles.hd_transform(image, config.num_crops, config.vision.image_size))


def tile_count(config: Config, size: Size) -> int:
    return tiles.hd_count(size, config.num_crops, config.vision.image_size)


def slots(config: Config, size: Size) -> Int32[np.ndarray, " p"]:
    return tiles.hd_slots(size, config.num_crops, config.vision.image_size, config.grid)


def normalize(
    config: Config, pixels: Num[Array, "b n h w 3"], aspect: Int32[Array, "b i"]
) -> Float[Array, "b n h w 3"]:
    return vision.clip_normalize(pixels)


def features(
    config: Config, params: dict, pixels: Float[Array, "b n h w 3"], aspect: Int32[Array, "b i"]
) -> Float[Array, "b s c"]:
    """The tower's patch states, four neighbours side by side in one row: upper two, then lower two."""
    b, n = pixels.shape[:2]
    x = vision.clip(config.vision, params["vision"], pixels.reshape(b * n, *pixels.shape[2:]), config.dtype)
    x = x.reshape(b * n, config.grid, 2, config.grid, 2, config.vision.width).swapaxes(2, 3)
    return x.reshape(b, -1, config.feature_width)


def project(config: Config, params: dict, rows: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
    p = params["projector"]
    return nn.linear(p["linear2"], jax.nn.gelu(nn.linear(p["linear1"], rows), approximate=False))


def learned(config: Config, params: dict) -> Float[Array, "2 d"]:
    """The separators go through the projector, too."""
    separators = jnp.stack([params["separators"]["line"], params["separators"]["views"]])
    return project(config, params, separators.astype(config.dtype))


FAMILY = Family(
    name="Phi-3-vision",
    model_types=("phi3_v",),
    config=read_config,
    tensors=tensors,
    template=BAR_CHAT,
    classifier=BAR_CHAT,
    special_ids={"bos": 1, "<|endoftext|>": 32000, "<|assistant|>": 32001, "<|end|>": 32007, "<|user|>": 32010},
    tokenizers=("tokenizer.json",),
    towers=("vision",),
    learned_count=2,
    picture=picture,
    tiles=tile_count,
    with_crops=lambda config, crops: dataclasses.replace(config, num_crops=crops),
    tile_rows=lambda config: config.grid**2,
    slots=slots,
    feature_width=lambda config: config.feature_width,
    normalize=normalize,
    features=features,
    project=project,
    learned=learned,
)
