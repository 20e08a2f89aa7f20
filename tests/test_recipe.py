"""Recipes: from a file, changed on the command line, and every mistake named where it was made."""

import dataclasses
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rolltune import recipe
from rolltune.errors import UserError
from rolltune.quantize import KINDS
from rolltune.recipe import Recipe

FILE = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"steps": 8, "rate": 1, "rates": [0.1, 0.2], "answers": ("yes", "no")})
"""


SET = """
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict()
    config.steps = 8
    config.rank = 3
    return config
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
    words = {"none": False, "false": False, "layer": True, "attention": "attention"}
    assert {word: recipe.load(None, [f"--config.remat={word}"]).remat for word in words} == words
    assert recipe.load(None, ["--config.rates=0.5"]).rates == (0.5,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--config.steps=many", r"--config\.steps: 'many' is not a int"),
        ("--config.steps=True", r"--config\.steps: True is not a int"),
        ("--config.rate='fast'", r"--config\.rate: 'fast' is not a number"),
        ("--config.step=3", r"--config\.step: a recipe has no such entry; there are: model, "),
        ("--config.steps", r"write --config\.name=value"),
        ("--config.steps=0", r"--config\.steps: 0; expected a number from 1"),
        ("--config.steps=10**9", r"steps: '10\*\*9' is not a int"),
        ("--config.steps=1000000000000", r"steps: 1000000000000; expected a number from 1 to 1000000000"),
        ("--config.seed=4294967296", r"seed: 4294967296; expected a number from 0 to 4294967295"),
        ("--config.rate=" + "9" * 400, r"rate: 9+\.\.\.9+ is too large a number"),
        ("--config.steps=" + "9" * 5000, r"steps: '9+\.\.\.9+' is not a int"),
        ("--config.prompt=half \ud83d", r"prompt: 'half \\ud83d' holds half a character"),
        ("--config.model='a\\0b'", r"model: .* a zero character"),
        ("--config.rules=(('text/(', 'full'),)", r"rules: the rule 'text/\(' is no regular expression: missing \), "),
        ("--config.rules=(('.*', 'warm'),)", r"rules: .*expected frozen, lora or full after '\.\*'"),
        ("--config.warmup=1.5", r"warmup: 1\.5; expected a share of the steps from 0, below 1, or a whole number"),
        ("--config.warmup=512", r"warmup: 512\.0; expected less than the 512 steps"),
        ("--config.augment=crop,flip", r"augment: \('crop,flip',\); expected some of crop, flip, colour, each once"),
        ("--config.augment=flip", r"views: 4; expected 2: flip alone makes one other view"),
        ("--config.views=1", r"views: 1; expected a number from 2"),
        ("--config.epochs=-1", r"epochs: -1\.0; expected a number from 0"),
        ("--config.answers=('a', ' a')", r"answers: .*different texts"),
        ("--config.clip=1e999", r"clip: inf; expected a number from 0"),
        ("--config.rate=-1", r"rate: -1\.0; expected a number above 0"),
        ("--config.rate=float('nan')", r"rate: "),
        ("--config.rate=1e999", r"rate: inf"),
        ("--config.method=magic", r"method: 'magic'; expected one of lora, attention, full, rules"),
        ("--config.method=rules", r"rules: \(\); expected a list"),
        ("--config.rules=('a', 'b')", r"rules"),
        ("--config.rungs=(0.5, 0.25)", r"rungs: \(0\.5, 0\.25\); expected rising shares"),
        ("--config.rate_range=(1, 0.1)", r"rate_range: .*0 < low <= high"),
        ("--config.remat=mlp", r"remat: 'mlp'; expected layer \(or True\), attention, none"),
        ("--config.dropout=1", r"dropout: 1\.0; expected"),
        ("--config.optimizer=lion", r"optimizer: 'lion'"),
        ("--config.schedule=steps", r"schedule: 'steps'"),
        ("--config.fold_by=answer", r"fold_by: 'answer'; expected auto or id"),
        ("--config.metric=f1", r"metric: 'f1'"),
        ("--config.threshold=precision=1.5", r"threshold: 'precision=1.5'; expected none, metric, or precision=0.95"),
        ("--config.threshold=0.3", r"threshold: 0.3 is not a str"),
        ("--config.temperature=2", r"temperature: 2 is not a str"),
        ("--config.alpha=0", r"alpha: 0\.0"),
        ("--config.alphas=(4, 0)", r"alphas: \(4\.0, 0\.0\); expected numbers above 0"),
        ("--config.weight_decays=(-1,)", r"weight_decays: \(-1\.0,\); expected numbers from 0"),
    ],
)
def test_a_bad_value_names_its_entry(text, message):
    with pytest.raises(UserError, match=message):
        recipe.load(None, [text])


