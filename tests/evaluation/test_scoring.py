"""A row's score is its own: whatever is scored with it, in whatever order."""

import functools

import jax
import numpy as np
import pytest
from small_model import CONFIG, make_example, make_params, make_row

from rolltune import adapters
from rolltune.data.batches import Rows
from rolltune.errors import UserError
from rolltune.evaluation.scoring import allowed_answers, score_rows, subset
from rolltune.families import paligemma
from rolltune.training.step import Forward, compile_score

ANSWERS = ("a", "no", "yes it is")


def encode(example, images):
    number = int(example.id.removeprefix("row"))
    return make_row(example.prompt, *ANSWERS, number=number, label=ANSWERS.index(example.answer))


def rows_of(numbers) -> Rows:
    prompts = ("is it?", "is it a long prompt that needs more room?")
    examples = [make_example(n, prompts[n % 2], ANSWERS[n % 3]) for n in numbers]
    return Rows(examples, encode, open_image=lambda path, frame: None)


@pytest.fixture(scope="module")
def score():
    """`score(numbers, batch)`: the predictions of two rolls on these rows."""
    params = make_params()
    shapes = {"text/layers/attn/q/kernel": (3, 32, 32)}
    made = [adapters.init_lora(jax.random.key(n), shapes, 2) for n in range(2)]
    trainables = jax.tree.map(lambda *leaves: np.stack(leaves) + 0.1, *made)
    run = compile_score(Forward(functools.partial(paligemma.log_probs, CONFIG)), len(ANSWERS))
    room = rows_of(range(7)).shapes()
    scales = np.ones(2, np.float32)
    return lambda numbers, batch: score_rows(
        run, params, None, trainables, scales, rows_of(numbers), room, ANSWERS, batch
    )


def test_batch_size_neighbours_and_order_never_change_a_score(score):
    whole = score(range(7), 4)
    assert len(whole) == 2 and whole[0].ids == tuple(f"row{n}" for n in range(7))
    np.testing.assert_array_equal(whole[0].label, [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_allclose(np.exp(whole[0].log_probs).sum(1), 1, rtol=1e-5)
    assert np.abs(whole[0].log_probs - whole[1].log_probs).max() > 1e-3
    order = [6, 2, 4, 0, 1, 5, 3]
    for numbers, batch in ((order, 4), (range(7), 1), ([3], 4)):
        for roll, found in enumerate(score(numbers, batch)):
            np.testing.assert_allclose(found.log_probs, whole[roll].log_probs[list(numbers)], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(found.label, whole[roll].label[list(numbers)])


def test_a_subset_keeps_rows_together(score):
    whole = score(range(7), 4)[0]
    some = subset(whole, [5, 1])
    assert some.ids == ("row5", "row1") and some.label.tolist() == [2, 1]
    np.testing.assert_array_equal(some.log_probs, whole.log_probs[[5, 1]])


def test_allowed_answers():
    assert allowed_answers((), ["b", "a", "b"]) == ("a", "b")
    assert allowed_answers(("yes", "no"), ["no"]) == ("yes", "no")
    with pytest.raises(UserError, match=r"'maybe', which is not among the allowed ones: \['yes', 'no'\]"):
        allowed_answers(("yes", "no"), ["maybe", "no"])
    with pytest.raises(UserError, match="every row has the answer 'no'"):
        allowed_answers((), ["no", "no"])
