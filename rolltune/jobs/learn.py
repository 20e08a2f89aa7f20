"""Fine-tune on a split, evaluate before and after, save the roll (or the best of many) and a report."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rolltune import recipe as recipes
from rolltune import sharding, trees
from rolltune.base import Model, check_whole, load_opened
from rolltune.data.examples import Example
from rolltune.data.sets import find_dataset, shown
from rolltune.data.splits import cluster_rows, fold_by_id, fold_rows
from rolltune.device import is_gpu
from rolltune.errors import UserError
from rolltune.evaluation import decision
from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.figures import check_boxes, check_name, default_metric
from rolltune.evaluation.leaderboard import keep_count
from rolltune.evaluation.tasks import CLASSIFY, accepted
from rolltune.jobs.cards import decided_by
from rolltune.jobs.conclude import Finished, Passes, card_of, conclude, print_results
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.judge import judge_of
from rolltune.jobs.log import Log, Sinks
from rolltune.jobs.origin import Origin, run_facts
from rolltune.jobs.outputs import Outputs
from rolltune.jobs.plan_memory import check_room
from rolltune.jobs.second_pass import Earlier, second_pass
from rolltune.memory import fit_rolls, free_bytes
from rolltune.recipe import Recipe
from rolltune.tracking import note
from rolltune.training import checkpoints, setup
from rolltune.training.dataset import Data, Splits, Wanted, data_of, read_splits
from rolltune.training.loop import Run, State, new_state, train
from rolltune.training.outline import outline
from rolltune.training.plan import plan_for
from rolltune.training.rolls import Draw
from rolltune.weights.roll_file import check_base, save_roll
from rolltune.weights.whole import learned_in

INTERRUPTED = 130
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked of one training, beside its recipe. The flags of 03-do_learn.py."""

    dataset: str | Splits
    name: str
    second: str | None = None  # the roll to go on with; empty: the latest
    rolls: str = "1"
    folds: int | None = None
    repeat: int = 1
    keep: str = "best"
    resume: bool = False
    overwrite: bool = False
    whole: bool = False
    tensorboard: bool = False
    wandb: str | None = None
    reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # columns, question, names of the data
    stated: frozenset[str] = frozenset()  # the recipe's entries that a person gave; others a second pass takes over
    command: str = ""  # as it was typed, for the report
    origin: Origin | None = None  # of a roll that is trained again: its recipe, fold and earlier pass count


def learn(options: Options, recipe: Recipe, interrupts: Interrupts, began: float | None = None) -> int:
    """The exit status: 0 saved, 3 every roll diverged, 130 interrupted."""
    out = Outputs(options.name)
    with out.held():
        return _learn(options, recipe, interrupts, out, time.perf_counter() if began is None else began)


