"""Prompts before training: one scores as if it stood in every row, and the best reaches the recipe that 03 takes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from rolltune import recipe as recipes
from rolltune.__main__ import main
from rolltune.errors import UserError
from rolltune.evaluation.metrics import Prediction
from rolltune.jobs import search_prompt
from rolltune.jobs.search_prompt import Options, recipe_text, score_prompts, search
from rolltune.training.dataset import Wanted, read_data

ASKED = "Is there small print?"


def test_a_prompt_scores_as_if_it_stood_in_every_row(drawn_ads, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(drawn_ads, "drawn")
    rows = [json.loads(line) for line in (tmp_path / "drawn/data.jsonl").read_text().splitlines()]
    few = [row for row in rows if row["suffix"] == "yes"][:3] + [row for row in rows if row["suffix"] == "no"][:3]
    for name, prompt in (("own", "zzz"), ("asked", ASKED)):
        lines = (json.dumps(row | {"prefix": prompt}) + "\n" for row in few)
        (tmp_path / f"drawn/{name}.jsonl").write_text("".join(lines))
    recipe = recipes.Recipe()
    read = lambda name: read_data({"train": tmp_path / f"drawn/{name}.jsonl"}, Wanted("auto"), lambda text: None)
    _, given = score_prompts(recipe, read("own"), ["", ASKED])
    (standing,) = score_prompts(recipe, read("asked"), [""])
    np.testing.assert_allclose(given.log_probs, standing.log_probs, atol=1e-5)

    renamed = (json.dumps({"text" if name == "prefix" else name: row[name] for name in row}) + "\n" for row in few)
    (tmp_path / "drawn/renamed.jsonl").write_text("".join(renamed))
    arguments = ["-d", "drawn/renamed.jsonl", "--columns", "prefix=text", ASKED, "what?", "--write", "mine.py"]
    assert main(["search-prompt", *arguments]) == 0
    out = capsys.readouterr().out
    assert re.search(r"0\.5 +\(always the commonest answer\)", out)
    assert "(each row's own)" in out and ASKED in out
    if "best: " in out:  # the rows' own may win, and then there is nothing to write
        assert repr(recipes.load("mine.py").prompt) in out


def test_a_recipe_that_was_written_is_read_as_the_same(tmp_path):
    recipe = recipes.Recipe(
        prompt='is it "so"?', answers=("no", "yes"), rate=0.5, rules=((".*", "full"),), method="rules"
    )
    (tmp_path / "mine.py").write_text(recipe_text(recipe))
    assert recipes.load(tmp_path / "mine.py") == recipe
    lines = [line for line in recipe_text(recipe).splitlines() if "config." in line]
    assert len(lines) == 5 and not any("steps" in line for line in lines)  # what is as it always is stays out


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """`searched(metric)`: what is said of three prompts; "right" has the best accuracy, "sure" the best log-loss, and
    the rows' own is always wrong. Rows of the test split take no part."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for split, answers in (("train", "abab"), ("valid", "a"), ("test", "b")):
        rows = [{"prefix": f"{split} {n}?", "suffix": answer} for n, answer in enumerate(answers)]
        (tmp_path / f"set/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chances = {"": [0.1] * 5, "right": [0.51] * 5, "sure": [0.99] * 4 + [0.45]}
    asked: list[str] = []

    def scored(recipe, data, prompts):
        asked.extend(data.examples[place].source for place in data.seen)
        label = np.array([data.task.label(data.examples[place]) for place in data.seen])
        right = lambda chance: np.where(
            np.arange(2) == label[:, None], np.array(chance)[:, None], 1 - np.array(chance)[:, None]
        )
        ids = tuple(data.examples[place].id for place in data.seen)
        return [Prediction(ids, data.task.answers, label, np.log(right(chances[prompt]))) for prompt in prompts]

    monkeypatch.setattr(search_prompt, "score_prompts", scored)

    def run(prompts=("", "right", "sure"), recipe=None, **asking):
        said: list[str] = []
        assert search(Options("set", **asking), recipe or recipes.Recipe(), list(prompts), said.append) == 0
        assert not any("test" in source for source in asked)
        return said

    return run


def test_the_best_prompt_by_the_metric_is_said_and_written(searched, tmp_path, capsys):
    assert searched(metric="accuracy")[-1] == "best: 'right'"
    shown = capsys.readouterr().out
    assert searched()[-1] == searched(metric="log-loss")[-1] == "best: 'sure'"
    assert shown.index(" right") < shown.index(" sure") < shown.index("(each row's own)")
    said = searched(metric="accuracy", write=Path("mine.py"), recipe=recipes.Recipe(rank=4))
    assert said[-1] == "written: ./mine.py; next: ./03-do_learn.py -d set -w NAME --config mine.py"
    assert recipes.load(tmp_path / "mine.py") == recipes.Recipe(prompt="right", rank=4)
    own = searched(prompts=["", ""], write=tmp_path / "other.py")
    assert own[-1] == "the rows' own prompts are the best of these" and not (tmp_path / "other.py").exists()
    assert any("the best prompt is right no more often" in text for text in own)
    with pytest.raises(UserError, match="no metric is called 'luck'"):
        searched(metric="luck")
    with pytest.raises(UserError, match="task: write; prompts are compared by the scores of allowed answers"):
        searched(recipe=recipes.Recipe(task="write"))
