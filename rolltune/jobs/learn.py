"""Fine-tune on a split, evaluate before and after, save the roll (or the best of many) and a report."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

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
from rolltune.free_memory import free_bytes
from rolltune.hosts import ONE, Hosts
from rolltune.jobs import laying, together
from rolltune.jobs.cards import decided_by
from rolltune.jobs.conclude import Finished, Passes, card_of, conclude, print_results
from rolltune.jobs.idle import Drawn, idle, idle_flags
from rolltune.jobs.interrupts import EVALUATING, TRAINING, Interrupts
from rolltune.jobs.judge import judge_of, judged
from rolltune.jobs.keeping import Keeping, room_for
from rolltune.jobs.laying import fits_whole, groups_for
from rolltune.jobs.log import Log
from rolltune.jobs.origin import Origin, run_facts
from rolltune.jobs.outputs import Outputs
from rolltune.jobs.plan_memory import check_room
from rolltune.jobs.second_pass import Earlier, second_pass
from rolltune.memory import fit_rolls, unchecked
from rolltune.programs import Ahead
from rolltune.recipe import Recipe
from rolltune.tracking import note
from rolltune.training import checkpoints, savings, setup
from rolltune.training.dataset import Data, Splits, Wanted, data_of, read_splits
from rolltune.training.loop import Run, new_state, train
from rolltune.training.outline import outline, with_programs
from rolltune.training.plan import plan_for
from rolltune.training.rolls import Draw
from rolltune.training.saves import Saves, pace_of
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
    resume: bool | str = False  # "auto": where there is a run to go on with
    state_every: str = ""  # steps, a time, or both, between two saves of the state: 200, 10m; empty: half a minute
    state_keep: int = savings.KEPT  # of these saves, the last so many
    overwrite: bool = False
    whole: bool = False
    wandb: str | None = None
    reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # columns, question, names of the data
    stated: frozenset[str] = frozenset()  # the recipe's entries that a person gave; others a second pass takes over
    command: str = ""  # as it was typed, for the report
    origin: Origin | None = None  # of a roll that is trained again: its recipe, fold and earlier pass count


def learn(
    options: Options, recipe: Recipe, interrupts: Interrupts, began: float | None = None, hosts: Hosts | None = None
) -> int:
    """The exit status: 0 saved, 3 every roll diverged, 130 interrupted. Of several hosts, all call this."""
    out, hosts = Outputs(options.name), hosts or Hosts()
    began = time.perf_counter() if began is None else began
    with out.held() if hosts.writes else contextlib.nullcontext(), Ahead() as ahead:
        return _learn(options, recipe, interrupts, out, began, hosts, ahead)


def _learn(
    options: Options, recipe: Recipe, interrupts: Interrupts, out: Outputs, began: float, hosts: Hosts, ahead: Ahead
) -> int:
    if not hosts.writes:
        interrupts.say = lambda text: None
    say = interrupts.say
    if options.resume == "auto":
        options = dataclasses.replace(options, resume=savings.exists(out.state))
    pace = pace_of(options.state_every)
    if options.state_keep < 1:
        raise UserError(f"--state-keep {options.state_keep}: expected a number from 1")
    if hosts.writes:
        _check_name(options, out)
    origin, slots = options.origin, asked_slots(options)
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
    draws = lambda slots: max(slots, recipe.draws) * options.repeat
    drawn = Drawn(0, 0) if options.rolls == "auto" else Drawn(slots, draws(slots))
    for text in idle(recipe, options.stated, data.task.kind, drawn) + idle_flags(options, recipe, drawn, pace.steps):
        say(text)
    settings = {name: value for name, value in dataclasses.asdict(recipe).items() if name not in laying.ENTRIES} | {
        shown(file): data.digest(split) for split, file in data.files.items()
    }
    laid = {name: getattr(recipe, name) for name in laying.ENTRIES}
    together.check_alike(hosts, options, settings | laid, earlier, out)
    if options.resume:  # what is wrong is said before anything is loaded
        checkpoints.check(out.state, settings, None if options.rolls == "auto" else slots, ("base",), say)
    interrupts.doing("loading the model")
    asked = Asked(draws(slots), slots, folds, options.folds, options.whole, fill=options.rolls == "auto")
    ready = prepare(recipe, data, asked, earlier, say, hosts, ahead)
    if origin:
        check_base(origin.path, origin.card, ready.model.base)
        ready = dataclasses.replace(ready, run=dataclasses.replace(ready.run, first_fold=origin.run["fold"] or 0))
    if options.rolls == "auto":
        slots, why = min(hosts.gather(fit_rolls(ready.run)), key=lambda fit: fit[0])
        say(why)
        ready = dataclasses.replace(ready, run=dataclasses.replace(ready.run, draws=draws(slots)))
    if used := sharding.told(slots, ready.run.mesh):
        say(used)
    if hosts.writes:
        note("compiling the evaluation ...")
    ahead.wait(interrupts.asked, but="training step")
    state = new_state(ready.run, slots)
    if hosts.writes:
        out.check_room(room_for(state, options.keep, options.state_keep))
    interrupts.doing("evaluating the untrained model")
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
    if hosts.writes:
        note("compiling the step ...")
    # None goes on while the card trains: the compiler tries kernels out there, by their time, in memory of its own.
    ahead.wait(interrupts.asked)
    ready_after = time.perf_counter() - began
    interrupts.doing(TRAINING)
    pack = lambda kept: kept and _pack(kept)
    there = state if options.resume else None
    with Saves(out.state, settings, pack, options.state_keep, pace, there, hosts) as saves:
        keeping = Keeping(saves, interrupts)
        with Log(out, recipe, state, not options.resume, options.wandb, hosts.writes) as log:
            interrupts.say = log.say
            if not options.resume:
                going = {n: slot.draw for n, slot in enumerate(state.slots) if slot.draw is not None}
                log.untrained(state, {n: judged(data, recipe.metric, folds, draw, before) for n, draw in going.items()})

            def judge(rolls: Any, slots: Sequence[int], final: bool) -> Any:
                # Where several processes evaluate together none leaves off alone: the others would wait for it.
                with interrupts.at(EVALUATING if jax.process_count() == 1 else TRAINING):
                    found = judging(rolls, slots, final, [slot.draw for slot in state.slots])
                verdicts = together.agreed(hosts, found)
                log.judged(state, verdicts, final)
                return verdicts

            def snapshot(draw: Draw, step: int, trainable: dict[str, Any]) -> None:
                if not hosts.writes:
                    return
                number = draw.roll if state.width > 1 else None
                card = card_of(recipe, ready.model.base, data, draw, trained_by)
                save_roll(out.at_step(step, number), trainable, card)
                if recipe.keep_last:
                    out.drop_steps(recipe.keep_last, number)

            stop = lambda: hosts.stop(interrupts.asked())
            finished, spent = train(
                ready.run, state, judge, log.step, log.say,
                stop=stop, save=keeping.at_a_stop, passing=keeping.passing, snapshot=snapshot,
            )  # fmt: skip
        interrupts.say = say
        if not finished:
            say(keeping.stopped(state))
            return INTERRUPTED
        # Of several hosts, all have to save it together: before one of them goes on alone.
        kept = keeping.at_the_end(state, out.name) if hosts.place.hosts > 1 else None
        if not hosts.writes:
            return hosts.first(0)
        try:
            facts = {
                "seconds": round(time.perf_counter() - began, 1),
                "first step after": f"{ready_after + spent.first_step:.1f} s",
                "waiting for data": f"{spent.waiting:.1%}",
            } | _device_facts()
            say("  ".join(f"{name}: {value}" for name, value in facts.items()))
            made = Finished(state.ended, decided.apply(before), trained_by, log.curves, facts)
            with interrupts.at("saving the rolls"), interrupts.saving():
                status = conclude(options, recipe, ready.model, data, made, out, say)
        except BaseException as error:  # whatever it is, what was trained is not lost
            kept = kept or keeping.at_the_end(state, out.name)
            again = "the same command with --resume saves the rolls without training them again"
            if not isinstance(error, OSError):
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    say(f"{kept.where}: {again}" if kept.whole else kept.where)
                raise
            advice = f": make room there, then {again}" if kept.whole else ""
            place, why = error.filename or shown(out.roll), error.strerror or error
            raise UserError(f"{place}: {why}; {kept.where}{advice}") from error
    savings.remove(out.state)  # where every roll diverged, too: there is nothing to go on with
    return hosts.first(status)


QUOTED = 200  # letters of a row's prompt


def asked_text(examples: Sequence[Example], prompt: str, whose: str) -> str:
    """What is really asked, and whose words that are; `whose` prompt it is: the recipe's, or a saved roll's."""
    own = list(dict.fromkeys(one.prompt for one in examples))
    # A row of text may be pages long.
    quoted = lambda text: repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}...")
    if not prompt:
        more = f" and {len(own) - 1} other prompts" if len(own) > 1 else ""
        return f"asked: {quoted(own[0])}{more} (the rows' own)"
    instead = [text for text in own if text and text != prompt]
    where = f", in the place of the rows' own {quoted(instead[0])}" if instead else ""
    more = f" and {len(instead) - 1} more" if len(instead) > 1 else ""
    return f"asked: {prompt!r} (the {whose}'s{where}{more})"


@dataclasses.dataclass(frozen=True)
class Ready:
    """Everything ready to train and to evaluate."""

    model: Model
    run: Run
    evaluator: Evaluator


@dataclasses.dataclass(frozen=True)
class Asked:
    """How many rolls are to be trained, on which rows and cards."""

    draws: int  # in all
    slots: int = 0  # at once; 0: nobody asks whether they fit
    folds: Sequence[int] | None = None  # of each row
    fold_count: int | None = None
    whole: bool = False  # the model is to be saved whole, too
    fill: bool = False  # all cards are taken, whatever number of rolls they will have


def prepare(
    recipe: Recipe,
    data: Data,
    asked: Asked,
    earlier: Earlier | None = None,
    say: Say = lambda text: None,
    hosts: Hosts = ONE,
    ahead: Ahead | None = None,
) -> Ready:
    """The five steps of setting up, on the cards that so many rolls are laid on. What they need there is checked before
    the weights come; more programs than that takes are compiled `ahead` while they do."""
    opened, slots, folds = setup.open_model(recipe), asked.slots, asked.folds
    mesh = sharding.mesh_of(None if asked.fill else slots) if slots else None
    if asked.whole:
        check_whole(opened.model, data.task.kind == CLASSIFY)
    inputs = setup.encode(opened.model, recipe, data, folds)
    if inputs.cut:
        say(f"{inputs.cut} of {len(data.seen)} rows were cut to {recipe.max_tokens} tokens, on their right")
    free = free_bytes()
    each = -(-slots // sharding.size_of(mesh))
    fit_here = lambda: free is None or not slots or fits_whole(outline(opened, recipe, data, inputs), each, free)
    fits = lambda: all(hosts.gather(fit_here()))
    places = groups_for(recipe, opened, None if asked.fill else max(slots, 1), fits, say)
    if places is not None:
        mesh = places.mesh
    if not asked.fill:
        laying.check_hosts(max(slots, 1), mesh)
    made = None
    if slots and free is not None:
        made = outline(opened, recipe, data, inputs, places)
        check_room(made, slots, free, say)
        if ahead and not asked.fill:
            ahead.begin(unchecked(made, mesh, slots, asked.draws))
    model, params = load_opened(opened, is_gpu(), *([places.put] if places else []))
    if hosts.place.hosts > 1:
        hosts.check({"weights": f"{model.base.name} {model.base.hash}"}, together.SAME_WEIGHTS)
    if earlier:
        earlier.check(model, trees.shapes(params))
    plan = plan_for(model, trees.shapes(params), recipe, data.task)
    if price := setup.price_of_views(model, plan, recipe, inputs):
        say(price)
    cached = setup.on_cards(setup.cache(model, params, plan, recipe, data, inputs, places), mesh)
    if earlier:
        cached = dataclasses.replace(cached, start=setup.going_on(cached.start, earlier.trained))
    loaders = setup.loaders(recipe, cached.training, data, folds)
    run, evaluator = setup.compile(model, plan, recipe, data, cached, loaders, asked.draws, asked.fold_count)
    if made:
        run, evaluator = with_programs(made, run, evaluator)
    return Ready(model, run, evaluator)


def _check_name(options: Options, out: Outputs) -> None:
    there = savings.exists(out.state)
    if options.resume and not there:
        raise UserError(f"{out.state}: no interrupted run is there to go on with; start without --resume")
    if options.resume:
        if options.overwrite:  # the run was begun so; its own rolls of lower ranks come only at its end
            out.stale = [path for path in out.others if path.stem.rpartition(".")[2].startswith("rank")]
        return
    if there and not options.overwrite:
        raise UserError(
            f"{out.state}: an interrupted run is there; go on with --resume, or start anew with --overwrite"
        )
    if options.overwrite:
        savings.remove(out.state)
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


def asked_slots(options: Options) -> int:
    """How many rolls are asked for at once; 1 for `auto`, which is seen to later. Raises UserError for no number."""
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