INF, NEAR, LORA = float("inf"), 1 - 1e-9, [[".*", "lora"]]
FROM_0, ABOVE_0, SHARE = ([0, 1e9], [-1e-9, INF]), ([1e-9, 1e9], [0, -1, INF]), ([0, NEAR], [-1e-9, 1])
EDGES = {  # of each entry: values that are taken, the outermost among them, and the nearest that are not
    "model": (["x"], [""]),
    "method": (["lora", "attention", "full"], ["rules", "", "Lora"]),
    "rules": ([[]], [LORA]),
    "quantize": (["", *KINDS], ["rules", "nf5"]),
    "quantize_rules": ([[]], [[[".*", "nf4"]]]),
    "sharding": (["auto", "rolls", "fsdp", "replicate"], ["rules", ""]),
    "sharding_rules": ([[]], [[[".*", "fsdp"]]]),
    "optimizer": (["adamw", "adamw8bit", "adafactor", "sgd"], ["", "adam"]),
    "momentum": ([0], [0.5, -0.5]),
    "trained_dtype": (["float32", "bfloat16"], ["float16", ""]),
    "schedule": (["cosine", "linear", "constant"], ["", "step"]),
    "metric": (["", "f-measure", "log-loss", "map-50"], ["f1"]),
    "threshold": (["none", "metric", "precision=0.5"], ["", "precision=0", "precision=2"]),
    "temperature": (["none", "valid"], ["", "train"]),
    "frames": (["first", "n:4", "grid"], ["n", "n:0", "first:1"]),
    "task": (["auto", "choose", "write", "classify"], ["", "pick"]),
    "truncate": (["", "right"], ["left"]),
    "average": (["example", "token"], ["", "row"]),
    "augment": ([[], ["crop"], ["colour", "crop", "flip"]], [["crop", "crop"], ["turn"], ["flip"]]),
    "balance": (["none", "sample", "weight"], ["", "answer"]),
    "fold_by": (["auto", "id"], ["", "group"]),
    "remat": ([True, False, "attention", "layer", "none"], ["", "mlp"]),
    "dtype": (["auto", "float32", "bfloat16", "float16"], ["", "float64"]),
    "answers": ([[], ["a"], ["a", "A"]], [["a", "a"], ["a", ""], [" "]]),
    **{name: ([low, high], [low - 1, high + 1]) for name, (low, high) in recipe.RANGES.items()},
    **dict.fromkeys(("clip", "weight_decay", "table_gib", "epochs", "explosion_margin"), FROM_0),
    **dict.fromkeys(("rate", "alpha", "explosion_factor"), ABOVE_0),
    **dict.fromkeys(("rates", "alphas"), ([[], [1e-9, 1e9]], [[1, 0], [-1, 1], [1, INF]])),
    "weight_decays": ([[], [0, 1e9]], [[0, -1], [INF]]),
    "rate_range": ([[], [1e-9, 1e9], [1, 1]], [[1], [1, 2, 3], [0, 1], [2, 1], [1, INF]]),
    "stall": ([0, 1], [-1e-9, 1.001]),
    "dropout": SHARE,
    "warmup": ([0, NEAR, 1, 511], [-1e-9, 1.5, 512, INF]),
    "redraw_factor": ([1e-9, 1], [0, 1.001]),
    "rungs": ([[], [1e-9, 0.5, NEAR]], [[0], [1], [0.5, 0.5], [0.5, 0.25]]),
    "keep_share": ([1e-9, 1], [0, 1.001]),
}
TOGETHER = [  # what is right, and what makes it wrong
    ({"method": "rules", "rules": LORA}, [{"rules": []}, {"rules": [[".*"]]}, {"rules": [[".*", "warm"]]}]),
    (
        {"quantize": "rules", "quantize_rules": [["a", "nf4"], [".*", "keep"]]},
        [{"quantize_rules": [[".*", "half"]]}, {"quantize_rules": [["(", "keep"]]}, {"quantize_rules": [["a"]]}],
    ),
    (
        {"sharding": "rules", "sharding_rules": [["a", "fsdp"], [".*", "rolls"]]},
        [{"sharding_rules": [[".*", "cut"]]}, {"sharding_rules": [["(", "fsdp"]]}, {"sharding_rules": [["a"]]}],
    ),
    ({"optimizer": "sgd", "momentum": NEAR}, [{"momentum": 1}, {"momentum": -0.1}, {"optimizer": "adamw"}]),
    ({"augment": ["flip"], "views": 2}, [{"views": 3}]),
    ({"epochs": 1, "warmup": 600}, [{"epochs": 0}]),
    ({"steps": 1, "warmup": 1}, [{"warmup": 2}]),
]


