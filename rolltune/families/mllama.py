"""Llama 3.2 Vision, which transformers calls Mllama (Llama Team 2024, arXiv:2407.21783, section 7).

A decoder of Llama 3.1's layers, with gated layers between them that attend to the pictures' rows: a picture is one
token of the text, and its rows are keys. Reference: Meta's llama-models, models/llama3/multimodal; transformers
differs where `mllama_vision.Config.kept_outputs` and `decoder.Config.empty_rows_attend` say so.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int32, Num
from PIL import Image

from rolltune.data import tiles
from rolltune.errors import UserError
from rolltune.families import mllama_names, mllama_vision, published
from rolltune.families.published import Entries
from rolltune.models import decoder, vision
from rolltune.models import layers as nn
from rolltune.models.family import Family, Size, Stacks, Tiles
from rolltune.text.templates import HEADER_CHAT, HEADER_TEXT
from rolltune.weights.names import Shape, TensorMap


@dataclasses.dataclass(frozen=True)
class Config:
    vision: mllama_vision.Config
    text: decoder.Config
    cross: tuple[int, ...]  # numbers of the decoder's layers with cross-attention, rising
    dtype: str = "float32"  # of activations

    @property
    def stacks(self) -> Stacks:
        """The decoder's layers are numbered through, whatever their kind."""
        own = tuple(number for number in range(self.text.layers) if number not in self.cross)
        return {"text/layers": own, "text/cross": self.cross}


def read_config(entries: Entries | None, shapes: Mapping[str, Shape], source: str) -> Config:
    """Sizes from a config.json; `preprocessor_config` is the content of the file of that name, where there is one.

    Raises UserError, which names the entry, for what would make it another model.
    """
    if entries is None:
        raise UserError(f"{source}: Llama 3.2 Vision's sizes are read from config.json: give the folder that holds it")
    text, tower = entries.get("text_config"), entries.get("vision_config")
    if not isinstance(text, dict) or not isinstance(tower, dict):
        raise UserError(f"{source}: expected the objects text_config and vision_config: download it again")
    where = f"{source}: text_config"
    allowed = {"model_type": ("mllama_text_model",), "dropout": (0, None), "tie_word_embeddings": (False, None)}
    published.allow(text, allowed, where)
    made = published.llama_text({"rope_theta": 500000.0, **text}, "mllama_text_model", where)
    cross = _rising(text, "cross_attention_layers", [3, 8, 13, 18, 23, 28, 33, 38], made.layers, where)
    made = dataclasses.replace(made, vocab=made.vocab + mllama_names.EXTRA_ROWS)
    image, beyond = entries.get("image_token_index", 128256), range(made.vocab)[-mllama_names.EXTRA_ROWS :]
    if image not in beyond:
        raise UserError(
            f"{source}: image_token_index is {image!r}, expected {beyond[0]} to {beyond[-1]}: the image's token has a "
            f"row of the embedding beyond vocab_size"
        )
    found = _tower(tower, f"{source}: vision_config")
    published.allow(entries.get("preprocessor_config") or {}, _preprocessing(found), f"{source}: preprocessor_config")
    return Config(found, made, cross)


def _preprocessing(tower: mllama_vision.Config) -> dict[str, Sequence[Any]]:
    """What `picture` and `normalize` do, in the words of preprocessor_config.json."""
    side = tower.image_size
    return {
        **dict.fromkeys(("do_convert_rgb", "do_normalize", "do_pad", "do_rescale", "do_resize"), (True, None)),
        "size": ({"height": side, "width": side},),
        "max_image_tiles": (tiles.CANVAS_TILES,),
        "resample": (2,),  # bilinear
        "rescale_factor": (1 / 255,),
        "image_mean": (list(vision.CLIP_MEAN),),
        "image_std": (list(vision.CLIP_STD),),
    }


VISION = {  # as published: transformers leaves out of a config.json what is its default
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
}