def _learn(options: Options, recipe: Recipe, interrupts: Interrupts, out: Outputs, began: float) -> int:
    say = interrupts.say
    _check_name(options, out)
    origin, slots = options.origin, _slots(options)
    keep_count(options.keep)  # a mistake is to be said before the work, not after
    earlier, recipe = (origin.earlier, recipe) if origin else second_pass(options, recipe, say)
    interrupts.doing("reading the data")
    wanted = Wanted(recipe.task, recipe.answers, recipe.positive, recipe.frames)
    found = options.dataset
    if isinstance(found, str):
        found = read_splits(find_dataset(found), say, options.reading)
    data = data_of(found, wanted, say)
    if origin:
        origin.check_data(data)
    recipe = dataclasses.replace(recipe, metric=recipe.metric or default_metric(data.task.kind))
    check_name(recipe.metric, data.task.kind)
    check_boxes(recipe.metric, [accepted(one) for one in data.examples])
    validated = "valid" in data.spans and options.folds is None
    decision.check(recipe.threshold, recipe.temperature, recipe.metric, data.task.answers, validated)
    own = earlier is not None and recipe.prompt == earlier.card.prompt
    say(asked_text(data.examples, recipe.prompt, "roll" if own else "recipe"))
    folds = _folds(options, recipe, data, say)
    trained = len(data.spans["train"]) if folds is None else len(folds) - len(folds) // (options.folds or 1)
    recipe = recipes.with_steps(recipe, trained)
    settings = dataclasses.asdict(recipe) | {shown(file): data.digest(split) for split, file in data.files.items()}
    if options.resume:  # what is wrong is said before anything is loaded
        checkpoints.check(out.state, settings, None if options.rolls == "auto" else slots, later=("base",))
    draws = lambda slots: max(slots, recipe.draws) * options.repeat
    interrupts.doing("loading the model")
    mesh = sharding.mesh_of(None if options.rolls == "auto" else slots)
    ready = prepare(recipe, data, draws(slots), folds, options.folds, earlier, say, options.whole, slots, mesh)
    if origin:
        check_base(origin.path, origin.card, ready.model.base)
        ready = dataclasses.replace(ready, run=dataclasses.replace(ready.run, first_fold=origin.run["fold"] or 0))
    if options.rolls == "auto":
        slots, why = fit_rolls(ready.run)
        say(why)
        ready = dataclasses.replace(ready, run=dataclasses.replace(ready.run, draws=draws(slots)))
    interrupts.doing("evaluating the untrained model")
    if used := sharding.told(slots, ready.run.mesh):
        say(used)
    state = new_state(ready.run, slots)
    out.check_room(room_for(state, options))
    note("compiling the evaluation ...")
    before = ready.evaluator.predict(state.rolls.trainable, state.rolls.scale)[0]  # all alike as yet
    passes, known = (earlier.passes, earlier.learned) if earlier else (0, frozenset())
    known |= learned_in(recipe.model)
    decided = decided_by(earlier.card, shown(earlier.path)) if earlier else decision.Decision()
    print_results(data, decided.apply(before), passes, say, learned_from=known, decision=decided)
    say(data.positive.reason)
    settings["base"] = ready.model.base.hash
    if options.resume:
        state = checkpoints.load(out.state, settings, state, lambda kept: kept and _unpack(kept, before))
        say(f"going on from step {state.step}")
    run = run_facts(slots, options.folds, origin.run["seed"] if origin else recipe.seed, options.reading, earlier)
    trained_by = Passes(passes + 1, known, folds, run)
    judging = judge_of(ready.evaluator, data, recipe.metric, folds)
    ready_after = time.perf_counter() - began
    sinks = Sinks(options.tensorboard, options.wandb, dataclasses.asdict(recipe))
    interrupts.doing("training")
    note("compiling the step ...")

    def save(now: State) -> None:
        with interrupts.saving():
            checkpoints.save(out.state, now, settings, lambda kept: kept and _pack(kept))

    def save_on_the_way(now: State) -> None:
        try:
            save(now)
        except (OSError, ValueError) as error:  # orbax raises both; the training itself is not touched by it
            log.say(f"{shown(out.state)}: the state can't be saved ({error}); a stop now would lose the run. Make room")

    with Log(out, sinks, recipe.metric, recipe.steps, state, fresh=not options.resume) as log:
        interrupts.say = log.say

        def judge(rolls: Any, slots: Sequence[int], final: bool) -> Any:
            verdicts = judging(rolls, slots, final, [slot.draw for slot in state.slots])
            log.judged(state, verdicts, final)
            return verdicts

        def snapshot(draw: Draw, step: int, trainable: dict[str, Any]) -> None:
            number = draw.roll if state.width > 1 else None
            card = card_of(recipe, ready.model.base, data, draw, trained_by)
            save_roll(out.at_step(step, number), trainable, card)
            if recipe.keep_last:
                out.drop_steps(recipe.keep_last, number)

        finished, spent = train(ready.run, state, judge, log.step, log.say, interrupts.asked, save_on_the_way, snapshot)
    interrupts.say = say
    if not finished:
        say(f"stopped at step {state.step}; go on with the same command and --resume")
        return INTERRUPTED
    facts = {
        "seconds": round(time.perf_counter() - began, 1),
        "first step after": f"{ready_after + spent.first_step:.1f} s",
        "waiting for data": f"{spent.waiting:.1%}",
    } | _device_facts()
    say("  ".join(f"{name}: {value}" for name, value in facts.items()))
    made = Finished(state.ended, decided.apply(before), trained_by, log.curves, facts)
    # Whatever fails from here on, what was trained is on the disk first.
    kept = _keep_state(state, save, out)
    interrupts.at("saving the rolls")
    try:
        with interrupts.saving():
            status = conclude(options, recipe, ready.model, data, made, out, say)
    except OSError as error:
        raise UserError(
            f"{error.filename or shown(out.roll)}: {error.strerror}; {kept}: make room there, then the same command "
            "with --resume saves the rolls without training them again"
        ) from error
    checkpoints.remove(out.state)  # where every roll diverged, too: there is nothing to go on with
    return status


