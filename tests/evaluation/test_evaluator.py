"""Rolls and rows in, predictions out: choices normalised, open answers by the best accepted one and what is written."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from small_families import PALIGEMMA
from small_model import NET, make_example

from rolltune import trees
from rolltune.data.batches import Encoded
from rolltune.data.shapes import shapes_for
from rolltune.evaluation.compiled import compile_score
from rolltune.evaluation.evaluator import Evaluator, candidates_of
from rolltune.evaluation.scoring import score_rows
from rolltune.evaluation.tasks import CHOOSE, WRITE, Task
from rolltune.training import setup

EXAMPLES = [
    dataclasses.replace(make_example(n, "is it so" if n % 2 else "is it", answer), images=(), accepted=accepted)
    for n, (answer, accepted) in enumerate([("ab", ("ab", "c")), ("c", ()), ("de", ("f", "de", "c"))])
]
STACKS = PALIGEMMA.model.stacks


def encoded(examples, answers_of):
    rows = [PALIGEMMA.row(one.prompt, *answers_of(one), shown=[n] if n else []) for n, one in enumerate(examples)]
    feed = PALIGEMMA.tiles
    return Encoded(rows, feed, shapes_for([feed.shape(row) for row in rows]), [one.answer for one in examples])


def evaluator(task, batch, writer=None):
    score = compile_score(NET, STACKS, candidates_of(task, EXAMPLES))
    return Evaluator(task, EXAMPLES, encoded(EXAMPLES, task.candidates), PALIGEMMA.params, score, batch, writer)


def test_open_answers_are_ranked_by_the_best_that_is_accepted():
    task, ones = Task(WRITE, ()), jnp.ones(1)
    assert candidates_of(task, EXAMPLES) == 3
    (found,) = evaluator(task, 2).predict({}, ones, writes=False)
    assert found.accepted == (("ab", "c"), ("c",), ("f", "de", "c")) and found.texts is None
    each = Task(CHOOSE, ("ab", "c", "de", "f"))
    single = Evaluator(
        each, EXAMPLES, encoded(EXAMPLES, each.candidates), PALIGEMMA.params, compile_score(NET, STACKS, 4), 2
    )
    # Not normalised over the others: the log-probability of the text itself.
    scores = score_rows(single.score, PALIGEMMA.params, {}, np.ones(1, np.float32), single.encoded, 4, 2)[0]
    expected = [
        max(scores[n][each.answers.index(answer)] for answer in right) for n, right in enumerate(found.accepted)
    ]
    np.testing.assert_allclose(found.log_probs, expected, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_choices_are_of_their_row_whatever_the_batch(batch):
    (found,) = evaluator(Task(CHOOSE, ("ab", "c", "de")), batch).predict({}, jnp.ones(1))
    np.testing.assert_allclose(np.exp(found.log_probs).sum(1), 1, rtol=1e-5)
    assert found.label.tolist() == [0, 1, 2] and found.ids == ("row0", "row1", "row2")
    (whole,) = evaluator(Task(CHOOSE, ("ab", "c", "de")), 8).predict({}, jnp.ones(1))
    np.testing.assert_allclose(found.log_probs, whole.log_probs, rtol=1e-4, atol=1e-5)


def test_by_the_token_a_long_answer_has_a_short_one_s_chance():
    task = Task(CHOOSE, ("ab", "c", "de"))
    made = evaluator(task, 2)
    whole = score_rows(made.score, PALIGEMMA.params, {}, np.ones(1, np.float32), made.encoded, 3, 2)
    score = compile_score(NET, STACKS, 3, per_token=True)
    mean = score_rows(score, PALIGEMMA.params, {}, np.ones(1, np.float32), made.encoded, 3, 2)
    lengths = [int((made.encoded.rows[0].candidates == n).sum()) for n in range(3)]
    assert len(set(lengths)) > 1
    np.testing.assert_allclose(mean * lengths, whole, rtol=1e-5)


def test_written_answers_are_each_roll_s_own_and_in_the_order_of_the_rows():
    prompts = encoded(EXAMPLES, lambda one: ())
    writer = setup.make_writer(PALIGEMMA.model, NET, STACKS, prompts, 3)
    path = "text/layers/mlp/down/kernel"
    kernel = PALIGEMMA.params["text"]["layers"]["mlp"]["down"]["kernel"]
    trainables = {path: jnp.stack([kernel, -3 * kernel])}
    base = trees.arrange(trees.unflatten(trees.flatten(PALIGEMMA.params)), STACKS, without=[path])
    made = dataclasses.replace(evaluator(Task(WRITE, ()), 2, writer), base=base)
    first, second = made.predict(trainables, jnp.ones(2))
    assert len(first.texts) == 3 and first.texts != second.texts
    (alone,) = dataclasses.replace(made, batch=3).predict({path: trainables[path][1:]}, jnp.ones(1))
    assert alone.texts == second.texts
    np.testing.assert_allclose(alone.log_probs, second.log_probs, rtol=1e-4)
