"""One step: sums over micro-batches, the K axis, what a death leaves alone, dropout, decay, the schedule."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_rolls import LOTTERY, drawn, started
from small_families import PALIGEMMA

from rolltune import adapters, optim, trees
from rolltune.batch import NOTHING, Batch
from rolltune.evaluation.compiled import compile_score
from rolltune.models import forward
from rolltune.quantize import DECODER, multiplied_in_full, quantize_tree
from rolltune.training import rolls as tickets
from rolltune.training.rolls import InitialWeights
from rolltune.training.step import (
    ALIVE,
    EXPLODED,
    NOT_FINITE,
    StepConfig,
    compile_step,
    gradient,
    summed,
    targets_loss,
    watch,
)

ANSWERS = ("a", "bcd", "efghij", "kl", "mnopq", "rs", "t", "uvw")
MIXED = [  # the output matrix, too, where it is not the embedding
    (r"text/(layers/attn/(q|v|qkv)|head)/kernel", "lora"), (r"text/norm/scale", "full"), (r".*", "frozen"),
]  # fmt: skip
SGD = dict(schedule=optim.Schedule("constant", 100, 0), optimizer=optim.Optimizer("sgd", None))
CLIPPED = dict(schedule=optim.Schedule("cosine", 4, 1), optimizer=optim.Optimizer("sgd", 1.0))
KINDS = ("adamw8bit", "adafactor", "sgd")
ADAM = dict(schedule=optim.Schedule("cosine", 4, 1), optimizer=optim.Optimizer("adamw", 1.0))


def config_of(made, kind=SGD, **more) -> StepConfig:
    return StepConfig(made.network, made.stacks, **kind, **more)


def row(small, number: int):
    """A row whose picture, answer and length are those of its number; number 7 has no picture."""
    return small.row("a b", ANSWERS[number], shown=[number] if number < 7 else [])


def room_for(small, made, tokens: int = 16, targets: int = 8):
    room = small.room(tokens, targets)
    return room if made.feed is small.tiles else room._replace(tiles=0, pictures=0)


def micro(small, made, *batches: tuple[int, ...], size: int = 2, tokens: int = 16, targets: int = 8) -> Batch:
    """[A, B, ...]: rows of these numbers, filled up to `size`."""
    room = room_for(small, made, tokens, targets)
    filled = [made.feed.make([row(small, n) for n in numbers], room, size)[0] for numbers in batches]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *filled)


def stacked(*batches: Batch) -> Batch:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def source_of(made):
    return getattr(made.feed, "source", NOTHING)


def one(rolls, slot):
    return jax.tree.map(lambda leaf: np.asarray(leaf[slot]), rolls)


def same(a, b, **slack):
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        if slack:
            np.testing.assert_allclose(x, y, err_msg=str(path), **slack)
        else:
            np.testing.assert_array_equal(x, y, err_msg=str(path))


@pytest.mark.parametrize("average", ["example", "token"])
def test_micro_batches_equal_one_large_batch(small, average):
    made = small.prepare()
    config = config_of(made, average=average)
    roll = one(started(config, made.start, drawn(0, 0, 1.0)), 0)
    run = jax.jit(lambda batch: gradient(config, made.base, source_of(made), roll, batch))
    large, gradients = run(micro(small, made, (0, 1, 7, 3, 4), size=5))
    accumulated, sums = run(micro(small, made, (0, 1), (7, 3), (4,)))  # the last window is short: one row is not valid
    np.testing.assert_allclose(accumulated, large, rtol=1e-6)
    same(sums, gradients, rtol=1e-4, atol=1e-6)
    rows = [row(small, n) for n in (0, 1, 7, 3, 4)]
    params = adapters.combine(made.base, roll.trainable, made.stacks, roll.scale)
    score = jax.jit(functools.partial(forward.log_probs, made.network, params))
    losses = []
    for single in rows:
        found = score(*made.feed.make([single], room_for(small, made), 1))
        losses.append(-np.asarray(found)[0, : made.feed.shape(single).targets])
    expected = np.mean([loss.mean() for loss in losses]) if average == "example" else np.concatenate(losses).mean()
    np.testing.assert_allclose(large, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "listed", "kind"), [("lora", False, ADAM), ("attention", False, CLIPPED), ("mixed", True, CLIPPED)]
)
def test_rolls_in_one_step_equal_separate_ones(small, method, listed, kind):
    """With dropout, too, and though a roll alone has rows that are padded to less."""
    made = small.prepare(method, listed=listed, rules=MIXED if method == "mixed" else ())
    config = config_of(made, kind, dropout=0.25)
    draws = [drawn(0, 3, 0.01, 4.0, 0.0), drawn(1, 4, 0.03, 16.0, 2.0), drawn(2, 5, 0.002, 1.0, 9.0)]
    batches = [((0, 1), (2, 7)), ((3, 4), (5, 6)), ((7, 0), (1, 2))]
    step = compile_step(config)

    def run(members, steps=2, **room):
        rolls = started(config, made.start, *[draws[n] for n in members])
        for ahead in range(steps):
            own = stacked(*[micro(small, made, *batches[(n + ahead) % 3], **room) for n in members])
            rolls, report = step(made.base, source_of(made), rolls, own)
        return rolls, report

    alone = [run([n], tokens=16, targets=8) for n in range(3)]
    together, report = run([2, 0, 1], tokens=30, targets=12)
    for slot, n in enumerate([2, 0, 1]):
        # Adam divides by the gradient's own size: where that is near zero, rounding is a part of a whole step.
        slack = 0.05 if kind is ADAM else 5e-3
        same(one(together, slot), one(alone[n][0], 0), rtol=2e-4, atol=slack * draws[n].rate)
        np.testing.assert_allclose(report.loss[slot], alone[n][1].loss[0], rtol=1e-5)
    begun = one(started(config, made.start, *draws), slice(0, 1)).trainable
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-5, alone[0][0].trainable, begun)
    assert all(jax.tree.leaves(moved))


def test_a_model_multiplied_in_float8_is_near_itself_and_its_rolls_are_each_as_alone():
    """Logits beside those of the same numbers multiplied in float32; three rolls of different sizes beside three runs,
    of which a number that is rounded the other way may move a few others."""
    made = PALIGEMMA.prepare()
    base = quantize_tree(made.base, [(DECODER, "float8"), (".*", "keep")])
    batch = micro(PALIGEMMA, made, (0, 1))
    rows = jax.tree.map(lambda leaf: leaf[0], batch)
    score = jax.jit(lambda tree: forward.log_probs(made.network, tree, rows, source_of(made)))
    off = np.abs(score(base) - score(multiplied_in_full(base)))[rows.weights > 0]
    assert 1e-4 < off.mean() < 0.1 and off.max() < 0.4
    config, draws = config_of(made), [drawn(0, 3, 1.0), drawn(1, 4, 1.0, 64.0), drawn(2, 5, 1.0, 0.1)]
    slope = jax.jit(
        jax.vmap(lambda roll, batch: gradient(config, base, source_of(made), roll, batch)[1], in_axes=(0, None))
    )
    rolls = started(config, made.start, *draws)
    together = slope(rolls, batch)
    for n in range(3):
        alone = slope(jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], rolls), batch)
        for a, b in zip(jax.tree.leaves(one(together, n)), jax.tree.leaves(one(alone, 0)), strict=True):
            assert np.linalg.norm(b) > 0 and np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)


@pytest.fixture(scope="module")
def counted(prepared):
    """A step of three rolls, and how often it was traced."""
    traces, real = [], forward.log_probs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "log_probs", lambda *inputs: traces.append(1) or real(*inputs))
        yield compile_step(config_of(prepared)), traces


RATES = [drawn(0, 0, 0.05), drawn(1, 1, 0.05), drawn(2, 2, 0.05)]


@pytest.fixture
def three(prepared):
    return stacked(*[micro(PALIGEMMA, prepared, numbers) for numbers in ((0, 1), (2, 3), (4, 5))])


def test_a_roll_that_dies_stops_and_changes_nothing_for_the_others(counted, prepared, three):
    step, traces = counted

    def run(poison):
        rolls = started(config_of(prepared), prepared.start, *RATES)
        if poison:
            path = sorted(rolls.trainable)[0]
            bad = rolls.trainable[path]["a"].at[1, 0, 0, 0].set(jnp.nan)
            rolls = rolls._replace(trainable=rolls.trainable | {path: rolls.trainable[path] | {"a": bad}})
        begun = one(rolls, 1)
        for _ in range(3):
            rolls, _ = step(prepared.base, prepared.feed.source, rolls, three)
        return rolls, begun

    healthy, begun = run(False)
    assert healthy.state.tolist() == [ALIVE] * 3 and healthy.step.tolist() == [3] * 3
    poisoned, begun = run(True)
    assert poisoned.state.tolist() == [ALIVE, NOT_FINITE, ALIVE] and poisoned.step.tolist() == [3, 0, 3]
    same(one(poisoned, 1)._replace(state=begun.state), begun)
    for slot in (0, 2):
        same(one(poisoned, slot), one(healthy, slot))
    assert len(traces) == 1


def test_a_huge_rate_ends_its_roll_alone(counted, prepared, three):
    step, traces = counted
    huge = dataclasses.replace(RATES[1], rate=1e30)
    rolls = started(config_of(prepared), prepared.start, RATES[0], huge, RATES[2])
    for _ in range(4):
        rolls, _ = step(prepared.base, prepared.feed.source, rolls, three)
    assert rolls.state.tolist() == [ALIVE, NOT_FINITE, ALIVE] and rolls.step.tolist() == [4, 1, 4]
    assert len(traces) == 1


def test_nothing_changes_after_the_last_step(prepared):
    config = config_of(prepared, ADAM)
    step = compile_step(config)
    rolls = started(config, prepared.start, drawn(0, 0, 0.01))
    for _ in range(4):
        rolls, _ = step(prepared.base, prepared.feed.source, rolls, stacked(micro(PALIGEMMA, prepared, (0, 1))))
    done = one(rolls, 0)
    assert done.step == 4
    rolls, _ = step(prepared.base, prepared.feed.source, rolls, stacked(micro(PALIGEMMA, prepared, (2, 3))))
    same(one(rolls, 0), done)


STILL = StepConfig(None, {}, **SGD)  # of the watch alone


def levels(losses) -> tuple[int, int]:
    """(state, steps done) of a roll that meets these losses."""
    roll = one(tickets.begin(LOTTERY, STILL, InitialWeights({}, {"text/norm/scale": jnp.ones(2)}), RATES[:1]), 0)
    for loss in losses:
        fast, best, state = (np.asarray(x) for x in watch(STILL, roll, jnp.float32(loss), jnp.float32(1)))
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


def test_the_running_level_begins_at_the_first_loss_and_a_low_one_counts_as_one_nat():
    """It dies over 3 * max(lowest level, 1) + 2: a level that began below the losses would rise by itself."""
    assert levels([12.0] * 60) == (ALIVE, 60)
    assert levels([40.0] * 60) == (ALIVE, 60)
    assert levels([0.01] * 20 + [4.9] * 100) == (ALIVE, 120)
    assert levels([0.01] * 20 + [5.3] * 100)[0] == EXPLODED
    roll = one(tickets.begin(LOTTERY, STILL, InitialWeights({}, {"text/norm/scale": jnp.ones(2)}), RATES[:1]), 0)
    seen = []
    for loss in (4.0, 2.0, 3.0):  # the mean of what was seen, until it is ten steps old
        fast, best, _ = (float(x) for x in watch(STILL, roll, jnp.float32(loss), jnp.float32(1)))
        roll = roll._replace(fast=np.float32(fast), best=np.float32(best), step=roll.step + 1)
        seen.append((fast, best))
    np.testing.assert_allclose(seen, [(4, 4), (3, 3), (3, 3)], rtol=1e-6)


def test_a_class_weight_weighs_its_row_and_does_not_cancel_out():
    """A row of two tokens that counts three times, one of one token, and one that only fills the batch up."""
    log_probs = -jnp.array([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0], [5.0, 9.0, 9.0]])
    weights, valid = jnp.array([[3.0, 3.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), jnp.array([True, True, False])
    batch = Batch(**dict.fromkeys(Batch._fields) | {"weights": weights, "valid": valid})
    found = {average: targets_loss(dataclasses.replace(STILL, average=average), log_probs, batch)
             for average in ("example", "token")}  # fmt: skip
    np.testing.assert_allclose(found["example"], (3 * (1 + 2) / 2 + 4, 2))
    np.testing.assert_allclose(found["token"], (3 * (1 + 2) + 4, 3 + 3 + 1))


def test_updates_are_stalled_until_the_level_is_under_a_guess(prepared, three):
    """One roll is under a guess's loss from the beginning, one comes under it, one never does."""
    step = compile_step(config_of(prepared, guess=50.0, explosion_margin=1e9))
    levels, counts = jnp.array([1.0, 999.0, 999.0]), jnp.array([7, 7, 7], jnp.int32)
    rolls = started(config_of(prepared), prepared.start, *RATES)
    rolls = rolls._replace(step=jnp.full(3, 50, jnp.int32), fast=levels, best=levels + 0, stalled=counts)
    rolls, _ = step(prepared.base, prepared.feed.source, rolls, three)
    assert rolls.stalled.tolist() == [0, 8, 8]
    rolls = rolls._replace(fast=rolls.fast.at[1].set(50.5))  # this step's loss brings it under, and counts at once
    rolls, _ = step(prepared.base, prepared.feed.source, rolls, three)
    assert rolls.stalled.tolist() == [0, 0, 9]


