"""One step: sums over micro-batches, the K axis, what a death leaves alone, the schedule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import CONFIG, make_row

from rolltune import adapters, optim
from rolltune.data.batches import Batch, collate
from rolltune.families import paligemma
from rolltune.recipe import Recipe
from rolltune.training import rolls as lottery
from rolltune.training.rolls import Draw
from rolltune.training.step import (
    ALIVE,
    EXPLODED,
    NOT_FINITE,
    Forward,
    Plan,
    compile_score,
    compile_step,
    gradient,
    watch,
)

ANSWERS = ("a", "bcd", "efghij", "kl", "mnopq", "rs", "t", "uvw")
RECIPE = Recipe(rank=2, alpha=4.0)
SGD = Plan(optim.Schedule("constant", 100, 0), optim.transform("sgd", None))
ADAM = Plan(optim.Schedule("cosine", 4, 1), optim.transform("adamw", 1.0))


def drawn(roll: int, seed: int, rate: float, alpha: float = 4.0, weight_decay: float = 0.0) -> Draw:
    return Draw(roll, seed, rate, alpha, weight_decay)


def row(number: int):
    return make_row("a b", ANSWERS[number], pixels=np.array([number], np.int32))


def micro(*batches: tuple[int, ...], size: int = 2) -> Batch:
    """[A, B, ...]: rows of these numbers, filled up to `size`."""
    made = [collate([row(n) for n in numbers], 24, 8, size) for numbers in batches]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *made)


def stacked(*batches: Batch) -> Batch:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def started(plan, start, *draws: Draw, recipe=RECIPE):
    """Rolls with something in every adapter: a `b` of zeros would leave half the gradients zero."""
    rolls = lottery.begin(recipe, plan, start, draws)
    noise = lambda leaf, n: leaf + 0.05 * jax.random.normal(jax.random.key(n), leaf.shape[1:])
    leaves, tree = jax.tree.flatten(rolls.trainable)
    return rolls._replace(trainable=jax.tree.unflatten(tree, [noise(leaf, n) for n, leaf in enumerate(leaves)]))


def one(rolls, slot):
    return jax.tree.map(lambda leaf: np.asarray(leaf[slot]), rolls)


def same(a, b, **slack):
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        if slack:
            np.testing.assert_allclose(x, y, err_msg=str(path), **slack)
        else:
            np.testing.assert_array_equal(x, y, err_msg=str(path))


@pytest.mark.parametrize("average", ["example", "token"])
def test_micro_batches_equal_one_large_batch(frozen_and_start, table, forward, average):
    frozen, start = frozen_and_start("lora")
    plan = dataclasses.replace(SGD, average=average)
    roll = one(started(plan, start, drawn(0, 0, 1.0)), 0)
    run = jax.jit(lambda batch: gradient(plan, forward, frozen, table, roll, batch))
    large, gradients = run(micro((0, 1, 2, 3, 4), size=5))
    accumulated, sums = run(micro((0, 1), (2, 3), (4,)))  # the last window is short: one row is not valid
    np.testing.assert_allclose(accumulated, large, rtol=1e-6)
    same(sums, gradients, rtol=1e-4, atol=1e-6)
    all_rows = collate([row(n) for n in range(5)], 24, 8, 5)
    lp = paligemma.log_probs(CONFIG, combined(frozen, roll), all_rows, table)
    losses = [-np.asarray(lp)[n, : len(ANSWERS[n]) + 1] for n in range(5)]
    expected = np.mean([loss.mean() for loss in losses]) if average == "example" else np.concatenate(losses).mean()
    np.testing.assert_allclose(large, expected, rtol=1e-5)


def combined(frozen, roll):
    return adapters.combine(frozen, roll.trainable, roll.scale)


@pytest.mark.parametrize("method", ["lora", "attention", "rules"])
def test_rolls_in_one_step_equal_separate_ones(frozen_and_start, table, forward, method):
    frozen, start = frozen_and_start(method)
    draws = [drawn(0, 3, 0.01, 4.0, 0.0), drawn(1, 4, 0.03, 16.0, 2.0), drawn(2, 5, 0.002, 1.0, 9.0)]
    batches = [micro((0, 1), (2,)), micro((3, 4), (5, 6)), micro((7, 0), (1, 2))]
    step = compile_step(ADAM, forward)

    def run(members, steps=2):
        rolls = started(ADAM, start, *[draws[n] for n in members])
        for ahead in range(steps):
            own = stacked(*[batches[(n + ahead) % 3] for n in members])
            rolls, report = step(frozen, table, rolls, own)
        return rolls, report

    alone = [run([n]) for n in range(3)]
    for members in ([0, 1], [0, 1, 2]) if method == "lora" else ([2, 0, 1],):
        together, report = run(members)
        for slot, n in enumerate(members):
            # Adam divides by the gradient's own size: where that is near zero, rounding is a part of a whole step.
            same(one(together, slot), one(alone[n][0], 0), rtol=2e-4, atol=5e-3 * draws[n].rate)
            np.testing.assert_allclose(report.loss[slot], alone[n][1].loss[0], rtol=1e-5)
    begun = one(started(ADAM, start, *draws), slice(0, 1)).trainable
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-5, alone[0][0].trainable, begun)
    assert all(jax.tree.leaves(moved))


@pytest.fixture(scope="module")
def counted(forward):
    """A step of three rolls, and how often it was traced."""
    traces = []

    def counting(params, batch, table):
        traces.append(batch.tokens.shape)
        return forward.log_probs(params, batch, table)

    return compile_step(SGD, Forward(counting)), traces


@pytest.fixture
def rates():
    return [drawn(0, 0, 0.05), drawn(1, 1, 0.05), drawn(2, 2, 0.05)]


def test_a_roll_that_dies_stops_and_changes_nothing_for_the_others(counted, frozen_and_start, table, rates):
    step, traces = counted
    frozen, start = frozen_and_start("lora")
    batch = stacked(micro((0, 1)), micro((2, 3)), micro((4, 5)))

    def run(poison):
        rolls = started(SGD, start, *rates)
        if poison:
            path = sorted(rolls.trainable)[0]
            bad = rolls.trainable[path]["a"].at[1, 0, 0, 0].set(jnp.nan)
            rolls = rolls._replace(trainable=rolls.trainable | {path: rolls.trainable[path] | {"a": bad}})
        begun = one(rolls, 1)
        for _ in range(3):
            rolls, _ = step(frozen, table, rolls, batch)
        return rolls, begun

    healthy, begun = run(False)
    assert healthy.state.tolist() == [ALIVE] * 3 and healthy.step.tolist() == [3] * 3
    poisoned, begun = run(True)
    assert poisoned.state.tolist() == [ALIVE, NOT_FINITE, ALIVE] and poisoned.step.tolist() == [3, 0, 3]
    same(one(poisoned, 1)._replace(state=begun.state), begun)
    for slot in (0, 2):
        same(one(poisoned, slot), one(healthy, slot))
    assert len(traces) == 1


def levels(losses) -> tuple[int, int]:
    """(state, steps done) of a roll that meets these losses."""
    roll = lottery.begin(RECIPE, SGD, lottery.Start({}, {"text/norm/scale": jnp.ones(2)}), [drawn(0, 0, 1.0)])
    roll = one(roll, 0)
    for loss in losses:
        fast, best, state = (np.asarray(x) for x in watch(SGD, roll, jnp.float32(loss), jnp.float32(1)))
        if state != ALIVE:
            return int(state), int(roll.step)
        roll = roll._replace(fast=fast, best=best, step=roll.step + 1)
    return ALIVE, int(roll.step)


def test_the_watch_tells_an_explosion_from_a_bumpy_road():
    bumpy = np.random.default_rng(0).choice([0.001, 0.1, 0.7, 4.0], 200)
    assert levels(bumpy) == (ALIVE, 200)
    assert levels([12.0, 9.0, 6.0, 3.0, 1.0] + [0.5] * 50) == (ALIVE, 55)
    state, step = levels([0.7] * 20 + [30.0] * 20)
    assert state == EXPLODED and 20 <= step < 23
    assert levels([0.7, 0.6, np.nan]) == (NOT_FINITE, 2)
    assert levels([np.inf]) == (NOT_FINITE, 0)


def test_a_huge_rate_ends_its_roll_alone(counted, frozen_and_start, table, rates):
    step, traces = counted
    frozen, start = frozen_and_start("lora")
    rolls = started(SGD, start, rates[0], dataclasses.replace(rates[1], rate=1e30), rates[2])
    for _ in range(4):
        rolls, _ = step(frozen, table, rolls, stacked(micro((0, 1)), micro((2, 3)), micro((4, 5))))
    assert rolls.state.tolist() == [ALIVE, NOT_FINITE, ALIVE] and rolls.step.tolist() == [4, 1, 4]
    assert len(traces) == 1


def test_nothing_changes_after_the_last_step(frozen_and_start, table, forward):
    frozen, start = frozen_and_start("lora")
    step = compile_step(ADAM, forward)
    rolls = started(ADAM, start, drawn(0, 0, 0.01))
    for _ in range(4):
        rolls, _ = step(frozen, table, rolls, stacked(micro((0, 1))))
    done = one(rolls, 0)
    assert done.step == 4
    rolls, _ = step(frozen, table, rolls, stacked(micro((2, 3))))
    same(one(rolls, 0), done)


def test_scores_are_sums_of_each_candidates_tokens(frozen_and_start, table, forward):
    frozen, start = frozen_and_start("lora")
    rolls = started(SGD, start, drawn(0, 0, 1.0), drawn(1, 1, 1.0))
    both = make_row("a b", "abc", "d", pixels=np.array([0], np.int32))
    batch = collate([both], 24, 8, 2)
    scores = compile_score(forward, 2)(frozen, table, rolls.trainable, rolls.scale, batch)
    assert scores.shape == (2, 2, 2)
    roll = one(rolls, 1)
    lp = np.asarray(paligemma.log_probs(CONFIG, combined(frozen, roll), batch, table))[0]
    np.testing.assert_allclose(scores[1, 0], [lp[:4].sum(), lp[4:6].sum()], rtol=1e-5)
    assert np.all(np.asarray(scores)[:, 1] == 0)  # the row that fills up the batch


def test_dropout_differs_by_roll_and_step_and_repeats_with_the_seed(frozen_and_start, table, forward):
    frozen, start = frozen_and_start("lora")
    plan = dataclasses.replace(SGD, dropout=0.5)
    run = jax.jit(lambda roll, batch: gradient(plan, forward, frozen, table, roll, batch)[0])
    rolls = started(plan, start, drawn(0, 0, 1.0), drawn(1, 1, 1.0))
    first, second = one(rolls, 0), one(rolls, 1)
    second = second._replace(trainable=first.trainable)
    batch = micro((0, 1))
    losses = [float(run(roll, batch)) for roll in (first, second, first._replace(step=np.int32(1)), first)]
    assert len(set(losses[:3])) == 3 and losses[3] == losses[0]