def test_every_entry_is_taken_up_to_its_edges_and_refused_beyond():
    for name, (taken, refused) in EDGES.items():
        for value in taken:
            recipe.from_card({"warmup": 0.0, name: value}, "a.npz")  # the warm-up's edge depends on the steps
        for value in refused:
            with pytest.raises(UserError, match=rf"^a\.npz: ({name}|rules|\w+_rules|views): ") as told:
                print(name, value, recipe.from_card({"warmup": 0.0, name: value}, "a.npz"))
            assert len(str(told.value)) < 300


def test_entries_that_need_each_other():
    free = {"tokenizer", "prompt", "length_normalized", "positive", "rslora", "keep_best"}
    assert {entry.name for entry in dataclasses.fields(Recipe)} == EDGES.keys() | free
    for right, changes in TOGETHER:
        recipe.from_card(right, "a.npz")
        for wrong in changes:
            with pytest.raises(UserError):
                recipe.from_card(right | wrong, "a.npz")


BY_NAMES = """from ml_collections import ConfigDict
def get_config():
    return ConfigDict(dict(
        rank=4,
        steps="8",
    ))
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return 1 / 0\n", r"mine\.py:2: ZeroDivisionError"),
        ("x = 1\nimport nothing_of_that_name\n", r"mine\.py:2: ModuleNotFoundError"),
        ("x = 1\ny = (\n", r"mine\.py:2: SyntaxError"),
        ("x = 1\n", r"mine\.py: expected a function get_config"),
        ("def get_config():\n    return {'steps': 1}\n", r"mine\.py: expected a function get_config"),
        (FILE.replace('"steps": 8', '"steps": "8"'), r"mine\.py:5: steps: '8' is not a int"),
        (SET.replace("= 3", "= -3"), r"mine\.py:7: rank: -3; expected a number from 1"),
        (SET.replace("= 3", "= 10**400"), r"mine\.py:7: rank: "),
        (BY_NAMES, r"mine\.py:5: steps: '8' is not a int"),
        ("import sys\nsys.exit(0)\n", r"mine\.py:2: SystemExit: 0; a recipe must not end the program"),
        ("def get_config():\n    raise SystemExit\n", r"mine\.py:2: SystemExit"),
        (FILE.replace('"steps"', '"stepz"'), r"mine\.py:5: stepz: a recipe has no such entry"),
    ],
)
def test_a_bad_file_names_itself_and_its_line(written, text, message):
    with pytest.raises(UserError, match=message):
        recipe.load(written(text))
    with pytest.raises(UserError, match="no such recipe"):
        recipe.load("nowhere.py")


def test_what_a_recipe_or_an_older_card_leaves_out_keeps_its_meaning():
    """A default that changes makes other rolls of the same files: change it here, and in the docs, on purpose."""
    assert dataclasses.asdict(recipe.Recipe()) == dict(
        model="tiny", tokenizer="", prompt="", answers=(), task="auto", answer_tokens=64, length_normalized=False,
        positive="", frames="middle", num_crops=0, method="lora", rules=(), rank=8, alpha=8.0, rslora=False,
        quantize="", quantize_rules=(), sharding="auto", sharding_rules=(), sharding_group=0, dropout=0.0,
        first_layer=0, optimizer="adamw", momentum=0.0, trained_dtype="float32", rate=0.003, schedule="cosine",
        warmup=0.1, clip=1.0, weight_decay=0.0, batch=2, accumulate=1, steps=512, epochs=0.0, average="example",
        balance="none", seed=0, dtype="auto", remat=False, max_tokens=2048, truncate="", augment=(), views=4,
        table_gib=2.0, save_every=0, keep_last=0, evaluate_every=0, keep_best=False, rates=(), rate_range=(),
        alphas=(), weight_decays=(), redraws=8, redraw_factor=0.5, explosion_factor=3.0, explosion_margin=2.0,
        stall=0.5, rungs=(), keep_share=0.5, draws=0, fold_by="auto", metric="", threshold="none", temperature="none",
        log_every=32, evaluate_batch=8,
    )  # fmt: skip


def test_a_recipe_that_prints_leaves_the_output_to_the_command(written, capsys):
    assert recipe.load(written("print('loud')\n" + FILE)).steps == 8
    assert capsys.readouterr() == ("", "loud\n")


def test_rungs_may_be_places_at_which_nobody_loses():
    assert recipe.load(None, ["--config.rungs=0.5", "--config.keep_share=1"]).keep_share == 1


def test_a_roll_gives_its_recipe_back():
    made = Recipe(rates=(0.1,), rules=((".*", "full"),), method="rules")
    kept = json.loads(json.dumps(dataclasses.asdict(made) | {"of_a_later_version": 1}))
    assert recipe.from_card(kept) == made


def test_steps_that_are_given_turn_epochs_off(written):
    epochs = SET.replace("config.steps = 8", "config.epochs = 2")
    assert recipe.load(written(epochs)).epochs == 2
    assert recipe.load(written(epochs), ["--config.steps=9"]) == Recipe(rank=3, steps=9)
    assert recipe.load(written(SET), ["--config.epochs=2"]) == Recipe(rank=3, steps=8, epochs=2)
    assert recipe.stated(written(SET), ["--config.alpha=4"], seed=None) == {"steps", "epochs", "rank", "alpha"}
    assert recipe.stated(written(epochs)) == {"epochs", "rank"}


def test_epochs_become_steps_when_the_rows_are_known():
    asked = recipe.load(None, ["--config.epochs=3", "--config.batch=4", "--config.accumulate=2", "--config.warmup=20"])
    assert recipe.with_steps(asked, 81).steps == round(3 * 81 / 8) == 30
    assert recipe.with_steps(Recipe(steps=5), 81) == Recipe(steps=5)
    with pytest.raises(UserError, match=r"warmup: 20\.0; expected less than the 15 steps"):
        recipe.with_steps(asked, 40)
    for epochs, rows in ((0.01, 3), (1e300, 3)):
        with pytest.raises(UserError, match=r"epochs: .* of 3 rows, 2 at a time, are \S+ steps; expected 1 to"):
            recipe.with_steps(Recipe(epochs=epochs), rows)


def test_outer_white_space_of_prompt_and_answers_is_taken_off():
    made = recipe.load(None, ["--config.prompt= is it  ok?\n", "--config.answers=('yes ', ' no')"])
    assert (made.prompt, made.answers) == ("is it  ok?", ("yes", "no"))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["\ud83d", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@given(
    st.sampled_from([entry.name for entry in dataclasses.fields(Recipe)]), ODD | st.just(10**400) | st.just("x" * 10**6)
)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_a_card_with_any_value_is_a_recipe_or_advice(name, value):
    """What passes is a recipe that could have been typed, too."""
    try:
        made = recipe.from_card({name: value}, "a.npz")
    except UserError as error:
        assert str(error).startswith(f"a.npz: {name}: ") and len(str(error)) < 1000
    else:
        typed = recipe.load(None, [f"--config.{name}={getattr(made, name)!r}"])
        assert typed == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"evaluate_batch": -5}, r"a\.npz: evaluate_batch: -5; expected a number from 1"),
        ({"rank": 0}, r"a\.npz: rank: 0"),
        ({"rules": [["(", "full"]], "method": "rules"}, r"a\.npz: rules: the rule '\(' is no regular expression"),
        ({"seed": 2**32}, r"a\.npz: seed: 4294967296"),
        ([], r"a\.npz: \[\] is no recipe"),
        ("lora", r"a\.npz: 'lora' is no recipe"),
    ],
)
def test_a_card_is_checked_as_a_recipe_is(values, message):
    with pytest.raises(UserError, match=message):
        recipe.from_card(values, "a.npz")


def test_a_damaged_file_is_a_recipe_or_advice(tmp_path):
    path, draw = tmp_path / "mine.py", random.Random(4)
    for number in range(60):
        bad = bytearray(SET.encode())
        at = draw.randrange(len(bad))
        if number % 3:
            bad[at : at + number % 3] = draw.randbytes(1)
        else:
            del bad[at:]
        path.write_bytes(bad)
        try:
            assert isinstance(recipe.load(path), Recipe)
        except UserError as error:
            assert str(error).startswith(str(path))
