"""A small model of each family. What must hold of every one of them is tested over this list, once.

Another family is one entry more: its small config, random parameters, a tokenizer that knows the tokens its template
names, and sizes of pictures that its tiles differ for.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from small_model import CONFIG, CONFIG2, Drawn, Letters, drawn, encoded, make_params

from rolltune import adapters, trees
from rolltune.base import Model
from rolltune.batch import Batch, Row, Source
from rolltune.data.batches import Encoded, Feed, evaluation_batches
from rolltune.data.shapes import Shape, joint, shapes_for
from rolltune.families import llava_next, mllama, paligemma, phi3_vision
from rolltune.inputs import features
from rolltune.inputs.feeds import TileFeed
from rolltune.models import forward
from rolltune.models.family import Family, Size
from rolltune.models.forward import Network
from rolltune.training import setup
from rolltune.training.plan import plan_of
from rolltune.training.rolls import InitialWeights
from rolltune.weights.roll_file import Base


@dataclasses.dataclass(frozen=True)
class Small:
    name: str
    family: Family
    config: Any
    make_params: Callable[[], dict]
    tokenizer: Any = dataclasses.field(default_factory=Letters)
    sizes: tuple[Size, ...] = ((28, 28), (20, 30))

    @functools.cached_property
    def params(self) -> dict:
        return self.make_params()

    @functools.cached_property
    def ready(self) -> dict:
        """The parameters as they run: layers of two kinds in one list."""
        return trees.arrange(trees.unflatten(trees.flatten(self.params)), self.model.stacks)

    @functools.cached_property
    def pictures(self) -> Drawn:
        return drawn(self.family, self.config, self.sizes)

    @property
    def net(self) -> Network:
        return Network(self.family, self.config)

    @property
    def model(self) -> Model:
        return Model(self.family, self.config, self.tokenizer, Base(self.name, self.name))

    @functools.cached_property
    def tiles(self) -> TileFeed:
        """The tower runs in the step."""
        return TileFeed(self.family.learned_count, self.pictures)

    def row(self, prompt: str, *answers: str, shown: Sequence[int] = (0,), **more: Any) -> Row:
        return encoded(self.pictures, self.tokenizer, prompt, answers, shown, **more)

    def room(self, tokens: int = 24, targets: int = 8, pictures: int = 1) -> Shape:
        """One shape for rows of as many tokens beside their pictures and the words of the format, whichever they show:
        one program serves them."""
        empty = self.row("", "", shown=[])
        places = [self.pictures.places[key] for key in self.pictures.sizes]
        longest = max(len(one.slots) for one in places) * pictures
        tiles = max(self.pictures.tiles(key) for key in self.pictures.sizes) * pictures
        tokens, targets = tokens + longest + len(empty.tokens), targets + len(empty.targets) - 1
        return Shape(tokens, targets, max(len(one.keys) for one in places) * pictures, pictures, tiles)

    def batch(self, *rows: Row, size: int = 0, room: Shape | None = None) -> Batch:
        """The rows with their tiles, in the smallest shape that holds them or in `room`."""
        shape = joint(map(self.tiles.shape, rows)) if room is None else room
        return self.tiles.make(rows, shape, size or len(rows))[0]

    def prepare(
        self,
        method: str = "lora",
        first: int = 0,
        listed: bool = False,
        rules: Sequence[tuple[str, str]] = (),
        dtype: str = "float32",
    ) -> "Prepared":
        """The frozen tree, what a roll begins with, and how rows come in, as `training.setup` makes them."""
        flat = trees.flatten(self.params)
        words = adapters.trainability(rules or adapters.METHODS[method], list(flat))
        plan = plan_of(self.model, words, first)
        start = setup.initial_weights(self.model, self.params, plan, dtype)
        base = trees.arrange(trees.unflatten(flat), self.model.stacks, first, listed, plan.paths("full"))
        feed = self.tiles if plan.in_step else self.table(plan.projected)
        return Prepared(Network(self.family, self.config, plan.projected), plan.stacks, base, start, feed)

    @functools.cache  # noqa: B019  # a handful, alive as long as the tests
    def table(self, projected: bool = False) -> features.TableFeed:
        """All rows of features in one table."""
        return features.table(self.model, self.params, self.pictures, projected)


@dataclasses.dataclass(frozen=True)
class Prepared:
    network: Network
    stacks: Mapping[str, tuple[int, ...]]
    base: dict
    start: InitialWeights
    feed: Feed


def random_params(family: Family, config: Any, seed: int = 0) -> dict:
    """Random parameters of a family's name map: no norm is the identity, no bias or gate zero."""
    draw, made = np.random.default_rng(seed), {}
    for one in family.tensors(config, ()):
        noise, last = draw.standard_normal(one.ours).astype(np.float32), one.path.rpartition("/")[2]
        if last == "kernel":
            noise *= one.shape[-2] ** -0.5
        elif last == "scale":
            noise = 1 + 0.1 * noise
        elif last == "bias":
            noise *= 0.1
        made[one.path] = jax.numpy.asarray(noise if last != "embedding" else noise * one.shape[-1] ** -0.5)
    return trees.unflatten(made)