def test_no_update_is_stalled_where_nobody_can_guess(prepared, three):
    """A guess that costs nothing, as of one answer for all rows, is under no loss, however small."""
    rolls = started(config_of(prepared), prepared.start, *RATES)
    rolls, _ = compile_step(config_of(prepared))(prepared.base, prepared.feed.source, rolls, three)
    assert rolls.stalled.tolist() == [0, 0, 0]


def test_scores_are_sums_of_each_candidates_tokens(prepared):
    rolls = started(config_of(prepared), prepared.start, drawn(0, 0, 1.0), drawn(1, 1, 1.0))
    both = PALIGEMMA.row("a b", "abc", "d")
    batch, source = prepared.feed.make([both], prepared.feed.shape(both)._replace(tokens=24, targets=8), 2)
    score = compile_score(prepared.network, prepared.stacks, 2)
    scores = score(prepared.base, source, rolls.trainable, rolls.scale, batch)
    assert scores.shape == (2, 2, 2)
    roll = one(rolls, 1)
    params = adapters.combine(prepared.base, roll.trainable, prepared.stacks, roll.scale)
    lp = np.asarray(forward.log_probs(prepared.network, params, batch, source))[0]
    np.testing.assert_allclose(scores[1, 0], [lp[:4].sum(), lp[4:6].sum()], rtol=1e-5)
    assert np.all(np.asarray(scores)[:, 1] == 0)  # the row that fills up the batch


