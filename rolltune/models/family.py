"""What a family of models is: data, and a few small functions. It has no forward and no encoding of its own.

A family's tree of parameters has the decoder under `text` (`text/embed`, the stacks of layers, `text/norm`, `text/head`
where it is not tied), and its own subtrees beside it. Where an image stands is an index: on the host, `slots` says of
each of a picture's places in the text which row of its features stands there; on the device, `features` and `project`
make the rows. Letters: B batch, I pictures, N tiles, P rows of features a tile, C their width, D the decoder's.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int32, Num
from PIL import Image

from rolltune.text.templates import Template
from rolltune.weights.names import Shape, TensorMap

Size = tuple[int, int]  # height and width of a picture: after EXIF, of the chosen frame
Stacks = Mapping[str, tuple[int, ...]]  # subtree of layers stacked on axis 0 -> their numbers in the decoder


class Tiles(NamedTuple):
    """A decoded picture as its family takes it."""

    pixels: Num[np.ndarray, "n h w 3"]  # uint8, or float32, in 0..255
    aspect: int = 0  # which shape of canvas it was put on, where the family tells shapes apart by a number


@dataclasses.dataclass(frozen=True, eq=False)  # one of a kind: compared and hashed as such
class Family:
    """`Config` below is the family's own frozen dataclass; it has `text` (a decoder.Config) and `dtype`."""

    name: str
    model_types: tuple[str, ...]  # of config.json
    # (config.json or None beside a npz, shapes of the tensors, the file's name) -> Config.
    # Entries that change numbers are read or refused, never ignored.
    config: Callable[[Mapping[str, Any] | None, Mapping[str, Shape], str], Any]
    # (Config, names of the tensors) -> the name map of the layout that has such names
    tensors: Callable[[Any, Iterable[str]], list[TensorMap]]
    template: Template
    classifier: Template  # of a row that a head above the decoder judges
    special_ids: Mapping[str, int]  # what the family's tokenizer has, so that another's is refused
    tokenizers: tuple[str, ...]  # names that its tokenizer's file may have, beside the weights
    other_templates: tuple[Template, ...] = ()  # of models of this kind whose tokenizer lacks the tokens of `template`
    stacks: Callable[[Any], Stacks] = lambda config: {"text/layers": tuple(range(config.text.layers))}
    towers: tuple[
        str, ...
    ] = ()  # subtrees that only `features` reads: they may leave the device once features are kept
    tower_stacks: tuple[str, ...] = ("vision/layers",)  # subtrees of a tower whose leaves have layers on axis 0
    # Config -> what the outputs of a head that the checkpoint brings are called; empty: it has none, or no names
    class_names: Callable[[Any], tuple[str, ...]] = lambda config: ()
    learned_count: int = (
        0  # E: vectors that stand between picture rows (newlines, separators), in `slots` before all rows
    )
    npz: Callable[[Any], list[TensorMap]] | None = None  # the map of big_vision's layout, where the family has one
    unsaid: Callable[[Any], dict[str, Any]] | None = None  # what that layout doesn't say of a Config, as plain JSON
    # (Config, dtype of the weights) -> config.json for the other layout, of a model that was read from a npz
    hf_entries: Callable[[Any, str], dict[str, Any]] | None = None
    # On the host. A text-only family has none of these.
    picture: Callable[[Any, Image.Image], Tiles] | None = None
    tiles: Callable[[Any, Size], int] | None = None  # how many tiles `picture` gives of a picture of that size
    # (Config, tiles that a picture may be cut into) -> Config; None: no such number decides
    with_crops: Callable[[Any, int], Any] | None = None
    tile_rows: Callable[[Any], int] | None = None  # P
    slots: Callable[[Any, Size], Int32[np.ndarray, " p"]] | None = None  # -1 a token | 0..E-1 learned | E+i row i
    keys: Callable[[Any, Size], Int32[np.ndarray, " x"]] | None = (
        None  # rows that cross-attention sees; None: it has none
    )
    # On the device.
    feature_width: Callable[[Any], int] | None = None  # C
    normalize: Callable[[Any, Num[Array, "b n h w 3"], Int32[Array, "b i"]], Float[Array, "b n h w 3"]] | None = None
    features: Callable[[Any, dict, Float[Array, "b n h w 3"], Int32[Array, "b i"]], Float[Array, "b s c"]] | None = None
    project: Callable[[Any, dict, Float[Array, "*b c"]], Float[Array, "*b d"]] | None = None
    learned: Callable[[Any, dict], Float[Array, "e d"]] | None = None
