"""Rows and starts for the tests of training. They may import `made_rolls` in every import mode of pytest."""

import sys
from pathlib import Path

import pytest
from small_families import FAMILIES, PALIGEMMA, Prepared, name_of
from small_model import make_example

from rolltune.data.batches import Encoded
from rolltune.data.shapes import shapes_for

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", params=FAMILIES, ids=name_of)
def small(request):
    return request.param


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """What adapters on the first of the families are trained with."""
    return PALIGEMMA.prepare()


@pytest.fixture(scope="session")
def encoded_rows(prepared):
    """`encoded_rows(answers)`: rows with these answers, each with the picture of its number, and their examples."""

    def make(answers, prompts=("is it?",)):
        examples = [make_example(n, prompts[n % len(prompts)], answer) for n, answer in enumerate(answers)]
        rows = [PALIGEMMA.row(one.prompt, one.answer, shown=[n % 8]) for n, one in enumerate(examples)]
        return Encoded(rows, prepared.feed, shapes_for([prepared.feed.shape(row) for row in rows]), list(answers))

    return make