def _keep_state(state: State, save: Callable[[State], None], out: Outputs) -> str:
    """Saves what was trained before anything else is tried; in words, where it is."""
    try:
        save(state)
        return f"what was trained is kept in {shown(out.state)}"
    except (OSError, ValueError) as error:
        spare = Path(tempfile.mkdtemp(prefix=f"rolltune-{out.name}-"))
        for one in state.ended:
            if one.trainable is not None:
                np.savez(spare / f"roll{one.draw.roll}.npz", **trees.flatten(one.trainable))
        return f"the state could not be saved ({error}); the trained arrays are in {spare}"


def room_for(state: State, options: Options) -> int:
    """Bytes that a run saves at most at a time: its state twice, while the new one takes the old one's place, and the
    rolls that are kept."""
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    width = state.width
    kept = width if options.keep == "all" else min(keep_count(options.keep) or width, width)
    return 2 * size(state.rolls) + kept * size(state.rolls.trainable) // len(state.slots)


def asked_text(examples: Sequence[Example], prompt: str, whose: str) -> str:
    """What is really asked, and whose words that are; `whose` prompt it is: the recipe's, or a saved roll's."""
    own = list(dict.fromkeys(one.prompt for one in examples))
    if not prompt:
        more = f" and {len(own) - 1} other prompts" if len(own) > 1 else ""
        return f"asked: {own[0]!r}{more} (the rows' own)"
    instead = [text for text in own if text and text != prompt]
    where = f", in the place of the rows' own {instead[0]!r}" if instead else ""
    more = f" and {len(instead) - 1} more" if len(instead) > 1 else ""
    return f"asked: {prompt!r} (the {whose}'s{where}{more})"


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
    earlier: Earlier | None = None,
    say: Say = lambda text: None,
    whole: bool = False,
    slots: int = 0,
    mesh: Mesh | None = None,
) -> Ready:
    """The five steps of setting up, on the cards of a mesh. What so many `slots` need there is checked before the
    weights come."""
    opened = setup.open_model(recipe)
    if whole:
        check_whole(opened.model, data.task.kind == CLASSIFY)
    inputs = setup.encode(opened.model, recipe, data, folds)
    if inputs.cut:
        say(f"{inputs.cut} of {len(data.seen)} rows were cut to {recipe.max_tokens} tokens, on their right")
    if slots and (free := free_bytes()) is not None:
        cards = sharding.size_of(mesh)
        check_room(outline(opened, recipe, data, inputs), sharding.places_for(slots, cards) // cards, free, say)
    model, params = load_opened(opened, is_gpu())
    if earlier:
        earlier.check(model, trees.shapes(params))
    plan = plan_for(model, trees.shapes(params), recipe, data.task)
    if price := setup.price_of_views(model, plan, recipe, inputs):
        say(price)
    cached = setup.on_cards(setup.cache(model, params, plan, recipe, data, inputs), mesh)
    if earlier:
        cached = dataclasses.replace(cached, start=setup.going_on(cached.start, earlier.trained))
    loaders = setup.loaders(recipe, cached.training, data, folds)
    run, evaluator = setup.compile(model, plan, recipe, data, cached, loaders, draws, fold_count)
    return Ready(model, run, evaluator)


def _check_name(options: Options, out: Outputs) -> None:
    there = checkpoints.exists(out.state)
    if options.resume and not there:
        raise UserError(f"{out.state}: no interrupted run is there to go on with; start without --resume")
    if options.resume:
        return
    if there and not options.overwrite:
        raise UserError(
            f"{out.state}: an interrupted run is there; go on with --resume, or start anew with --overwrite"
        )
    if options.overwrite:
        checkpoints.remove(out.state)
        out.stale = out.others
    else:
        out.check_free()


def _folds(options: Options, recipe: Recipe, data: Data, say: Say) -> list[int] | None:
    if options.folds is None:
        return None
    if options.rolls != "1":
        raise UserError("--folds makes the rolls the folds: leave --rolls away")
    examples = [data.examples[place] for place in data.seen]
    clusters = cluster_rows(examples)
    if recipe.fold_by == "auto":
        seed = options.origin.run["seed"] if options.origin else recipe.seed
        return fold_rows([one.answer for one in examples], clusters, options.folds, seed)
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
        return options.folds if options.origin is None else 1
    if rolls == "auto":
        return 1
    if not rolls.isdecimal() or int(rolls) < 1:
        raise UserError(f"--rolls {rolls!r}: expected a number from 1, or auto")
    return int(rolls)


def _device_facts() -> dict[str, Any]:
    device, *others = sharding.cards_here()
    peak = max((one.memory_stats() or {}).get("peak_bytes_in_use", 0) for one in (device, *others))
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
