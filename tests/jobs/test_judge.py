"""A roll is judged by rows that it did not learn from, each by its own prediction."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_model import make_example

from rolltune.evaluation.metrics import Positive, Prediction
from rolltune.evaluation.tasks import CHOOSE, Task
from rolltune.jobs.judge import judge_of
from rolltune.training.dataset import Data
from rolltune.training.rolls import Draw

ANSWERS = ("no", "yes")
EXAMPLES = [make_example(n, answer=ANSWERS[n % 2]) for n in range(10)]
SPANS = {"train": range(0, 4), "valid": range(4, 8), "test": range(8, 10)}
LABEL = np.arange(10) % 2


def right_on(places) -> Prediction:
    """Right on these rows and on no others, with a certainty of nine in ten."""
    chosen = np.where(np.isin(np.arange(10), places), LABEL, 1 - LABEL)
    probs = np.where(np.arange(2) == chosen[:, None], 0.9, 0.1)
    return Prediction(tuple(one.id for one in EXAMPLES), ANSWERS, LABEL, np.log(probs))


def judged(metric, predictions, slots, folds=None, spans=SPANS):
    data = Data(EXAMPLES, spans, {}, Task(CHOOSE, ANSWERS), Positive("yes", ""), [])
    evaluator = SimpleNamespace(predict=lambda trainable, scale: predictions)
    rolls = SimpleNamespace(trainable={}, scale=np.ones(len(predictions)))
    draws = [Draw(n, n, 1.0, 8.0, 0.0, fold=None if folds is None else n) for n in range(len(predictions))]
    return judge_of(evaluator, data, metric, folds)(rolls, slots, True, draws)


def test_validation_rows_judge_and_each_slot_has_its_own_prediction():
    predictions = [right_on(SPANS["valid"]), right_on(SPANS["train"]), right_on([4, 8, 9])]
    found = judged("accuracy", predictions, [0, 1, 2])
    assert {slot: one.figure for slot, one in found.items()} == {0: 1.0, 1: 0.0, 2: 0.25}
    assert all(found[slot].detail is predictions[slot] for slot in range(3))
    assert found[2].figures["valid/accuracy"] == 0.25 and found[2].figures["valid/log-loss"] > 1
    assert list(judged("accuracy", predictions, [1])) == [1]  # who is not asked about is not judged
    without = {name: span for name, span in SPANS.items() if name != "valid"}
    learned = judged("accuracy", predictions, [1], spans=without)[1]
    assert learned.figure == 1.0 and learned.figures["train/accuracy"] == 1.0  # called what it is


def test_a_fold_judges_its_roll_by_the_rows_that_it_held_out():
    folds = [0, 1, 1, 0, 0, 1, 0, 1]
    predictions = [right_on([n for n, fold in enumerate(folds) if fold == 0]) for _ in range(2)]
    found = judged("accuracy", predictions, [0, 1], folds)
    assert (found[0].figure, found[1].figure) == (1.0, 0.0)


def test_more_is_better_whatever_the_metric_and_one_answer_for_all_is_a_collapse():
    good, bad = judged("log-loss", [right_on(range(10)), right_on([])], [0, 1]).values()
    assert good.figure == pytest.approx(np.log(0.9)) and bad.figure == pytest.approx(np.log(0.1))
    assert not good.collapsed
    assert judged("accuracy", [right_on([5, 7])], [0])[0].collapsed  # yes to all four that judge it