def losses_with_dropout(prepared, **more):
    """(the jitted loss of a roll on a batch, two rolls of the same weights)."""
    config = config_of(prepared, dropout=0.5)
    run = jax.jit(lambda roll, batch: gradient(config, prepared.base, prepared.feed.source, roll, batch)[0])
    rolls = started(config, prepared.start, drawn(0, 0, 1.0), drawn(1, 1, 1.0))
    first, second = one(rolls, 0), one(rolls, 1)
    return run, first, second._replace(trainable=first.trainable)


def test_dropout_differs_by_roll_and_step_and_repeats_with_the_seed(prepared):
    run, first, second = losses_with_dropout(prepared)
    batch = micro(PALIGEMMA, prepared, (0, 1))
    losses = [float(run(roll, batch)) for roll in (first, second, first._replace(step=np.int32(1)), first)]
    assert len(set(losses[:3])) == 3 and losses[3] == losses[0]


def test_dropout_differs_by_micro_batch(prepared):
    run, first, _ = losses_with_dropout(prepared)
    both = micro(PALIGEMMA, prepared, (0, 1), (0, 1))
    counts = lambda which: both._replace(valid=both.valid & (np.arange(2) == which)[:, None])
    losses = [float(run(first, counts(which))) for which in range(2)]  # the same rows, first and second
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("path", ["attn/o", "mlp/up", "mlp/down"])
def test_dropout_reaches_every_adapted_matrix(prepared, path):
    path = f"text/layers/{path}/kernel"
    start = InitialWeights({path: prepared.start.lora[path]}, {})
    run, first, _ = losses_with_dropout(dataclasses.replace(prepared, start=start))
    losses = [float(run(first._replace(step=np.int32(n)), micro(PALIGEMMA, prepared, (0, 1)))) for n in range(2)]
    assert abs(losses[0] - losses[1]) > 1e-5


