"""The K axis: what a draw holds, what a roll begins with, and who goes on from a rung."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune import optim
from rolltune.training import rolls as tickets
from rolltune.training.rolls import InitialWeights, Lottery, passes_rung
from rolltune.training.step import ALIVE, NOT_FINITE, STOPPED, StepConfig

PATH = "text/layers/attn/q/kernel"
CONFIG = StepConfig(None, {}, optim.Schedule("constant", 1, 0), optim.Optimizer("sgd", None))


def lottery(**changes) -> Lottery:
    given = dict(seed=0, rates=(1.0,), alphas=(8.0,), weight_decays=(0.0,), rank=2)
    return Lottery(**(given | changes))


def test_draws_depend_on_their_number_alone():
    spread = lottery(rate_range=(1e-4, 1e-2), seed=7)
    draws = [spread.draw(n) for n in range(40)]
    assert draws == [spread.draw(n) for n in range(40)]
    rates = np.array([one.rate for one in draws])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-2 and len(set(rates)) == 40
    assert abs(np.log10(rates).mean() + 3) < 0.3 and [one.seed for one in draws] == list(range(7, 47))
    assert [lottery(rates=(1.0, 2.0)).draw(n).rate for n in range(3)] == [1.0, 2.0, 1.0]
    listed = [lottery(alphas=(4.0, 16.0), weight_decays=(0.0, 0.1, 0.2)).draw(n) for n in range(3)]
    assert [(one.alpha, one.weight_decay) for one in listed] == [(4.0, 0.0), (16.0, 0.1), (4.0, 0.2)]
    again = lottery(rates=(1.0,), redraw_factor=0.25).draw(3, attempt=2, fold=1)
    assert (again.rate, again.attempt, again.fold, again.seed) == (0.0625, 2, 1, 3)
    assert spread.draw(5, attempt=1).rate == draws[5].rate / 2  # half of its own, out of the range where it must be
    assert lottery(rate_range=(1e-4, 1e-2), rates=(5.0,), seed=8).draw(4).rate != draws[5].rate
    assert [lottery(seed=2**32 - 1).draw(n).seed for n in range(2)] == [2**32 - 1, 0]


@pytest.mark.parametrize(
    ("reached", "share", "going_on"),
    [
        ([1.0], 0.5, [1.0]),  # the first one to come is never stopped
        ([3.0, 2.0], 0.5, [3.0]),
        ([3.0, 2.0, 1.0], 0.5, [3.0, 2.0]),  # of three, two: it is rounded up
        ([5.0, 4.0, 3.0, 2.0, 1.0], 0.5, [5.0, 4.0, 3.0]),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 0.25, [5.0, 4.0]),
        ([2.0, 2.0, 2.0], 0.1, [2.0, 2.0, 2.0]),  # none is better than another
    ],
)
def test_the_best_share_goes_on_from_a_rung(reached, share, going_on):
    assert [figure for figure in reached if passes_rung(figure, reached, share)] == going_on


def test_rolls_begin_with_what_is_their_own_and_what_was_trained_before():
    full, head = {"text/norm/scale": jnp.ones(3)}, {"text/classes/kernel": (4, 5)}
    draws = [lottery(alphas=(8.0, 32.0), rates=(0.1, 0.2)).draw(n) for n in range(2)]
    fresh = tickets.begin(lottery(), CONFIG, InitialWeights({PATH: (2, 4, 4)}, full, head), draws)
    a, b, classes = fresh.trainable[PATH]["a"], fresh.trainable[PATH]["b"], fresh.trainable["text/classes/kernel"]
    assert a.shape == (2, 2, 4, 2) and not np.array_equal(a[0], a[1]) and not b.any()
    assert classes.shape == (2, 4, 5) and 0.01 < float(classes.std()) < 0.03 and not np.array_equal(*classes)
    np.testing.assert_array_equal(fresh.trainable["text/norm/scale"], np.ones((2, 3)))
    np.testing.assert_allclose(fresh.scale, [4, 16])
    by_root = tickets.begin(lottery(rslora=True), CONFIG, InitialWeights({}, full), draws)
    np.testing.assert_allclose(by_root.scale, np.array([8, 32]) / 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(fresh.rate, [0.1, 0.2])
    assert len({key.tobytes() for key in np.asarray(fresh.key)}) == 2
    trained = {PATH: {"a": jnp.full((2, 4, 2), 3.0), "b": jnp.full((2, 2, 4), 5.0)}}
    again = tickets.begin(lottery(), CONFIG, InitialWeights({}, full, adapters=trained), draws)
    jax.tree.map(lambda new, old: np.testing.assert_array_equal(new, [old, old]), again.trainable[PATH], trained[PATH])


@pytest.fixture
def three():
    """Three rolls of one leaf, whose every number differs from any other roll's."""
    draws = [lottery(rates=(0.1, 0.2, 0.3)).draw(n) for n in range(3)]
    return tickets.begin(lottery(), CONFIG, InitialWeights({PATH: (2, 4, 4)}, {"text/norm/scale": jnp.ones(3)}), draws)


def rolls_of(rolls) -> list[list[bytes]]:
    """The leaves of each roll."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(rolls)]
    return [[leaf[n].tobytes() for leaf in leaves] for n in range(len(leaves[0]))]


def test_what_a_roll_draws_is_its_seed_s_whatever_its_neighbours_are(three):
    drawn = rolls_of(three)
    assert drawn[0] != drawn[1] != drawn[2]
    start = InitialWeights({PATH: (2, 4, 4)}, {"text/norm/scale": jnp.ones(3)})
    (alone,) = rolls_of(tickets.begin(lottery(), CONFIG, start, [lottery(rates=(0.1, 0.2, 0.3)).draw(2)]))
    assert alone == drawn[2]
    assert three.step.tolist() == three.stalled.tolist() == [0, 0, 0] and three.state.tolist() == [ALIVE] * 3
    decays = [lottery(weight_decays=(0.0, 0.5)).draw(n) for n in range(2)]
    assert tickets.begin(lottery(), CONFIG, start, decays).decay.tolist() == [0.0, 0.5]


def test_one_slot_is_given_to_another_roll_and_the_others_stay(three):
    before = rolls_of(three)
    start = InitialWeights({PATH: (2, 4, 4)}, {"text/norm/scale": jnp.ones(3)})
    fresh = tickets.begin(lottery(), CONFIG, start, [lottery().draw(7)])
    (new,) = rolls_of(fresh)
    assert rolls_of(tickets.replace(three, 1, fresh)) == [before[0], new, before[2]]


def test_a_roll_is_ended_and_nothing_else_of_it_changes(three):
    before = jax.tree.map(np.asarray, three)
    ended = tickets.mark(three, 2, NOT_FINITE)
    assert ended.state.tolist() == [ALIVE, ALIVE, NOT_FINITE]
    assert rolls_of(ended._replace(state=before.state)) == rolls_of(before)


def test_rolls_are_taken_moved_and_brought_to_the_host(three):
    before, scale = rolls_of(three), np.asarray(three.trainable[PATH]["a"])
    one = tickets.trainable_of(three, 2)
    assert isinstance(one[PATH]["a"], np.ndarray)
    np.testing.assert_array_equal(one[PATH]["a"], scale[2])
    assert rolls_of(tickets.take(three, np.array([2, 0]))) == [before[2], before[0]]
    closed = tickets.moved(three, np.array([2, 1, 1]), 2)
    assert closed.state.tolist() == [ALIVE, ALIVE, STOPPED]  # what fills up the card is ended
    assert rolls_of(closed)[:2] == [before[2], before[1]]
