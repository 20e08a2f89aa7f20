"""Labels flipped on purpose come first in the list of doubtful ones."""

import json
from pathlib import Path

import numpy as np

from rolltune.data.examples import Example, Turn
from rolltune.evaluation.doubtful import against_class, doubts, margin, self_confidence, write
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.report import RunSummary, html
from rolltune.evaluation.report_pictures import doubtful_picture

ANSWERS = ("a", "b", "c")


def rounds_of(truth, label, count, seed=0) -> list[Prediction]:
    """Rolls that know the truth, more or less: what a roll that never saw a row makes of it."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        scores = rng.normal(0, 1, (len(truth), len(ANSWERS)))
        scores[np.arange(len(truth)), truth] += 4
        log_probs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        made.append(Prediction(tuple(f"r{n}" for n in range(len(truth))), ANSWERS, np.asarray(label), log_probs))
    return made


def examples_of(label) -> list[Example]:
    turns = lambda n: (Turn("user", "which?"), Turn("assistant", ANSWERS[label[n]]))
    return [Example(f"r{n}", (Path(f"{n}.png"),), turns(n), f"d.jsonl:{n + 1}") for n in range(len(label))]


def test_flipped_labels_are_found(tmp_path):
    truth = np.arange(60) % 3
    label = truth.copy()
    flipped = [3, 20, 41]
    label[flipped] = (label[flipped] + 1) % 3
    found = doubts(examples_of(label), rounds_of(truth, label, 3))
    assert {one.id for one in found[:3]} == {f"r{n}" for n in flipped}
    first = found[0]
    assert (first.rank, first.rolls, first.agree) == (1, 3, 0)
    assert first.given == ANSWERS[label[int(first.id[1:])]] and first.instead == ANSWERS[truth[int(first.id[1:])]]
    (tmp_path / "none.jsonl").write_text("of an earlier run")
    write(tmp_path / "none.jsonl", [])
    assert (tmp_path / "none.jsonl").read_text() == ""
    write(tmp_path / "d.jsonl", found)
    rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [one.id for one in found] and rows[0]["images"] == [f"{first.id[1:]}.png"]
    assert [row["probabilities"][row["answer"]] for row in rows] == sorted(
        row["probabilities"][row["answer"]] for row in rows
    )
    page = html(RunSummary("x", doubtful=[doubtful_picture(one) for one in found], most_doubtful=2))
    assert f"Doubtful labels: {len(found)}" in page and f"{len(found) - 2} less doubtful rows" in page
    assert f"{first.instead} instead of {first.given} (the label)" in page and "0 of 3 rolls agree" in page


def test_who_agrees_is_counted_roll_by_roll():
    """Two small yeses and a sure no: the mean doubts the label, two of three rolls do not."""
    chances = [[0.55, 0.45], [0.55, 0.45], [0.05, 0.95]]
    each = [Prediction(("r0",), ("a", "b"), np.array([0]), np.log([row])) for row in chances]
    (doubt,) = doubts(examples_of([0]), each)
    assert (doubt.instead, doubt.agree, doubt.rolls) == ("b", 2, 3)


def test_the_rankings_differ_where_they_should():
    probs = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.3, 0.35, 0.35], [0.2, 0.4, 0.4]]) + 1e-9
    one = Prediction(("a", "b", "c", "d"), ANSWERS, np.array([0, 0, 1, 1]), np.log(probs))
    np.testing.assert_allclose(self_confidence(one), [0.9, 0.5, 0.35, 0.4], atol=1e-6)
    np.testing.assert_allclose(margin(one), [0.8, 0.0, 0.0, 0.0], atol=1e-6)
    # "a" has usually 0.7, "b" 0.375: half a chance of "a" is more doubtful than 0.35 of "b".
    np.testing.assert_allclose(against_class(one), [0.2, -0.2, -0.025, 0.025], atol=1e-6)