def test_weight_decay_is_for_matrices_and_embeddings_alone(small):
    """Two steps that differ in the decay alone, of everything there is to train."""
    made = small.prepare("full")
    config = config_of(made)
    assert made.start.full.keys() == trees.flatten(small.params).keys()
    rolls = tickets.begin(LOTTERY, config, made.start, [drawn(0, 0, 0.5), drawn(1, 0, 0.5, weight_decay=0.1)])
    before = one(rolls, 0).trainable
    batch = micro(small, made, (0, 1))
    rolls, _ = compile_step(config)(made.base, source_of(made), rolls, stacked(batch, batch))
    plain, decayed = one(rolls, 0).trainable, one(rolls, 1).trainable
    decays = 0
    for path, leaf in before.items():
        last = path.rpartition("/")[2]
        share = 0.05 if last in ("kernel", "embedding") else 0.0
        np.testing.assert_allclose(plain[path] - decayed[path], share * leaf, rtol=1e-3, atol=1e-5, err_msg=path)
        decays += share > 0
    assert 0 < decays < len(before) and "text/embed/embedding" in before and "text/norm/scale" in before


def frugal(made, name: str, **more) -> StepConfig:
    """Whose optimizer keeps little; every matrix is large enough to be kept in eight bits."""
    momentum = 0.9 if name == "sgd" else 0.0
    optimizer = optim.Optimizer(name, 1.0, momentum, tuple(made.stacks))
    return config_of(made, dict(schedule=optim.Schedule("cosine", 4, 1), optimizer=optimizer), **more)


