"""Prompts before training: one scores as if it stood in every row, and the best reaches the recipe that 03 takes."""

import json
import re

import numpy as np

from rolltune import recipe as recipes
from rolltune.__main__ import main
from rolltune.jobs.search_prompt import recipe_text, score_prompts
from rolltune.tiny.ads import write_sample_ads
from rolltune.training.dataset import Wanted, read_data

ASKED = "Is there small print?"


def test_a_prompt_scores_as_if_it_stood_in_every_row(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    write_sample_ads(tmp_path / "drawn", seed=0)
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
