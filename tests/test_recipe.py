"""Recipes: from a file, changed on the command line, and every mistake named where it was made."""

import dataclasses
import json

import pytest

from rolltune import recipe
from rolltune.errors import UserError
from rolltune.recipe import Recipe

FILE = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"steps": 8, "rate": 1, "rates": [0.1, 0.2], "answers": ("yes", "no")})
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(text)
        return str(path)

    return write


def test_given_values_go_over_overrides_and_these_over_the_file(written):
    made = recipe.load(written(FILE), ["--config.steps=9", "--config.seed=4"], seed=5, metric=None)
    assert made == Recipe(steps=9, rate=1.0, rates=(0.1, 0.2), answers=("yes", "no"), seed=5)
    assert isinstance(made.rate, float)
    assert recipe.load(None) == Recipe()


def test_overrides_are_python_values_or_words():
    made = recipe.load(None, ["--config.answers=('a', 'b')", "--config.remat=true", "--config.prompt=is it 1=1?"])
    assert (made.answers, made.remat, made.prompt) == (("a", "b"), True, "is it 1=1?")
    assert recipe.load(None, ["--config.rates=0.5"]).rates == (0.5,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--config.steps=many", r"--config\.steps: 'many' is not a int"),
        ("--config.steps=True", r"--config\.steps: True is not a int"),
        ("--config.rate='fast'", r"--config\.rate: 'fast' is not a number"),
        ("--config.step=3", r"--config\.step: a recipe has no such entry; there are: model, "),
        ("--config.steps", r"write --config\.name=value"),
        ("--config.steps=0", r"steps: 0; expected a number from 1"),
        ("--config.rate=-1", r"rate: -1\.0; expected a number above 0"),
        ("--config.rate=float('nan')", r"rate: "),
        ("--config.rate=1e999", r"rate: inf"),
        ("--config.method=magic", r"method: 'magic'; expected one of lora, attention, full, rules"),
        ("--config.method=rules", r"rules: \(\); expected a list"),
        ("--config.rules=('a', 'b')", r"rules"),
        ("--config.rungs=(0.5, 0.25)", r"rungs: \(0\.5, 0\.25\); expected rising shares"),
        ("--config.rate_range=(1, 0.1)", r"rate_range: .*0 < low <= high"),
        ("--config.dropout=1", r"dropout: 1\.0; expected"),
        ("--config.optimizer=lion", r"optimizer: 'lion'"),
        ("--config.schedule=steps", r"schedule: 'steps'"),
        ("--config.fold_by=answer", r"fold_by: 'answer'; expected auto or id"),
        ("--config.metric=f1", r"metric: 'f1'"),
        ("--config.alpha=0", r"alpha: 0\.0"),
        ("--config.alphas=(4, 0)", r"alphas: \(4\.0, 0\.0\); expected numbers above 0"),
        ("--config.weight_decays=(-1,)", r"weight_decays: \(-1\.0,\); expected numbers from 0"),
    ],
)
def test_a_bad_value_names_its_entry(text, message):
    with pytest.raises(UserError, match=message):
        recipe.load(None, [text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return 1 / 0\n", r"mine\.py:2: ZeroDivisionError"),
        ("x = 1\nimport nothing_of_that_name\n", r"mine\.py:2: ModuleNotFoundError"),
        ("x = 1\ny = (\n", r"mine\.py:2: SyntaxError"),
        ("x = 1\n", r"mine\.py: expected a function get_config"),
        ("def get_config():\n    return {'steps': 1}\n", r"mine\.py: expected a function get_config"),
        (FILE.replace('"steps": 8', '"steps": "8"'), r"mine\.py: steps: '8' is not a int"),
        (FILE.replace('"steps"', '"stepz"'), r"mine\.py: stepz: a recipe has no such entry"),
    ],
)
def test_a_bad_file_names_itself_and_its_line(written, text, message):
    with pytest.raises(UserError, match=message):
        recipe.load(written(text))
    with pytest.raises(UserError, match="no such recipe"):
        recipe.load("nowhere.py")


def test_a_roll_gives_its_recipe_back():
    made = Recipe(rates=(0.1,), rules=((".*", "full"),), method="rules")
    kept = json.loads(json.dumps(dataclasses.asdict(made) | {"of_a_later_version": 1}))
    assert recipe.from_card(kept) == made
