"""One small frozen base for the tests of training, and a forward pass for it."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from PIL import Image
from small_model import CONFIG, Letters, make_example, make_params, make_row, picture

from rolltune import adapters
from rolltune.base import Model
from rolltune.data.batches import Rows
from rolltune.families import paligemma
from rolltune.training.rolls import Start
from rolltune.training.step import Forward


@pytest.fixture(scope="session")
def params():
    return make_params()


@pytest.fixture(scope="session")
def table(params):
    """Features of eight pictures."""
    pictures = np.concatenate([picture(n) for n in range(8)])
    return paligemma.Features(paligemma.image_features(CONFIG, params, pictures[:, None]))


@pytest.fixture(scope="session")
def forward():
    return Forward(functools.partial(paligemma.log_probs, CONFIG))


METHODS = adapters.METHODS | {
    "rules": [(r"text/layers/attn/[qv]/kernel", "lora"), (r"text/norm/scale", "full"), (r".*", "frozen")]
}


@pytest.fixture(scope="session")
def frozen_and_start(params):
    """`frozen_and_start("lora")`: (the frozen tree, what a roll begins with), as a session makes them."""

    def split(method: str) -> tuple[dict, Start]:
        without = {name: part for name, part in params.items() if name not in ("vision", "projector")}
        words = adapters.plan(METHODS[method], list(adapters.flatten(without)))
        lora = {path: leaf.shape for path, leaf in adapters.flatten(without).items() if words[path] == "lora"}
        frozen, full = adapters.partition(without, words)
        return frozen, Start(lora, full)

    return split


def rows_of(examples, answers=None) -> Rows:
    """Rows that point into `table`: the picture is the number in the example's id."""

    def encode(example, images):
        number = np.array([int(example.id.removeprefix("row")) % 8], np.int32)
        if answers is None:
            return make_row(example.prompt, example.answer, pixels=number)
        return make_row(example.prompt, *answers, label=answers.index(example.answer), pixels=number)

    return Rows(examples, encode, open_image=lambda path, frame: None)


@pytest.fixture(scope="session")
def make_rows():
    return rows_of


@pytest.fixture
def make_model(params, tmp_path, monkeypatch):
    """`make_model(hash="a", resize="bicubic")`: a loaded model, its cache in a folder of the test's own."""
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))

    def make(hash="weights", **changes) -> Model:
        known = tmp_path / f"{hash}.json"
        known.write_text(json.dumps({"hash": hash}))
        return Model(paligemma, dataclasses.replace(CONFIG, **changes), params, Letters(), "small", None, known)

    return make


@pytest.fixture
def examples(tmp_path):
    """Five rows: of one picture, of two, of none, of a picture with other bytes, of an animation's second frame."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3)).astype(np.uint8)
    pictures = [Image.fromarray(values) for values in noise]
    pictures[0].save(tmp_path / "a.png")
    pictures[1].save(tmp_path / "b.png")
    pictures[2].save(tmp_path / "c.gif", save_all=True, append_images=pictures[3:])
    a, b, c = (tmp_path / name for name in ("a.png", "b.png", "c.gif"))
    made = [((a,), ()), ((a, b), ()), ((), ()), ((b,), ()), ((c,), (1,)), ((c,), (0,))]
    return [
        dataclasses.replace(make_example(n), images=images, frames=frames) for n, (images, frames) in enumerate(made)
    ]
