"""Fine-tune on a split, evaluate before and after, save the roll (or the best of many) and a report."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rolltune import atomic, trees
from rolltune import recipe as recipes
from rolltune.base import Model
from rolltune.data.files import sha256_of
from rolltune.data.sets import find_dataset, shown
from rolltune.data.splits import cluster_rows, fold_by_id, fold_rows
from rolltune.errors import UserError
from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.figures import check_name, default_metric
from rolltune.evaluation.leaderboard import keep_count
from rolltune.jobs.conclude import Finished, conclude, print_results
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.judge import judge_of
from rolltune.jobs.log import Log, Sinks
from rolltune.jobs.outputs import Outputs
from rolltune.memory import fit_rolls
from rolltune.recipe import Recipe
from rolltune.training import checkpoints, setup
from rolltune.training.dataset import Data, Wanted, read_data
from rolltune.training.loop import Run, new_state, train
from rolltune.weights.roll_file import load_roll, nested_lora

INTERRUPTED = 130
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked of one training, beside its recipe. The flags of 03-do_learn.py."""

    dataset: str
    name: str
    second: str | None = None  # the roll to go on with; empty: the latest
    rolls: str = "1"
    folds: int | None = None
    repeat: int = 1
    keep: str = "best"
    resume: bool = False
    whole: bool = False
    tensorboard: bool = False
    wandb: str | None = None
    command: str = ""  # as it was typed, for the report


def learn(options: Options, recipe: Recipe, say: Say, began: float | None = None) -> int:
    """The exit status: 0 saved, 3 every roll diverged, 130 interrupted."""
    began = time.perf_counter() if began is None else began
    out = Outputs(options.name)
    _check_state(options, out)
    slots = _slots(options)
    keep_count(options.keep)  # a mistake is to be said before the work, not after
    continued, passes, recipe = _second_pass(options, recipe, say)
    wanted = Wanted(recipe.task, recipe.answers, recipe.positive, recipe.frames)
    data = read_data(find_dataset(options.dataset), wanted, say)
    recipe = dataclasses.replace(recipe, metric=recipe.metric or default_metric(data.task.kind))
    check_name(recipe.metric, data.task.kind)
    folds = _folds(options, recipe, data, say)
    for path in (out.roll, out.report):
        atomic.check_folder(path.parent)
    draws = lambda slots: max(slots, recipe.draws) * options.repeat
    ready = prepare(recipe, data, draws(slots), folds, options.folds, continued, say)
    if options.rolls == "auto":
        slots, why = fit_rolls(ready.run)
        say(why)
        ready = dataclasses.replace(ready, run=dataclasses.replace(ready.run, draws=draws(slots)))
    state = new_state(ready.run, slots)
    before = ready.evaluator.predict(state.rolls.trainable, state.rolls.scale)[0]  # all alike as yet
    print_results(data, before, passes - 1, say)
    say(data.positive.reason)
    settings = dataclasses.asdict(recipe) | {f"data/{split}": sha256_of(file) for split, file in data.files.items()}
    if options.resume:
        state = checkpoints.load(out.state, settings, state, lambda kept: kept and _unpack(kept, before))
        say(f"going on from step {state.step}")
    judging = judge_of(ready.evaluator, data, recipe.metric, folds)
    ready_after = time.perf_counter() - began
    sinks = Sinks(options.tensorboard, options.wandb, dataclasses.asdict(recipe))
    with (
        Log(out, sinks, recipe.metric, recipe.steps, state, fresh=not options.resume) as log,
        Interrupts(log.say) as interrupts,
    ):

        def judge(rolls: Any, slots: Sequence[int], final: bool) -> Any:
            verdicts = judging(rolls, slots, final, [slot.draw for slot in state.slots])
            log.judged(state, verdicts, final)
            return verdicts

        finished, spent = train(
            ready.run, state, judge, log.step, log.say, interrupts.asked,
            lambda now: checkpoints.save(out.state, now, settings, lambda kept: kept and _pack(kept)),
        )  # fmt: skip
    if not finished:
        say(f"stopped at step {state.step}; go on with the same command and --resume")
        return INTERRUPTED
    facts = {
        "seconds": round(time.perf_counter() - began, 1),
        "first step after": f"{ready_after + spent.first_step:.1f} s",
        "waiting for data": f"{spent.waiting:.1%}",
    } | _device_facts()
    say("  ".join(f"{name}: {value}" for name, value in facts.items()))
    made = Finished(state.ended, before, passes, folds, log.curves, facts)
    status = conclude(options, recipe, ready.model, data, made, out, say)
    if status == 0:
        checkpoints.remove(out.state)
    return status


@dataclasses.dataclass(frozen=True)
class Ready:
    """Everything ready to train and to evaluate."""

    model: Model
    run: Run
    evaluator: Evaluator


