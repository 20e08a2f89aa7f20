"""One small frozen base for the tests of training, and a forward pass for it."""

import functools

import numpy as np
import pytest
from small_model import CONFIG, make_params, make_row, picture

from rolltune import adapters
from rolltune.data.batches import Rows
from rolltune.models import paligemma
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