def _tower(entries: Entries, source: str) -> mllama_vision.Config:
    if "num_attention_heads" in entries:  # another of its names
        entries = {"attention_heads": entries["num_attention_heads"], **entries}
    allowed = {
        "model_type": ("mllama_vision_model",),
        "hidden_act": ("gelu",),
        "num_channels": (3,),
        "max_num_tiles": (tiles.CANVAS_TILES,),
        "supported_aspect_ratios": ([list(canvas) for canvas in tiles.GRIDS], None),
    }
    published.allow(entries, allowed, source)
    found = published.sizes(entries, VISION, tuple(VISION), source)
    made = mllama_vision.Config(
        image_size=found["image_size"],
        patch=found["patch_size"],
        width=found["hidden_size"],
        layers=found["num_hidden_layers"],
        global_layers=found["num_global_layers"],
        heads=found["attention_heads"],
        mlp=found["intermediate_size"],
        kept=_rising(entries, "intermediate_layers_indices", [3, 7, 15, 23, 30], found["num_hidden_layers"], source),
        norm_eps=published.number(entries, "norm_eps", 1e-5, source),
    )
    if made.width % made.heads or made.image_size % made.patch:
        raise UserError(
            f"{source}: {made.heads} attention_heads must divide a hidden_size of {made.width}, and a patch_size of "
            f"{made.patch} an image_size of {made.image_size}"
        )
    if (given := entries.get("vision_output_dim", made.features)) != made.features:
        raise UserError(
            f"{source}: vision_output_dim is {given!r}, but a hidden_size of {made.width} and {len(made.kept)} "
            f"intermediate_layers_indices make {made.features}"
        )
    return made


def _rising(entries: Entries, name: str, default: list[int], layers: int, source: str) -> tuple[int, ...]:
    """Numbers of layers."""
    numbers = default if entries.get(name) is None else entries[name]
    whole = isinstance(numbers, list) and numbers and all(type(number) is int for number in numbers)
    if not whole or sorted({*numbers} & {*range(layers)}) != numbers:
        raise UserError(f"{source}: {name} is {numbers!r}, expected rising numbers of the {layers} layers")
    return tuple(numbers)


def tensors(config: Config, names: Iterable[str]) -> list[TensorMap]:
    return mllama_names.hf_rows(config)


def picture(config: Config, image: Image.Image) -> Tiles:
    return Tiles(*tiles.canvas_tiles(image, config.vision.image_size))


def keys(config: Config, size: Size) -> Int32[np.ndarray, " x"]:
    """The rows of the tiles that the picture fills; those of the others come after them, and no token sees them."""
    return np.arange(tiles.real_tiles(size, config.vision.image_size) * config.vision.patches, dtype=np.int32)


def features(
    config: Config, params: dict, x: Float[Array, "b n h w 3"], aspect: Int32[Array, "b i"]
) -> Float[Array, "b s c"]:
    return mllama_vision.run(config.vision, params["vision"], x, aspect, config.dtype)


def normalize(config: Config, x: Num[Array, "b n h w 3"], aspect: Int32[Array, "b i"]) -> Float[Array, "b n h w 3"]:
    return mllama_vision.normalize(x, aspect)


def project(config: Config, params: dict, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
    return nn.linear(params["projector"], x)


FAMILY = Family(
    name="mllama",
    model_types=("mllama",),
    config=read_config,
    tensors=tensors,
    template=HEADER_CHAT,
    classifier=HEADER_TEXT,
    special_ids={"<|begin_of_text|>": 128000, "<|eot_id|>": 128009, "<|image|>": 128256},
    tokenizers=("tokenizer.json",),
    stacks=lambda config: config.stacks,
    towers=("vision",),
    tower_stacks=("vision/layers", "vision/global_layers"),
    picture=picture,
    tiles=lambda config, size: tiles.CANVAS_TILES,
    tile_rows=lambda config: config.vision.patches,
    slots=lambda config, size: np.array([-1], np.int32),  # the image's own token
    keys=keys,
    feature_width=lambda config: config.vision.features,
    normalize=normalize,
    features=features,
    project=project,
)