@pytest.fixture
def eight_bits(monkeypatch):
    monkeypatch.setattr(optim, "SMALL", 64)
    tickets._beginning.cache_clear()  # what other tests compiled holds the number as it was
    yield
    tickets._beginning.cache_clear()


@pytest.mark.parametrize("name", KINDS)
def test_frugal_rolls_in_one_step_equal_separate_ones_and_repeat(prepared, eight_bits, name):
    """States in few bits, weights in bfloat16 rounded by the roll's own key, whichever slot a roll is in."""
    made = PALIGEMMA.prepare("mixed", rules=MIXED, dtype="bfloat16")
    config = frugal(made, name)
    draws = [drawn(0, 3, 0.01, 4.0, 0.0), drawn(1, 4, 0.03, 16.0, 2.0), drawn(2, 3, 0.01, 4.0, 0.0)]
    batch = micro(PALIGEMMA, made, (0, 1), (2, 7))
    step = compile_step(config)

    def run(members, steps=3):
        rolls = started(config, made.start, *[draws[n] for n in members])
        weights = {path: leaf.astype(made.start.full[path].dtype) if path in made.start.full else leaf
                   for path, leaf in rolls.trainable.items()}  # fmt: skip
        rolls = rolls._replace(trainable=weights)
        for _ in range(steps):
            rolls, _ = step(made.base, source_of(made), rolls, stacked(*[batch] * len(members)))
        return rolls

    together, again = run([1, 0, 2]), run([1, 0, 2])
    same(together, again)
    assert together.trainable["text/norm/scale"].dtype == jnp.bfloat16
    same(one(together, 1), one(together, 2))  # drawn alike, and so alike to the end
    for slot, n in ((0, 1), (1, 0)):
        alone = one(run([n]), 0)
        for path, leaf in one(together, slot).trainable.items():
            other, slack = alone.trainable[path], 2**-7 if path == "text/norm/scale" else 0.02 * draws[n].rate
            for a, b in zip(jax.tree.leaves(leaf), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=2e-3, atol=slack, err_msg=path)


