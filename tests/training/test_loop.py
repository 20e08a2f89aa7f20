"""The lottery: rolls drawn, ended, drawn again, halved and folded; stopped anywhere and gone on with."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune import optim
from rolltune.data.batches import Loader
from rolltune.errors import UserError
from rolltune.models import forward
from rolltune.training import checkpoints, loop, savings
from rolltune.training import rolls as tickets
from rolltune.training.loop import Evaluation, Looks, Run
from rolltune.training.rolls import Lottery
from rolltune.training.saves import Saves
from rolltune.training.step import REASONS, STOPPED, StepConfig, compile_step

ANSWERS = ("yes", "no", "Zeb", "a", "bcd", "yes", "no")
PROMPTS = ("is it?", "is it what it seems to be?")  # of two buckets: a roll alone may have shorter rows
LOTTERY = Lottery(seed=0, rates=(0.05,), alphas=(8.0,), weight_decays=(0.0,), rank=2)
LOOKS = Looks(steps=6, log_every=4, redraws=3)
ACCUMULATE = 2


@pytest.fixture(scope="module")
def config(prepared):
    schedule = optim.Schedule("cosine", 6, 1)
    return StepConfig(prepared.network, prepared.stacks, schedule, optim.Optimizer("sgd", 1.0), dropout=0.25)


@pytest.fixture(scope="module")
def make_run(config, prepared, encoded_rows):
    """`make_run(draws=2, rates=...)`: a run on seven rows; the compiled step is the same for all of them."""
    step, rows = compile_step(config), encoded_rows(ANSWERS, PROMPTS)
    assert len(rows.shapes) == 2

    def make(draws=2, folds=None, **changes) -> Run:
        own = lambda kind, values: {field.name for field in dataclasses.fields(kind)} & values.keys()
        lottery = dataclasses.replace(LOTTERY, **{name: changes[name] for name in own(Lottery, changes)})
        looks = dataclasses.replace(LOOKS, **{name: changes[name] for name in own(Looks, changes)})
        made = {}

        def loader(draw):
            places = np.array([n for n in range(7) if folds is None or n % folds != draw.fold])
            key = (draw.seed, draw.fold)
            return made.setdefault(key, Loader(rows, places, 1 * ACCUMULATE, draw.seed))

        return Run(lottery, looks, config, prepared.start, step, prepared.base, loader, ACCUMULATE, draws, folds)

    return make


def go(run, slots=2, state=None, figures=lambda draw: 0.0, collapsed=(), **more):
    """(state, what was said) after a run in which `figures` ranks the draws."""
    state = state or loop.new_state(run, slots)
    said = []

    def judge(rolls, some, final):
        drawn = {n: state.slots[n].draw for n in some}
        return {n: Evaluation(figures(d), final and d.roll in collapsed, d.roll) for n, d in drawn.items()}

    finished, _ = loop.train(run, state, judge, lambda state, report: None, said.append, **more)
    return state, said, finished


def same(a, b):
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=str(path))


def test_two_rolls_equal_two_runs_of_one(make_run):
    own = {"rates": (0.05, 0.02), "alphas": (4.0, 16.0), "weight_decays": (3.0, 0.0)}
    together, _, _ = go(make_run(draws=2, **own))
    for number in range(2):
        single = {name: (values[number],) for name, values in own.items()}
        alone, _, _ = go(make_run(draws=1, seed=number, **single), slots=1)
        found = next(one for one in together.ended if one.draw.roll == number)
        assert (found.reason, found.step) == ("", 6)
        settings = (found.draw.rate, found.draw.alpha, found.draw.weight_decay)
        assert settings == tuple(values[number] for values in own.values())
        for path, leaf in alone.ended[0].trainable.items():
            for name in ("a", "b"):
                np.testing.assert_allclose(found.trainable[path][name], leaf[name], rtol=1e-4, atol=1e-6)


HALVED = dict(draws=3, redraws=0, rungs=(0.5,), alphas=(4.0, 8.0, 2.0), weight_decays=(0.0, 0.5))
DRAWN_AGAIN = dict(draws=2, redraws=1, rates=(0.05, 1e30), redraw_factor=1e-31)


@pytest.mark.parametrize(
    ("at", "left", "changes"),
    [(1, 2, HALVED), (4, 2, HALVED), (7, 1, HALVED), (2, 2, DRAWN_AGAIN), (8, 1, DRAWN_AGAIN)],
)
def test_resumed_equals_uninterrupted(make_run, tmp_path, monkeypatch, at, left, changes):
    monkeypatch.setattr(loop, "WORTH_A_PROGRAM", 1)
    run = make_run(**changes)
    whole, _, finished = go(run)
    assert finished and len(whole.ended) == 3 and len(whole.slots) == 1

    state, asked = loop.new_state(run, 2), itertools.count(1)
    settings = {"rate": 0.05, "rungs": (0.5,), "data/train": "ab12"}
    keep = lambda now: checkpoints.save(tmp_path / "kept", now, settings, lambda judged: judged)
    load = lambda settings, fresh: checkpoints.load(tmp_path / "kept", settings, fresh, lambda judged: judged)
    stop = lambda: state.step >= at and next(asked) > 0
    state, _, finished = go(run, state=state, stop=stop, save=keep)
    assert not finished and state.step == at and savings.exists(tmp_path / "kept")
    loaded = load(settings, loop.new_state(run, 2))
    assert loaded.slots == state.slots and len(loaded.slots) == left and loaded.reached == state.reached
    same(loaded.rolls, state.rolls)
    resumed, _, finished = go(run, state=loaded)
    assert finished and resumed.step == whole.step
    same(resumed.rolls, whole.rolls)
    assert len(resumed.ended) == len(whole.ended)
    for one, other in zip(resumed.ended, whole.ended, strict=True):
        plain = lambda x: dataclasses.replace(x, trainable=None)
        assert plain(one) == plain(other)
        same(one.trainable, other.trainable)
    with pytest.raises(UserError, match="begun with 2 rolls at once, not 3"):
        load(settings, loop.new_state(run, 3))
    for change, message in (
        ({"rate": 0.1}, r"rate was 0\.05, is 0\.1"),
        ({"data/train": "cd34"}, r"data/train was 'ab12', is 'cd34'"),  # other data
        ({"data/valid": "ef56"}, r"data/valid was not there"),
    ):
        with pytest.raises(UserError, match=message):
            load(settings | change, loop.new_state(run, 2))
    savings.remove(tmp_path / "kept")
    assert not savings.exists(tmp_path / "kept")


def test_gone_on_with_from_any_saving_on_the_way_it_ends_the_same(make_run, tmp_path):
    """Saved after every step while the next ones are done: where it logs, at a rung, in between, with a slot empty."""
    run, judged = make_run(**HALVED), lambda judged: judged
    with Saves(tmp_path / "all", {}, judged, keep=100) as saves:
        whole, _, _ = go(run, passing=saves.begin)
    assert len(list((tmp_path / "all").iterdir())) == whole.step - 1  # at the last one there is nothing to go on with
    for step in range(1, whole.step):
        (tmp_path / str(step)).mkdir()
        (tmp_path / "all" / str(step)).rename(tmp_path / str(step) / "1")
        loaded = checkpoints.load(tmp_path / str(step), {}, loop.new_state(run, 2), judged)
        assert loaded.step == step
        for slot, own in zip(loaded.slots, np.asarray(loaded.rolls.step), strict=True):
            assert slot.draw is None or slot.step == own
        resumed, _, finished = go(run, state=loaded)
        assert finished and resumed.step == whole.step and len(resumed.ended) == len(whole.ended)
        same(resumed.rolls, whole.rolls)
        for one, other in zip(resumed.ended, whole.ended, strict=True):
            assert one.draw == other.draw and one.judged == other.judged
            same(one.trainable, other.trainable)


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_an_evaluation_on_the_way_that_breaks_off_is_made_again(make_run, tmp_path, broken):
    """As on SIGTERM: the roll at the rung, the evaluated ones, those that are done; nothing is lost, nor done twice."""
    run = make_run(**HALVED, evaluate_every=2, keep_best=True)
    whole, _, _ = go(run)
    keep = lambda now: checkpoints.save(tmp_path / "kept", now, {}, lambda judged: judged) is None
    calls = itertools.count(1)

    def interrupted(draw):
        if next(calls) == broken:
            raise KeyboardInterrupt
        return 0.0

    state = loop.new_state(run, 2)
    with pytest.raises(KeyboardInterrupt):
        go(run, state=state, figures=interrupted, save=keep)
    loaded = checkpoints.load(tmp_path / "kept", {}, loop.new_state(run, 2), lambda judged: judged)
    assert loaded.looking and loaded.step == state.step
    resumed, _, finished = go(run, state=loaded)
    assert finished and resumed.step == whole.step and not resumed.looking
    assert [dataclasses.replace(one, trainable=None) for one in resumed.ended] == [
        dataclasses.replace(one, trainable=None) for one in whole.ended
    ]
    same([one.trainable for one in resumed.ended], [one.trainable for one in whole.ended])


def test_what_was_trained_survives_its_last_evaluation(make_run, tmp_path):
    """A second Ctrl-C, or a device without memory, at the moment when all steps are done and nothing is saved."""
    run = make_run()
    whole, _, _ = go(run)
    keep = lambda now: checkpoints.save(tmp_path / "kept", now, {}, lambda judged: judged)

    def interrupted(draw):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(run, figures=interrupted, save=keep)
    loaded = checkpoints.load(tmp_path / "kept", {}, loop.new_state(run, 2), lambda judged: judged)
    resumed, _, finished = go(run, state=loaded)
    assert finished and resumed.step == whole.step == 6
    assert [one.draw for one in resumed.ended] == [one.draw for one in whole.ended]
    for one, other in zip(resumed.ended, whole.ended, strict=True):
        same(one.trainable, other.trainable)


def test_empty_slots_are_left_out_and_nothing_else_changes(make_run, config, encoded_rows, monkeypatch):
    widths, traces, real = [], [], forward.log_probs
    monkeypatch.setattr(forward, "log_probs", lambda *inputs: traces.append(len(widths)) or real(*inputs))
    compiled = compile_step(config)
    rows = encoded_rows(ANSWERS)  # of one shape

    def step(base, source, rolls, batch):
        widths.append(len(rolls.step))
        return compiled(base, source, rolls, batch)

    def run_to_the_end():
        widths.clear()
        loader = lambda draw: Loader(rows, np.arange(7), ACCUMULATE, draw.seed)
        run = dataclasses.replace(make_run(draws=4, rungs=(1 / 3, 2 / 3)), step=step, loader=loader)
        return go(run, slots=4, figures=lambda draw: draw.roll)[0]

    kept = run_to_the_end()
    assert widths == [4] * 6 and len(set(traces)) == 1  # so few steps are not worth another program
    monkeypatch.setattr(loop, "WORTH_A_PROGRAM", 1)
    closed = run_to_the_end()
    assert widths == [4, 4, 2, 2, 1, 1] and sorted(set(traces)) == [1, 3, 5]
    assert traces.count(3) == traces.count(5) == traces.count(1)  # one program a halving
    for one, other in zip(closed.ended, kept.ended, strict=True):
        assert dataclasses.replace(one, trainable=None) == dataclasses.replace(other, trainable=None)
    for found, expected in zip(
        jax.tree.leaves(closed.ended[-1].trainable), jax.tree.leaves(kept.ended[-1].trainable), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_slots_are_left_out_while_the_roll_that_began_last_has_enough_steps_left(make_run, monkeypatch):
    """Four slots of which two are empty: of five steps left, ten are saved; of one, two."""
    monkeypatch.setattr(loop, "WORTH_A_PROGRAM", 10)

    def widths(*steps):
        state = loop.new_state(make_run(draws=4), 4)
        state.slots = [loop.Slot(slot.draw, step) for slot, step in zip(state.slots, steps, strict=False)]
        state.slots += [loop.Slot(None, 6)] * 2
        loop._close_up(LOOKS, state)
        return len(state.slots), len(state.rolls.step)

    assert widths(5, 1) == (2, 2) and widths(5, 2) == (4, 4)


def test_the_last_roll_of_several_is_still_drawn_again(make_run, monkeypatch):
    monkeypatch.setattr(loop, "WORTH_A_PROGRAM", 1)
    state, _, _ = go(make_run(draws=2, redraws=3, rates=(0.05, 1e30), redraw_factor=0.9))
    again = {one.draw.roll: one.redrawn for one in state.ended}
    assert again == {1: True, 2: True, 0: False, 3: True, 4: False} and len(state.slots) == 1


def test_rolls_that_diverge_are_drawn_again_at_a_lower_rate(make_run):
    healthy, _, _ = go(make_run(draws=2))
    run = make_run(draws=2, rates=(0.05, 1e30), redraw_factor=1e-16, alphas=(8.0, 3.0))
    state, said, _ = go(run)
    good = next(one for one in state.ended if one.draw.roll == 0)
    same(good.trainable, next(one for one in healthy.ended if one.draw.roll == 0).trainable)
    dead = [one for one in state.ended if one.reason]
    assert [(one.draw.roll, one.draw.seed, one.redrawn) for one in dead][:1] == [(1, 1, True)]
    assert dead[0].reason == "loss or gradient not finite" and dead[0].step == 1 and dead[0].trainable is None
    after = [one.draw for one in state.ended if one.draw.attempt]
    assert [one.roll for one in after] == [one.seed for one in after] == list(range(2, 2 + len(after)))
    assert {one.alpha for one in after} == {3.0}  # a lower rate, and all else as it was
    np.testing.assert_allclose([one.rate for one in after], [1e30 * 1e-16**n for n in range(1, len(after) + 1)])
    assert state.ended[-1].reason == "" and state.ended[-1].step == 6
    assert "roll 1: loss or gradient not finite at step 1/6 (lr 1e+30); its slot draws roll 2, lr 1e+14" in said


def test_draws_again_are_counted_and_end(make_run):
    state, _, _ = go(make_run(draws=2, redraws=3), collapsed=range(100))
    assert [one.redrawn for one in state.ended] == [True] * 3 + [False] * 2
    assert {one.reason for one in state.ended} == {loop.COLLAPSED} and all(one.trainable for one in state.ended)
    assert len({one.draw.seed for one in state.ended}) == 5
    state, _, _ = go(make_run(draws=1), slots=1, collapsed=[0])
    assert [(one.draw.roll, one.redrawn) for one in state.ended] == [(0, False)]  # a lone roll is not a lottery


def test_losers_stop_at_a_rung_and_free_their_slots(make_run):
    state, said, _ = go(make_run(draws=4, rungs=(0.5,)), figures=lambda draw: -draw.roll)
    ended = {one.draw.roll: (one.reason, one.step) for one in state.ended}
    assert ended[0] == ("", 6) and ended[1] == (REASONS[STOPPED], 3)
    assert sorted(ended) == [0, 1, 2, 3] and ended[3] == (REASONS[STOPPED], 3)
    assert state.reached == {0: [0, -1, -2, -3]}
    assert any(line.startswith("roll 1: stopped early at step 3/6") for line in said)


def test_a_fold_never_trains_on_its_own_rows(make_run, monkeypatch):
    run, seen = make_run(draws=3, folds=3), {}

    def spying(draw):
        loader = run.loader(draw)
        for step in range(6):
            seen.setdefault(draw.fold, set()).update(loader.places[loader.indices(step)].tolist())
        return loader

    state, _, _ = go(dataclasses.replace(run, loader=spying), slots=3)
    assert sorted(one.draw.fold for one in state.ended) == [0, 1, 2]
    for fold in range(3):
        assert seen[fold] == {n for n in range(7) if n % 3 != fold}


def test_a_fold_stays_with_its_roll_when_it_is_drawn_again_and_later_rolls_have_their_turn(make_run):
    """Two folds, twice: the second roll of the first round dies, and its successor is of its fold."""
    run = make_run(draws=4, folds=2, redraws=1)
    state, _, _ = go(run, collapsed=[1])
    folds = {one.draw.roll: (one.draw.fold, one.draw.attempt) for one in state.ended}
    assert folds == {0: (0, 0), 1: (1, 0), 2: (0, 0), 3: (1, 1), 4: (1, 0)}
    whole = [one for one in state.ended if not one.redrawn]
    assert sorted(one.draw.fold for one in whole) == [0, 0, 1, 1]


def stalling(run: Run, slot: int) -> Run:
    """The run with a step that counts all updates of the roll in this slot as no better than guessing."""

    def step(*inputs):
        rolls, report = run.step(*inputs)
        return rolls._replace(stalled=jnp.where(jnp.arange(len(rolls.step)) == slot, rolls.step, 0)), report

    return dataclasses.replace(run, step=step)


def test_a_roll_that_learns_nothing_is_drawn_again_while_it_has_steps_left(make_run):
    state, _, _ = go(stalling(make_run(draws=2, redraws=1, stall_steps=4), 1))
    ended = [(one.draw.roll, one.reason, one.step, one.redrawn) for one in state.ended]
    assert ended == [(1, loop.STALLED, 4, True), (0, "", 6, False), (2, loop.STALLED, 4, False)]
    state, _, _ = go(stalling(make_run(draws=2, stall_steps=6), 1))
    assert [one.reason for one in state.ended] == ["", ""]  # it is judged as what it has become


def test_a_lone_roll_that_learns_nothing_is_told_of_once_and_goes_on(make_run):
    state, said, _ = go(stalling(make_run(draws=1, log_every=2, stall_steps=2), 0), slots=1)
    assert [(one.reason, one.step) for one in state.ended] == [("", 6)]
    assert len(said) == 1 and loop.STALLED in said[0]


def test_a_roll_ends_as_what_it_was_at_the_latest_best_of_its_evaluated_steps(make_run):
    run = make_run(draws=1, evaluate_every=2, save_every=3, keep_best=True)
    state, figures = loop.new_state(run, 1), {2: 0.5, 4: 0.5, 6: 0.1}
    seen, saved, logged, said = {}, {}, [], []

    def judge(rolls, some, final):
        step = state.slots[0].step
        seen[step] = tickets.trainable_of(rolls, 0)
        return {0: Evaluation(figures[step], False, step)}

    log = lambda state, report: logged.append(state.step)
    snapshot = lambda draw, step, trained: saved.setdefault(step, trained)
    loop.train(run, state, judge, log, said.append, snapshot=snapshot)
    assert list(seen) == [2, 4, 6] and list(saved) == [3] and logged == [4, 6]
    (ended,) = state.ended
    assert (ended.step, ended.judged) == (6, 4) and said == ["roll 0 did best at step 4, which is kept"]
    same(ended.trainable, seen[4])
    assert any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (seen[4], seen[6])), strict=True))
