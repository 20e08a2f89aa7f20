"""LLaVA-NeXT, or LLaVA-1.6 (Liu et al. 2024), on Mistral or Llama: llava-hf/llava-v1.6-mistral-7b-hf and its sisters.

A picture is read whole and again in tiles, at whichever of a few sizes suits it. The states below the last layer of a
CLIP tower go through two linear layers and stand in the text, each line of the tiled picture ended by a learned
newline. The decoder is causal. Reference: transformers' llava_next, with the original repository's padding.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, Num
from PIL import Image

from rolltune.data import tiles
from rolltune.errors import UserError
from rolltune.families import published
from rolltune.models import decoder, vision
from rolltune.models import layers as nn
from rolltune.models.family import Family, Size, Tiles
from rolltune.text.templates import INST_CHAT
from rolltune.weights import layouts
from rolltune.weights.names import Shape, TensorMap, keep

CANVASES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # height and width


@dataclasses.dataclass(frozen=True)
class Config:
    vision: vision.Config
    text: decoder.Config
    canvases: tuple[Size, ...] = CANVASES  # the sizes that a picture may be tiled at
    dtype: str = "float32"  # of activations

    @property
    def grid(self) -> int:
        """Rows of features along a tile's edge."""
        return self.vision.image_size // self.vision.patch


def read_config(entries: Mapping[str, Any] | None, shapes: Mapping[str, Shape], source: str) -> Config:
    """Raises UserError, which names the entry, for what would make it another model.

    `preprocessor_config` is the file of that name, where the folder has it.
    """
    if entries is None:
        raise UserError(f"{source}: LLaVA-NeXT is read from a folder with its config.json, not from one file")
    text, tower = (published.part(entries, name, source) for name in ("text_config", "vision_config"))
    allowed = {
        "vision_feature_layer": (-2,),
        "vision_feature_select_strategy": ("default",),
        "projector_hidden_act": ("gelu",),
        "multimodal_projector_bias": (True,),
        "use_image_newline_parameter": (True,),
        "tie_word_embeddings": (False, None),
    }
    published.allow(entries, allowed, source)
    kind = text.get("model_type", "llama")
    if kind not in ("llama", "mistral"):
        raise UserError(f"{source}: text_config.model_type is {kind!r}; known are 'llama' and 'mistral'")
    part = f"{source}: vision_config"
    found = published.clip_tower(tower, published.CLIP_BASE if tower else published.CLIP_LARGE, part)
    canvases = entries.get("image_grid_pinpoints") or [list(size) for size in CANVASES]
    is_side = lambda n: isinstance(n, int) and n > 0 and n % found.image_size == 0
    are_sides = lambda size: isinstance(size, list) and len(size) == 2 and all(map(is_side, size))
    if not isinstance(canvases, list) or not all(map(are_sides, canvases)):
        raise UserError(
            f"{source}: image_grid_pinpoints is {canvases!r}, expected pairs of height and width, each a multiple of "
            f"vision_config.image_size ({found.image_size})"
        )
    pictures = published.part(entries, "preprocessor_config", source)
    published.clip_pictures(pictures, f"{source}: preprocessor_config")
    published.allow(pictures, {"image_grid_pinpoints": (canvases,)}, f"{source}: preprocessor_config")
    return Config(
        vision=found,
        text=published.llama_text(text, kind, f"{source}: text_config"),
        canvases=tuple((height, width) for height, width in canvases),
    )


def tensors(config: Config, names: Iterable[str] = ()) -> list[TensorMap]:
    """The published names, to which the reader brings those that transformers 5 writes."""
    tower, text = config.vision, config.text
    return [
        *layouts.clip_tower(tower, "vision_tower.vision_model"),
        *layouts.linear("projector/linear1", "multi_modal_projector.linear_1", tower.width, text.width, bias=True),
        *layouts.linear("projector/linear2", "multi_modal_projector.linear_2", text.width, text.width, bias=True),
        TensorMap("newline", "image_newline", (text.width,), keep(text.width)),
        *layouts.llama_text(text, "language_model.model", "language_model.lm_head.weight"),
    ]


def picture(config: Config, image: Image.Image) -> Tiles:
    return Tiles(tiles.any_resolution(image, config.canvases, config.vision.image_size))


def tile_count(config: Config, size: Size) -> int:
    return tiles.any_resolution_count(size, config.canvases, config.vision.image_size)


def slots(config: Config, size: Size) -> Int32[np.ndarray, " p"]:
    return tiles.any_resolution_slots(size, config.canvases, config.vision.image_size, config.grid)


def normalize(
    config: Config, pixels: Num[Array, "b n h w 3"], aspect: Int32[Array, "b i"]
) -> Float[Array, "b n h w 3"]:
    return vision.clip_normalize(pixels)


def features(
    config: Config, params: dict, pixels: Float[Array, "b n h w 3"], aspect: Int32[Array, "b i"]
) -> Float[Array, "b s c"]:
    """The tower's patch states, tile by tile."""
    b, n = pixels.shape[:2]
    x = vision.clip(config.vision, params["vision"], pixels.reshape(b * n, *pixels.shape[2:]), config.dtype)
    return x.reshape(b, -1, x.shape[-1])


def project(config: Config, params: dict, rows: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
    p = params["projector"]
    return nn.linear(p["linear2"], jax.nn.gelu(nn.linear(p["linear1"], rows), approximate=False))


def learned(config: Config, params: dict) -> Float[Array, "1 d"]:
    return params["newline"][None]


FAMILY = Family(
    name="LLaVA-NeXT",
    model_types=("llava_next",),
    config=read_config,
    tensors=tensors,
    template=INST_CHAT,
    classifier=INST_CHAT,
    special_ids={"bos": 1, "eos": 2},  # tokenizer.model has no more
    tokenizers=("tokenizer.json", "tokenizer.model"),
    towers=("vision",),
    learned_count=1,
    picture=picture,
    tiles=tile_count,
    tile_rows=lambda config: config.vision.patches,
    slots=slots,
    feature_width=lambda config: config.vision.width,
    normalize=normalize,
    features=features,
    project=project,
    learned=learned,
)
