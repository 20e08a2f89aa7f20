"""A row's score is its own: whatever is scored with it, in whatever order."""

import jax
import numpy as np
import pytest
from small_families import FAMILIES, name_of

from rolltune import adapters
from rolltune.data.batches import Encoded
from rolltune.data.shapes import shapes_for
from rolltune.evaluation.compiled import compile_score
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.scoring import predictions, score_rows
from rolltune.models import forward

ANSWERS = ("a", "no", "yes it is")
PROMPTS = ("is it?", "is it a long prompt that needs more room?", "no picture")


@pytest.fixture(scope="module", params=FAMILIES, ids=name_of)
def small(request):
    return request.param


@pytest.fixture(scope="module", params=["table", "tiles"])
def scored(request, small):
    """`scored(numbers, batch)`: [R, N, C] of two rolls and these rows, and how often the score was traced."""
    made = small.prepare()
    drawn = [adapters.init_lora(jax.random.key(n), made.start.lora, 2) for n in range(2)]
    trainables = jax.tree.map(lambda *leaves: np.stack(leaves) + 0.1, *drawn)
    feed = made.feed if request.param == "table" else small.tiles
    base = made.base | {name: small.params[name] for name in small.family.towers}
    row = lambda n: small.row(PROMPTS[n % 3], *ANSWERS, shown=[] if n % 3 == 2 else [n], label=n % 3)
    shapes, traces, real = shapes_for([feed.shape(row(n)) for n in range(8)]), [], forward.log_probs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "log_probs", lambda *inputs: traces.append(1) or real(*inputs))
        run = compile_score(made.network, made.stacks, len(ANSWERS))

        def score(numbers, batch):
            rows = Encoded([row(n) for n in numbers], feed, shapes, [""] * len(numbers))
            return score_rows(run, base, trainables, np.ones(2, np.float32), rows, len(ANSWERS), batch)

        score.shapes, score.traces = shapes, traces
        yield score


def test_batch_size_neighbours_and_order_never_change_a_score(scored):
    whole = scored(range(7), 4)
    assert whole.shape == (2, 7, 3) and len(scored.traces) <= len(scored.shapes) == 2
    assert np.abs(whole[0] - whole[1]).max() > 1e-3 and len({own.tobytes() for own in whole[0]}) == 6
    count = len(scored.traces)
    for numbers in ([6, 2, 4, 0, 1, 5, 3], [3], [2, 5]):
        np.testing.assert_allclose(scored(numbers, 4), whole[:, list(numbers)], rtol=1e-4, atol=1e-4)
    assert len(scored.traces) == count  # nothing is compiled again
    np.testing.assert_allclose(scored(range(7), 1), whole, rtol=1e-4, atol=1e-4)


def test_predictions_are_normalised_over_the_answers():
    scores = np.log(np.array([[[0.2, 0.1, 0.1], [0.5, 0.3, 0.2]], [[1, 1, 2], [3, 1, 1]]], np.float32))
    one, other = predictions(scores, ("r0", "r1"), ANSWERS, ["yes it is", "a"])
    np.testing.assert_allclose(np.exp(one.log_probs), [[0.5, 0.25, 0.25], [0.5, 0.3, 0.2]], rtol=1e-5)
    np.testing.assert_allclose(np.exp(other.log_probs), [[0.25, 0.25, 0.5], [0.6, 0.2, 0.2]], rtol=1e-5)
    assert one.ids == ("r0", "r1") and one.answers == ANSWERS and one.label.tolist() == [2, 0]


def test_a_right_answer_that_is_never_given_makes_its_row_wrong():
    (found,) = predictions(np.zeros((1, 2, 3), np.float32), ("r0", "r1"), ANSWERS, ["b", "no"])
    assert found.answers == (*ANSWERS, "b") and found.label.tolist() == [3, 1]
    np.testing.assert_allclose(np.exp(found.log_probs), [[1 / 3, 1 / 3, 1 / 3, 0]] * 2, rtol=1e-5)


def test_some_rows_of_a_prediction_keep_together():
    whole = Prediction(tuple(f"row{n}" for n in range(7)), ANSWERS, np.arange(7) % 3, np.arange(21.0).reshape(7, 3))
    some = whole.at([5, 1])
    assert some.ids == ("row5", "row1") and some.label.tolist() == [2, 1]
    np.testing.assert_array_equal(some.log_probs, whole.log_probs[[5, 1]])