def prepare(
    recipe: Recipe,
    data: Data,
    draws: int,
    folds: Sequence[int] | None = None,
    fold_count: int | None = None,
    continued: Mapping[str, Any] | None = None,
    say: Say = lambda text: None,
) -> Ready:
    """The five steps of setting up, one after the other."""
    model, params = setup.load(recipe)
    plan = setup.plan(
        model, {path: leaf.shape for path, leaf in setup.trees.flatten(params).items()}, recipe, data.task
    )
    inputs = setup.encode(model, recipe, data)
    if inputs.cut:
        say(f"{inputs.cut} of {len(inputs.training)} rows were cut to {recipe.max_tokens} tokens, on their right")
    cached = setup.cache(model, params, plan, recipe, data, inputs)
    if continued:
        cached = dataclasses.replace(cached, start=setup.going_on(cached.start, continued))
    loaders = setup.loaders(recipe, cached.training, data, folds)
    run, evaluator = setup.compile(model, plan, recipe, data, cached, loaders, draws, fold_count)
    return Ready(model, run, evaluator)


def _check_state(options: Options, out: Outputs) -> None:
    there = checkpoints.exists(out.state)
    if there and not options.resume:
        raise UserError(f"{out.state}: an interrupted run is there; go on with --resume, or delete the folder")
    if options.resume and not there:
        raise UserError(f"{out.state}: no interrupted run is there to go on with; start without --resume")


def _second_pass(options: Options, recipe: Recipe, say: Say) -> tuple[dict[str, Any] | None, int, Recipe]:
    """(what to go on with, which pass this is, the recipe at a tenth of the rate)."""
    if options.second is None:
        return None, 1, recipe
    path = _roll_to_continue(options.second, options.name)
    roll = load_roll(path)
    old = recipes.from_card(roll.card.recipe)
    say(f"going on with {shown(path)} at a tenth of its rate: {old.rate / 10:.4g}")
    passes = int(roll.card.metrics.get("passes", 1)) + 1
    keep = ("method", "rules", "rank", "alpha", "rslora", "first_layer", "prompt", "model", "tokenizer", "answers")
    same = {name: getattr(old, name) for name in keep}
    # What differs by roll would take the place of what the saved one had.
    recipe = dataclasses.replace(recipe, **same, rate=old.rate / 10, rates=(), rate_range=(), alphas=())
    return nested_lora(trees.flatten(roll.tree)), passes, recipe


def _roll_to_continue(named: str, write: str) -> Path:
    if named:
        return Path(named)
    same = Path("checkpoints") / f"{write}.npz"
    rolls = sorted(
        (path for path in Path("checkpoints").glob("*.npz") if not path.name.endswith(".whole.npz")),
        key=lambda path: path.stat().st_mtime,
    )
    if not same.is_file() and not rolls:
        raise UserError("-2: there is no roll in ./checkpoints to go on with; train one first, without -2")
    return same if same.is_file() else rolls[-1]


def _folds(options: Options, recipe: Recipe, data: Data, say: Say) -> list[int] | None:
    if options.folds is None:
        return None
    if options.rolls != "1":
        raise UserError("--folds makes the rolls the folds: leave --rolls away")
    examples = [data.examples[place] for place in data.seen]
    clusters = cluster_rows(examples)
    if recipe.fold_by == "auto":
        return fold_rows([one.answer for one in examples], clusters, options.folds, recipe.seed)
    ids = [data.id_in_file(place) for place in data.seen]
    folds = fold_by_id(ids, [one.source for one in examples], options.folds)
    torn = len(set(zip(clusters, folds, strict=True))) - len(set(clusters))
    if torn:
        say(f"groups of rows are torn apart by id % {options.folds}: a roll is judged on what it nearly saw")
    return folds


def _slots(options: Options) -> int:
    repeat, rolls = options.repeat, options.rolls
    if repeat < 1:
        raise UserError(f"--repeat {repeat}: expected a number from 1")
    if repeat > 1 and options.folds is None and rolls == "1":
        raise UserError(f"--repeat {repeat} repeats --folds or --rolls; --rolls {repeat} trains as many seeds")
    if options.folds is not None:
        return options.folds
    if rolls == "auto":
        return 1
    if not rolls.isdecimal() or int(rolls) < 1:
        raise UserError(f"--rolls {rolls!r}: expected a number from 1, or auto")
    return int(rolls)


def _device_facts() -> dict[str, Any]:
    device = jax.devices()[0]
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    facts = {"peak GiB": round(peak / 2**30, 2)} if peak else {}
    return facts | {"device": device.device_kind, "jax": jax.__version__}


def _pack(prediction: Any) -> dict[str, Any]:
    """An evaluation as plain JSON; what is the same for all rolls is left out."""
    texts = getattr(prediction, "texts", None)
    return {
        "log_probs": np.asarray(prediction.log_probs, float).tolist(),
        "texts": None if texts is None else list(texts),
    }


def _unpack(kept: Mapping[str, Any], like: Any) -> Any:
    found = like._replace(log_probs=np.asarray(kept["log_probs"], np.float32))
    return found._replace(texts=tuple(kept["texts"])) if kept["texts"] is not None else found
