"""What guessing costs, by the answers of the rows that are trained on."""

from types import SimpleNamespace

import numpy as np
import pytest

from rolltune.data.batches import Encoded
from rolltune.evaluation.tasks import CHOOSE, WRITE, Task
from rolltune.training.guess import guessing_loss

WRITTEN = Task(WRITE, ())


def test_a_guess_costs_what_the_shares_of_the_answers_say():
    """In nats, as the training counts its loss: three rows of four say yes in two tokens, one says no in four."""
    task = Task(CHOOSE, ("no", "yes"))
    rows = [SimpleNamespace(targets=np.zeros(length)) for length in (2, 2, 2, 4)]
    training = Encoded(rows, None, (), ["yes", "yes", "yes", "no"])
    often, seldom = np.log(4 / 3), np.log(4)
    assert guessing_loss(task, training, "example") == pytest.approx((3 * often / 2 + seldom / 4) / 4)
    assert guessing_loss(task, training, "token") == pytest.approx((3 * often + seldom) / 10)


def test_of_written_answers_a_guess_knows_how_often_each_token_is_written():
    """Nobody can guess a text of which each is written once: who learned nothing writes its tokens at random."""
    rows = [SimpleNamespace(targets=np.array(tokens)) for tokens in ([5, 1], [6, 7, 7, 1])]
    training = Encoded([*rows, *rows], None, (), ["a", "b"], 2)  # two views of each: the same tokens twice
    cost = {token: np.log(6 / count) for token, count in {1: 2, 5: 1, 6: 1, 7: 2}.items()}
    first, second = cost[5] + cost[1], cost[6] + 2 * cost[7] + cost[1]
    assert guessing_loss(WRITTEN, training, "token") == pytest.approx((first + second) / 6)
    assert guessing_loss(WRITTEN, training, "example") == pytest.approx((first / 2 + second / 4) / 2)
    alike = Encoded(rows[:1] * 3, None, (), ["a"] * 3)
    assert 0 < guessing_loss(WRITTEN, alike, "token") == pytest.approx(np.log(2))
