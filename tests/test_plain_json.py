import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolltune import plain_json


class Pair(NamedTuple):
    left: object
    right: object


@dataclass(frozen=True)
class Thing:
    pair: Pair


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_what_a_run_logs_becomes_valid_json():
    value = {"loss": np.float32("nan"), 3: Thing(Pair(np.array([1.0, -np.inf]), Path("a/b"))), "n": np.int64(4)}
    assert json.loads(plain_json.dumps(value), parse_constant=refuse) == {
        "loss": "NaN",
        "3": {"pair": {"left": [1.0, "-Infinity"], "right": "a/b"}},
        "n": 4,
    }


def test_unknown_things_are_refused_not_turned_into_text():
    with pytest.raises(TypeError, match="object"):
        plain_json.dumps({"x": object()})


@given(st.recursive(st.floats() | st.text() | st.none() | st.integers(), st.lists, max_leaves=5))
def test_any_nested_numbers_give_one_line_of_valid_json(value):
    text = plain_json.dumps({"value": value})
    assert "\n" not in text
    json.loads(text, parse_constant=refuse)