def test_only_what_is_trained_has_states_and_sums(prepared):
    made = PALIGEMMA.prepare("mixed", rules=MIXED, dtype="bfloat16")
    config = frugal(made, "adamw8bit")
    rolls = tickets.begin(LOTTERY, config, made.start, RATES[:2])
    assert rolls.trainable.keys() == rolls.optimizer.keys() == made.start.full.keys() | made.start.lora.keys()
    trained = sum(leaf.size for leaf in jax.tree.leaves(rolls.trainable))
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(rolls.optimizer))
    assert kept == 8 * trained  # all of it is small
    roll = one(rolls, 0)
    sums = lambda *batches: jax.eval_shape(
        lambda batch: summed(config, made.base, source_of(made), roll, batch)[2], micro(PALIGEMMA, made, *batches)
    )
    single, several = sums((0, 1)), sums((0, 1), (2, 3))
    assert single.keys() == several.keys() == rolls.trainable.keys()
    assert single["text/norm/scale"].dtype == jnp.bfloat16  # a gradient has its leaf's dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(several)} == {jnp.dtype("float32")}  # a sum of several is float32


@pytest.mark.parametrize("name", KINDS)
def test_a_slot_that_is_drawn_again_begins_without_memory(prepared, eight_bits, name):
    made = PALIGEMMA.prepare("mixed", rules=MIXED, dtype="bfloat16")
    config = frugal(made, name)
    rolls = tickets.begin(LOTTERY, config, made.start, RATES[:2])
    both = stacked(*[micro(PALIGEMMA, made, (0, 1))] * 2)
    rolls, _ = compile_step(config)(made.base, source_of(made), rolls, both)
    begun = tickets.begin(LOTTERY, config, made.start, RATES[2:])
    moved = [np.any(np.asarray(a[1]) != np.asarray(b[0])) for a, b in
             zip(jax.tree.leaves(rolls.optimizer), jax.tree.leaves(begun.optimizer), strict=True)]  # fmt: skip
    assert any(moved)
    replaced = tickets.replace(rolls, 1, begun)
    same(one(replaced, 1), one(tickets.begin(LOTTERY, config, made.start, RATES[2:]), 0))


def test_a_gradient_that_is_not_finite_touches_no_state(prepared, eight_bits):
    made = PALIGEMMA.prepare("mixed", rules=MIXED, dtype="bfloat16")
    config = frugal(made, "adamw8bit")
    rolls = tickets.begin(LOTTERY, config, made.start, RATES[:2])
    path = sorted(made.start.lora)[0]
    bad = rolls.trainable[path]["a"].at[1, 0, 0, 0].set(jnp.nan)
    rolls = rolls._replace(trainable=rolls.trainable | {path: rolls.trainable[path] | {"a": bad}})
    begun = one(rolls, 1)
    both = stacked(*[micro(PALIGEMMA, made, (0, 1))] * 2)
    rolls, _ = compile_step(config)(made.base, source_of(made), rolls, both)
    assert rolls.state.tolist() == [ALIVE, NOT_FINITE] and rolls.step.tolist() == [1, 0]
    same(one(rolls, 1)._replace(state=begun.state), begun)
