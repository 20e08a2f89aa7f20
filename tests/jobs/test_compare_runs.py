"""10-compare_runs on saved cards: what is read, what is left out, what is named as broken."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rolltune.__main__ import main
from rolltune.errors import UserError
from rolltune.evaluation.statistics import wilson
from rolltune.jobs.compare_runs import _usual_metric, judged_of, read_cards
from rolltune.recipe import Recipe
from rolltune.weights.card import Base, RollCard
from rolltune.weights.roll_file import save_roll


@pytest.fixture
def save(tmp_path, monkeypatch):
    """`save("name", right=12, rate=0.01)` is a roll of such a card in ./checkpoints."""
    monkeypatch.chdir(tmp_path)

    def make(name, right=8, known=0, base="ab" * 8, rows="16 rows, aa", written=False, **entries):
        figures = {"n": 16, "accuracy": right / 16, "log-loss": 0.5}
        figures["interval_95"] = {"accuracy": wilson(right, 16)._asdict()}
        figures |= {"exact-match": right / 16} if written else {}
        path = "./dataset/set1"
        metrics = {"positive": "yes", "passes": 1, "learned": [], "train": figures, "test": figures}
        metrics |= {"known": None if known is None else {"test": known}, "run": {"rolls": 1, "fold": None}}
        metrics["files"] = {one: {"path": f"{path}/{one}.jsonl", "rows": rows} for one in ("train", "test")}
        recipe = dataclasses.asdict(Recipe(**{"task": "choose", "metric": "accuracy"} | entries))
        card = RollCard(Base("small", base), "lora", recipe, "is it?", ["no", "yes"], metrics, 3)
        save_roll(f"checkpoints/{name}.npz", {"a": np.zeros(3, np.float32)}, card)

    return make


def runs(*arguments):
    status = main(["compare", "--json", "runs.json", *arguments])
    with open("runs.json") as file:
        return status, json.load(file)


def test_a_folder_has_the_best_of_each_run_and_a_pattern_all_that_it_names(save, capsys, tmp_path):
    for name in ("a", "a.rank2", "a.step100", "b"):
        save(name, 4 + len(name), rate=0.01 * len(name))
    (tmp_path / "checkpoints/c.state").mkdir()
    status, told = runs()
    assert status == 0 and [one["run"] for one in told["runs"]] == ["./checkpoints/a.npz", "./checkpoints/b.npz"]
    said = capsys.readouterr().out
    assert "accuracy on ./dataset/set1/test.jsonl: 16 pictures" in said and "? whether" not in said  # the table
    assert "  choosing the best of 2 on 16 pictures" in said  # its notes
    assert "2 further rolls" in said and "page: ./reports/runs.html" in said and "rate" not in said
    page = tmp_path / "reports/runs.html"
    assert "<html" in page.read_text()
    status, told = runs("checkpoints/*.npz", "--csv", "runs.csv")
    assert status == 0 and len(told["runs"]) == 4 and told["runs"][0]["recipe.rate"] != told["runs"][-1]["recipe.rate"]
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 5
    page.write_text("<title>runs (1st trained)</title>")  # the report of a run of that name
    assert main(["compare"]) == 2 and "--html FILE" in capsys.readouterr().err
    assert main(["compare", "--html", "other.html"]) == 0 and "1st trained" in page.read_text()


def test_what_is_broken_or_foreign_is_named_and_the_rest_go_on(save, capsys, tmp_path):
    save("good", 12)
    for name in ("cut", "odd"):
        save(name)
    folder = tmp_path / "checkpoints"
    (folder / "cut.npz").write_bytes((folder / "cut.npz").read_bytes()[:300])
    np.savez(folder / "foreign.npz", **{"llm/embedder": np.zeros(3)})
    shutil.copyfile(folder / "good.npz", folder / "alone.whole.npz")  # without the file that belongs beside it
    with np.load(folder / "odd.npz") as file:
        entries = dict(file)
    card = json.loads(bytes(entries["__rolltune__"]))
    card["metrics"]["test"]["interval_95"]["accuracy"]["low"] = "<b>"
    entries["__rolltune__"] = np.frombuffer(json.dumps(card).encode(), np.uint8)
    np.savez(folder / "odd.npz", **entries)
    status, told = runs()
    said = capsys.readouterr().out
    assert status == 1 and [one["run"] for one in told["runs"]] == ["./checkpoints/good.npz"]
    for name in ("cut.npz", "foreign.npz", "odd.npz", "alone.whole"):
        assert f"checkpoints/{name}" in "".join(line for line in said.splitlines() if line.startswith("not read: "))
        assert any(name in problem for problem in told["not_read"])
    for name in ("good", "alone.whole"):
        (folder / f"{name}.npz").unlink()
    assert main(["compare"]) == 1


def test_figures_of_learned_pictures_are_no_forecast_and_other_rows_stand_apart(save):
    save("leaked", 16, known=1)
    save("older", 15, known=None)
    save("clean", 9)
    save("elsewhere", 16, rows="16 rows, bb")
    _, told = runs()
    found = {one["run"].split("/")[-1]: (one["rank"], one["learned"]) for one in told["runs"]}
    assert found == {"clean.npz": (1, 0), "leaked.npz": (None, 1), "older.npz": (None, None), "elsewhere.npz": (1, 0)}
    assert told["metric"] == "accuracy"


def test_written_and_chosen_answers_have_no_rank_among_each_other(save, tmp_path):
    save("chosen")
    save("written", written=True)
    _, told = runs("--metric", "log-loss")
    assert [one["rank"] for one in told["runs"]] == [1, 1]


FIGURES = {"n": 16, "accuracy": 0.5, "log-loss": 0.5, "interval_95": {"accuracy": wilson(8, 16)._asdict()}}


def card_of(**metrics) -> RollCard:
    files = {one: {"path": f"./{one}.jsonl", "rows": f"rows of {one}"} for one in ("train", "valid", "test")}
    return RollCard(Base("small", "ab"), "lora", {}, "", ["no", "yes"], {"files": files} | metrics, 3)


def test_a_roll_is_judged_by_the_split_that_says_most():
    told = lambda **metrics: judged_of(card_of(**metrics), "x")
    every = {split: FIGURES | {"n": n} for split, n in (("train", 5), ("valid", 6), ("test", 7))}
    known = {"valid": 2, "test": 0}
    place = lambda one: (one.split, one.path, one.rows, one.n, one.learned)
    assert place(told(**every, known=known)) == ("test", "./test.jsonl", "rows of test 7 chosen", 7, 0)
    assert place(told(**every | {"test": None}, known=known)) == (
        "valid", "./valid.jsonl", "rows of valid 6 chosen", 6, 2,
    )  # fmt: skip
    assert place(told(train=every["train"], known=known)) == ("train", "./train.jsonl", "rows of train 5 chosen", 5, 5)
    assert told(**every).learned is None and told() is None
    written = FIGURES | {"exact-match": 0.5}
    assert place(told(valid=written, files={}))[:3] == ("valid", "valid", "valid 16 written")
    fold = told(valid=FIGURES, test=None, run={"fold": 0, "folds": 3, "seed": 9})  # the first fold is one, too
    assert fold.path == "./train.jsonl, fold 0 of 3"
    assert fold.rows == "./train.jsonl, fold 0 of 3 by 9: rows of train rows of valid 16 chosen"
    assert told(valid=FIGURES, run={"fold": None}).path == "./valid.jsonl"


@pytest.mark.parametrize(
    "figures",
    [
        [16], {}, {"n": 0}, {"n": True}, {"n": "16"},
        {"accuracy": "0.5"}, {"accuracy": True}, {"log-loss": [1]},
        {"interval_95": []}, {"interval_95": {"accuracy": 1}},
        *({"interval_95": {"accuracy": wilson(8, 16)._asdict() | {end: bad}}}
          for end, bad in (("low", None), ("high", "1"), ("low", False), ("method", None))),
    ],
)  # fmt: skip
def test_figures_that_can_be_none_are_refused(figures):
    broken = FIGURES | figures if figures and isinstance(figures, dict) else figures
    with pytest.raises(UserError, match="x: its figures of test are no figures"):
        judged_of(card_of(test=broken), "x")
    assert judged_of(card_of(test=FIGURES | {"accuracy": None, "interval_95": {}}), "x").figure("accuracy") is None


@pytest.mark.parametrize("known", [-1, 0.5, "1", True])
def test_what_is_no_number_of_learned_rows_is_refused(known):
    with pytest.raises(UserError, match=r"metrics\.known of test is"):
        judged_of(card_of(test=FIGURES, known={"test": known}), "x")


def test_the_runs_are_ranked_by_what_ranked_most_of_them_where_all_have_it(save):
    """Else by the F-measure, and at last by the log-loss, which all have."""
    metric = lambda: _usual_metric(read_cards(sorted(Path("checkpoints").iterdir()))[0])
    save("a", metric="accuracy")
    save("b", metric="accuracy")
    save("c", metric="log-loss")
    assert metric() == "accuracy"
    for name in "abc":
        save(name, metric="recall")
    assert metric() == "log-loss"  # no card here has a recall, or an F-measure


def test_bases_and_sets_of_one_name_are_told_apart(save):
    save("a")
    save("b", base="cd" * 8, rows="16 rows, bb")
    _, told = runs()
    assert sorted(one["recipe.base"] for one in told["runs"]) == ["small (abababab)", "small (cdcdcdcd)"]
    assert {one["recipe.trained on"] for one in told["runs"]} == {
        f"./dataset/set1/train.jsonl (16 rows, {digest})" for digest in ("aa", "bb")
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere*.npz"], "no roll has such a name"),
        (["--metric", "luck"], "no metric"),
        (["empty"], "no roll (.npz)"),
        *(([flag, "checkpoints/a.npz"], f"{flag} checkpoints/a.npz") for flag in ("--html", "--csv", "--json")),
    ],
)
def test_what_is_asked_wrongly_is_said(save, capsys, tmp_path, arguments, said):
    (tmp_path / "empty").mkdir()
    save("a")
    roll = (tmp_path / "checkpoints/a.npz").read_bytes()
    assert main(["compare", *arguments]) == 2 and said in capsys.readouterr().err
    assert (tmp_path / "checkpoints/a.npz").read_bytes() == roll
