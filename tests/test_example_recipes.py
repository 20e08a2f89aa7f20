"""The recipes that come with rolltune are recipes, short ones, and say what was published; so does every command shown.

A command is looked for in the recipes' own texts and on the pages: what a person copies from there is read here.
"""

import re
import shlex
from pathlib import Path

import pytest

from rolltune import adapters, recipe
from rolltune.adapters import CLASSES
from rolltune.commands import convert, doctor, download, learn, plan_memory, shuffle
from rolltune.families import catalogue
from rolltune.models import decoder, vision
from rolltune.recipe_file import EXAMPLES
from rolltune.weights.catalogue import TOKENIZER, find, sources

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(EXAMPLES.glob("*.py"))
PAGES = sorted([*ROOT.glob("docs/recipes/*.md"), *FILES])
# What the five projects published, as far as rolltune has an entry for it.
PUBLISHED = {
    "paligemma_attention": {"optimizer": "sgd", "rate": 0.03, "schedule": "cosine", "warmup": 0.1, "batch": 2},
    "plantdoc_llama": {"epochs": 5, "warmup": 500, "weight_decay": 0.01, "seed": 2025, "quantize": "nf4"},
    "phi35_docvqa": {"num_crops": 16, "rank": 32, "alpha": 16, "rate": 2e-4, "epochs": 2, "metric": "anls"},
    "phi35_hateful_memes": {
        "num_crops": 16,
        "rank": 128,
        "alpha": 256,
        "rate": 2e-4,
        "epochs": 2,
        "metric": "accuracy",
    },
    "phi35_nlvr2": {"num_crops": 4, "method": "rules", "rate": 2e-5, "epochs": 2},
    "preference_gemma2": {
        **{"rank": 16, "alpha": 32, "dropout": 0.05, "first_layer": 16, "rate": 2e-4, "warmup": 20, "epochs": 1},
        **{"answers": ("a", "b", "tie"), "max_tokens": 1024, "truncate": "right", "save_every": 200, "fold_by": "id"},
    },
    "animals_llava": {
        **{"rate": 2e-5, "schedule": "cosine", "warmup": 0.03, "weight_decay": 0.01, "epochs": 1, "remat": True},
        **{"log_every": 10, "save_every": 100, "keep_last": 5, "evaluate_batch": 8},
    },
}
BATCHES = {"plantdoc": 16, "phi35_d": 64, "phi35_h": 64, "phi35_n": 64, "preference": 4, "animals": 64}


def commands(text: str) -> list[list[str]]:
    """The words of each command with `--config recipes/...`; a line that ends in a backslash goes on with the next."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    pattern = r"\s*\./0\d-.* --config recipes/(?!mine)"  # mine.py is what 05 writes
    return [shlex.split(line, comments=True) for line in lines if re.match(pattern, line)]


def made(words: list[str]) -> recipe.Recipe:
    name = words[words.index("--config") + 1]
    return recipe.load(EXAMPLES.parent / name, [word for word in words if word.startswith("--config.")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_is_short_says_its_command_and_holds_what_was_published(file):
    assert len(file.read_text().splitlines()) < 60
    assert any(f"recipes/{file.name}" in words for words in commands(file.read_text()))
    found = recipe.load(file)
    for name, value in PUBLISHED.get(file.stem, {}).items():
        assert getattr(found, name) == value, name
    for start, rows in BATCHES.items():
        if file.stem.startswith(start):
            assert found.batch * found.accumulate == rows


def test_every_recipe_takes_a_model_that_can_be_fetched():
    targets = {f"../cache/{source.target}" for source in sources()}
    models = {file.stem: recipe.load(file).model for file in FILES}
    assert {name for name, model in models.items() if model not in targets} == {"halving"}  # of no model of its own
    assert {source.recipe for source in sources()} - {""} <= {f"recipes/{file.name}" for file in FILES}
    assert TOKENIZER.recipe == "recipes/paligemma_ads.py"


TEXT = decoder.Config(vocab=64, width=16, layers=20, heads=2, kv_heads=1, head_dim=8, mlp=32)
TOWER = vision.Config(image_size=28, patch=14, width=16, layers=2, heads=2, mlp=32)
KINDS = {"phi": "phi3_v", "gemma": "gemma2"}


def paths(kind: str) -> list[str]:
    """The parameters' paths of a small model; a head of classes is there as well."""
    family = next((family for family in catalogue.FAMILIES if kind in family.model_types), None)
    if family is None:
        pytest.skip(f"there is no family {kind}")
    config = family.config.__globals__["Config"]
    parts = {"vision": TOWER} if "vision" in config.__dataclass_fields__ else {}
    return [row.path for row in family.tensors(config(text=TEXT, **parts))]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page.read_text())], ids=lambda page: page.name)
def test_every_command_shown_is_a_recipe_whose_rules_mean_something(page):
    for words in commands(page.read_text()):
        found = made(words)
        if found.method != "rules":
            continue
        kind = next(kind for name, kind in KINDS.items() if f"/{name}" in found.model)
        known = [*paths(kind), *([CLASSES] if found.task == "classify" else [])]
        said = adapters.trainability(found.trainability, known)
        assert {word for path, word in said.items() if path.startswith(("vision/", "projector/"))} <= {"frozen"}
        assert said.get(CLASSES, "full") == "full"


PARSERS = {
    **{"00-doctor.py": doctor.parser, "01-download_models.py": download.parser, "02-shuffle_data.sh": shuffle.parser},
    **{"03-do_learn.py": learn.parser, "06-convert_data.py": convert.parser, "09-plan_memory.py": plan_memory.parser},
}


def test_the_commands_of_the_page_on_memory_are_understood():
    lines = [line for line in (ROOT / "docs/memory.md").read_text().splitlines() if line.startswith("./09")]
    assert len(lines) >= 3
    for line in lines:
        _, *arguments = shlex.split(line, comments=True)
        assert plan_memory.parser().parse_known_args(arguments)[1] == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/recipes/*.md")), ids=lambda page: page.name)
def test_every_command_of_a_page_is_understood(page):
    lines = re.sub(r"\\\n\s*", " ", page.read_text()).splitlines()
    shown = [shlex.split(line, comments=True) for line in lines if line.startswith("./0")]
    assert {"00-doctor.py", "01-download_models.py", "03-do_learn.py"} <= {words[0][2:] for words in shown}
    for script, *arguments in shown:
        assert (ROOT / "playground" / script).is_file()
        if script[2:] not in PARSERS:
            continue
        options, rest = PARSERS[script[2:]]().parse_known_args(arguments)
        assert [word for word in rest if not word.startswith("--config.")] == []
        for name in getattr(options, "models", []):
            find(name, options.dtype or "")