def small(name: str, family: Family, entries: Mapping[str, Any], *specials: str, **more: Any) -> Small:
    config = family.config(entries, {}, name)
    return Small(name, family, config, functools.partial(random_params, family, config), Letters(*specials), **more)


TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, vocab_size=96)
TOWER = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=14)
LLAVA = {
    "text_config": {**TEXT, "model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None},
    "vision_config": {**TOWER, "image_size": 28},
    "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
}
PHI = {
    **TEXT,
    **{
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "num_key_value_heads": 4,
        "original_max_position_embeddings": 40,
        "max_position_embeddings": 512,
    },
    "rope_scaling": {"type": "su", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.2, 2.7, 4.2, 5.7]},
    "vision_config": {**TOWER, "image_size": 28},
    "img_processor": {"image_dim_out": 16, "num_img_tokens": 1, "name": "clip_vision_model"},
}
MLLAMA = {
    "image_token_index": 96,
    "text_config": {**TEXT, "num_hidden_layers": 5, "num_key_value_heads": 2, "cross_attention_layers": [1, 3]},
    "vision_config": {
        **{"hidden_size": 16, "intermediate_size": 24, "attention_heads": 2, "patch_size": 14, "image_size": 28},
        **{"num_hidden_layers": 3, "num_global_layers": 1, "intermediate_layers_indices": [1], "vision_output_dim": 32},
    },
}
LLAMA_NAMES = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<|image|>")
# What it says in rows without pictures is long, and no part of what is tested here.
PLAIN_MLLAMA = dataclasses.replace(
    mllama.FAMILY, template=dataclasses.replace(mllama.FAMILY.template, preamble=""), special_ids={}
)

FAMILIES = [
    Small("paligemma", paligemma.FAMILY, CONFIG, make_params),
    Small("paligemma2", paligemma.FAMILY, CONFIG2, functools.partial(make_params, CONFIG2)),
    small("llava", llava_next.FAMILY, LLAVA, sizes=((28, 56), (40, 30))),
    small(
        "phi3", phi3_vision.FAMILY, PHI, "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>", "</s>",
        sizes=((28, 56), (40, 30)),
    ),
    small("mllama", PLAIN_MLLAMA, MLLAMA, *LLAMA_NAMES, sizes=((28, 28), (20, 50))),
]  # fmt: skip
PALIGEMMA = FAMILIES[0]


def name_of(small: Small) -> str:
    return small.name


@functools.partial(jax.jit, static_argnums=0)
def log_probs(net: Network, params: dict, batch: Batch, source: Source) -> jax.Array:
    return forward.log_probs(net, params, batch, source)


def score_all(net: Network, params: dict, rows: Sequence[Row], feed: Feed, batch: int = 2) -> list[np.ndarray]:
    """Log-probabilities of each row's targets, as an evaluation computes them."""
    shapes = shapes_for([feed.shape(row) for row in rows])
    return score_encoded(net, params, Encoded(rows, feed, shapes, ["" for _ in rows]), batch)


def score_encoded(net: Network, params: dict, data: Encoded, batch: int = 2) -> list[np.ndarray]:
    found: list[Any] = [None] * len(data)
    for places, some, source in evaluation_batches(data, batch):
        for place, own in zip(places, np.asarray(log_probs(net, params, some, source)), strict=False):
            found[place] = own[: len(data.rows[place].targets)]
    return found
