"""What `learn` makes of the rolls that ran: the leaderboard, the saved files, the report."""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from rolltune import adapters, base
from rolltune.base import Model
from rolltune.data.files import sha256_of
from rolltune.data.images import open_image
from rolltune.data.learned import learned_text
from rolltune.data.sets import shown
from rolltune.device import choose_dtype
from rolltune.evaluation import decision as deciding
from rolltune.evaluation import folds as folding
from rolltune.evaluation import leaderboard
from rolltune.evaluation.charts import Curve
from rolltune.evaluation.decision import Decision, decide, plain_figures
from rolltune.evaluation.doubtful import Doubt
from rolltune.evaluation.figures import Figures, Scored, block, measured, mixed_title, no_better
from rolltune.evaluation.leaderboard import Entry, Leaderboard, Status, metrics_json
from rolltune.evaluation.metrics import stage
from rolltune.evaluation.report import RunSummary, write_report
from rolltune.evaluation.report_pictures import doubtful_picture, pictures
from rolltune.evaluation.report_tables import SplitResult
from rolltune.jobs import folded
from rolltune.jobs.outputs import Outputs
from rolltune.recipe import Recipe
from rolltune.tracking import print_table
from rolltune.training.dataset import Data, judged_rows
from rolltune.training.loop import STALLED, FinishedRoll
from rolltune.training.rolls import Draw
from rolltune.training.step import REASONS, STOPPED
from rolltune.weights.roll_file import Base, RollCard, save_roll

DIVERGED = 3
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Passes:
    """What a roll was trained on, now and before."""

    count: int  # this one counted
    learned: frozenset[str] = frozenset()  # marks of what earlier ones were trained on
    folds: Sequence[int] | None = None  # of this one's rows
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # how it was trained: see `origin.run_facts`


@dataclasses.dataclass(frozen=True)
class Finished:
    """What the training left."""

    ended: list[FinishedRoll]
    before: Any  # the prediction of the untrained model
    passes: Passes
    curves: dict[int, tuple[list[int], list[float]]]
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is made of the rolls: how they stand, which is the best, how it decides, whose answers are doubtful."""

    made: Finished  # its rolls as they decide
    board: Leaderboard
    best: FinishedRoll
    decision: Decision
    doubtful: Sequence[Doubt] = ()


def own_recipe(recipe: Recipe, draw: Draw) -> Recipe:
    """The recipe that trains this one roll alone: what is drawn, written as single values."""
    single = dataclasses.replace(recipe, rates=(), rate_range=(), alphas=(), weight_decays=())
    return dataclasses.replace(single, seed=draw.seed, rate=draw.rate, alpha=draw.alpha, weight_decay=draw.weight_decay)


def figures_of(data: Data, prediction: Scored, places: Sequence[int]) -> Figures:
    return measured(prediction.at(places), data.positive.answer)


def print_results(
    data: Data,
    prediction: Any,
    passes: int,
    say: Say,
    folds: Sequence[int] | None = None,
    learned_from: Collection[str] = (),
    tested: bool = False,
    decision: Decision = deciding.PLAIN,
) -> None:
    """A block for each split, and one for all rows that may choose a roll. Rows that were learned from are counted.

    The test split stays unseen until a roll is chosen: only `tested` shows it. `prediction` is decided by `decision`.
    """
    for split, file in data.files.items():
        if folds is not None and split != "test":  # a fold's roll has seen most of these rows
            continue
        if split == "test" and not tested:
            continue
        figures = figures_of(data, prediction, data.spans[split])
        say(block(f"{shown(file)} {stage(passes)}", figures))
        say(f"  {figures.frequencies()}")
        if plain := plain_figures(decision, prediction.at(data.spans[split]), data.positive.answer):
            say(f"  {plain}")
        if split != "train" and (known := data.known(data.spans[split], learned_from)):
            say(f"  {learned_text(known, len(data.spans[split]))}")
    if "valid" in data.files and folds is None:
        title = mixed_title(shown(data.files["train"].parent), passes, data.files)
        say(block(title, figures_of(data, prediction, data.seen)))


def conclude(options: Any, recipe: Recipe, model: Model, data: Data, made: Finished, out: Outputs, say: Say) -> int:
    """Ranks, prints, saves and reports; returns the exit status."""
    ended, folds = list(made.ended), made.passes.folds
    finished = {one.draw.roll: one for one in ended if not one.reason}
    if not finished:
        # Rolls that give every picture one answer are poor, but they are what the training made.
        ended = [dataclasses.replace(one, reason="") if one.trainable is not None else one for one in ended]
        finished = {one.draw.roll: one for one in ended if one.trainable is not None}
    decisions = {one.draw.roll: _decided(recipe, data, one) for one in ended}
    ended = [_with_decision(one, decisions[one.draw.roll]) for one in ended]
    finished = {one.draw.roll: one for one in ended if one.draw.roll in finished}
    entries = [_entry(recipe, data, one, folds) for one in ended]
    if not finished:
        say(f"nothing was saved: {_all_died(made.ended, recipe)}")
        return DIVERGED
    board = leaderboard.rank(entries, recipe.metric)
    doubtful: list[Doubt] = []
    if folds is not None and options.origin is None:  # one fold of many says nothing of the other rows
        rounds = folded.rounds(finished, ended, options)
        doubtful = folded.out_of_fold(data, rounds, folds, options.folds, out, say)
    assert board.chosen is not None
    chosen, decision = finished[board.chosen.roll], decisions[board.chosen.roll]
    after = chosen.judged
    if "test" in data.spans:
        board = leaderboard.with_test(board, after.at(data.spans["test"]))
    if len(entries) > 1:
        tests = {n: one.judged.at(data.spans["test"]) for n, one in finished.items()} if "test" in data.spans else {}
        board = leaderboard.with_votes(board, tests)
        leaderboard.write(out.board, board)
        _print_board(board, say)
    if options.repeat > 1 and folds is None:
        say(folding.seeds_block(entries))
    learned_from = made.passes.learned | trained_marks(data, chosen.draw, folds)
    print_results(data, after, made.passes.count, say, folds, learned_from, True, decision)
    if decision.text:
        say(decision.text)
    if len(entries) == 1 and (judged := entries[0].ranked_on) and (poor := no_better(judged, "the roll")):
        say(poor)
    for path in out.stale:
        path.unlink(missing_ok=True)
    kept = board.keep(options.keep)
    for rank, entry in kept.items():
        one = finished[entry.roll]
        assert one.trainable is not None
        card = with_known(card_of(recipe, model.base, data, one.draw, made.passes, entry), data, one.draw, folds)
        save_roll(out.kept(rank), one.trainable, with_decision(card, decisions[entry.roll], data, one), dtype=None)
        size = out.kept(rank).stat().st_size / 1e6
        say(f"saved roll {entry.roll}: {shown(out.kept(rank))} ({size:.1f} MB)")
    if options.keep == leaderboard.VOTE:
        named = " ".join(shown(out.kept(rank)) for rank in kept)
        say(f"they vote: ./07-predict.py -m {named} ..." if len(kept) > 1 else "no other roll was kept to vote with it")
    if options.whole:
        card = card_of(recipe, model.base, data, chosen.draw, made.passes, board.chosen)
        card = with_known(card, data, chosen.draw, folds)
        _save_whole(recipe, chosen, out.whole, with_decision(card, decision, data, chosen), say)
    outcome = Outcome(dataclasses.replace(made, ended=ended), board, chosen, decision, doubtful)
    _report(options, recipe, model.base, data, outcome, out)
    say(f"report: {shown(out.report)}")
    return 0


def _decided(recipe: Recipe, data: Data, one: FinishedRoll) -> Decision:
    """What the recipe's threshold and temperature are for this roll, by its validation rows."""
    asked = (recipe.threshold, recipe.temperature)
    if asked == (deciding.NONE, deciding.NONE) or one.judged is None or one.reason or "valid" not in data.spans:
        return Decision()
    return decide(one.judged.at(data.spans["valid"]), data.positive.answer, *asked, recipe.metric)


def _with_decision(one: FinishedRoll, made: Decision) -> FinishedRoll:
    """The roll with its rows decided so: from here on all that is ranked, printed and shown is."""
    return one if one.judged is None else dataclasses.replace(one, judged=made.apply(one.judged))


def with_decision(card: RollCard, made: Decision, data: Data, one: FinishedRoll) -> RollCard:
    """The card with the decision and the figures without it, beside those with it; itself where none was asked for."""
    if not made.text:
        return card
    plain = made.undo(one.judged)
    splits = [split for split in ("valid", "test") if card.metrics.get(split) is not None]
    figures = {split: metrics_json(figures_of(data, plain, data.spans[split])) for split in splits}
    return dataclasses.replace(card, metrics={**card.metrics, "decision": made.card(), "undecided": figures})


def with_known(card: RollCard, data: Data, draw: Draw, folds: Sequence[int] | None) -> RollCard:
    """The card with how many rows of each split that has judged it were learned from, in any pass."""
    spans: dict[str, Sequence[int]] = {name: span for name, span in data.spans.items() if name != "train"}
    spans |= {"valid": judged_rows(data, folds, draw)} if folds is not None else {}
    learned_from = card.metrics["learned"]
    known = {split: data.known(span, learned_from) for split, span in spans.items() if card.metrics.get(split)}
    return dataclasses.replace(card, metrics={**card.metrics, "known": known})


def _entry(recipe: Recipe, data: Data, one: FinishedRoll, folds: Sequence[int] | None) -> Entry:
    """Figures of one roll. A fold's validation rows are those that it did not train on, whatever file they are in."""
    judged = one.judged
    status = Status()
    if one.reason == REASONS[STOPPED]:
        status = Status("stopped", one.step, "others were better at this rung")
    elif one.reason:
        status = Status("redrawn" if one.redrawn else "died", one.step, one.reason)
    train, valid, ranked = None, None, None
    if judged is not None:
        held_out = judged_rows(data, folds, one.draw)
        trained = [place for place in data.seen if place not in set(held_out)] if folds else data.spans["train"]
        train = figures_of(data, judged, trained)
        valid = figures_of(data, judged, held_out) if folds or "valid" in data.spans else None
        ranked = judged.at(held_out)
    draw = one.draw
    settings: dict[str, object] = {"fold": draw.fold} if draw.fold is not None else {}
    settings |= {"alpha": draw.alpha} if recipe.alphas else {}
    settings |= {"weight_decay": draw.weight_decay} if recipe.weight_decays else {}
    return Entry(draw.roll, draw.seed, draw.rate, status, train, valid, ranked, None, settings, draw.attempt)


def _all_died(ended: Sequence[FinishedRoll], recipe: Recipe) -> str:
    last = ended[-1]
    told = f"all {len(ended)} rolls ended early; the last, roll {last.draw.roll}, at step {last.step}: {last.reason}"
    if last.reason == STALLED:
        advice = "Try another rate, higher or lower, or let them go on: --config.stall=0"
    else:
        advice = f"Try a lower rate, for example --config.rate={recipe.rate / 4:.2g}, or more rolls: --rolls 8"
    return f"{told} (lr {last.draw.rate:.4g}). {advice}. The log is kept."


def _print_board(board: leaderboard.Leaderboard, say: Callable[[str], None]) -> None:
    print_table(leaderboard.table(board))
    for text in (*board.ends, *board.notes):
        say(f"  {text}")


def trained_marks(data: Data, draw: Draw, folds: Sequence[int] | None) -> frozenset[str]:
    """The marks of all rows that a roll was trained on."""
    if folds is None:
        places = list(data.spans["train"])
    else:
        places = [place for place, fold in zip(data.seen, folds, strict=True) if fold != draw.fold]
    return frozenset(mark for place in places for mark in data.marks[place])


def card_of(recipe: Recipe, base: Base, data: Data, draw: Draw, passes: Passes, entry: Entry | None = None) -> RollCard:
    """All about a roll but its arrays; `entry` has its figures, which a state on the way has not."""
    files = {
        split: {"path": shown(file), "rows": data.digest(split)}
        | ({"sha256": sha256_of(file)} if file.is_file() else {})
        for split, file in data.files.items()
    }
    figures = {split: metrics_json(getattr(entry, split, None)) for split in ("train", "valid", "test")}
    prompts = {one.prompt for one in data.examples}
    prompt = recipe.prompt or (prompts.pop() if len(prompts) == 1 else "")
    return RollCard(
        base=base,
        method=recipe.method,
        recipe=dataclasses.asdict(own_recipe(recipe, draw)) | {"task": data.task.kind},
        prompt=prompt,
        answers=list(data.task.answers),
        metrics={"passes": passes.count, "positive": data.positive.answer, "files": files}
        | figures
        | {"learned": sorted(passes.learned | trained_marks(data, draw, passes.folds))}
        | {"run": {**passes.run, "fold": draw.fold, "attempt": draw.attempt}},
        seed=draw.seed,
    )


def _save_whole(recipe: Recipe, ended: FinishedRoll, path: Path, card: RollCard, say: Say) -> None:
    """The model with the roll worked in, loaded afresh: the frozen parts are not all on the device any more."""
    with jax.default_device(jax.devices("cpu")[0]):
        model, params = base.load(recipe.model, recipe.tokenizer, choose_dtype(recipe.dtype))
        scale = own_recipe(recipe, ended.draw).scale
        assert ended.trainable is not None  # it ran all its steps
        merged = adapters.merge(params, ended.trainable, model.stacks, scale, recipe.first_layer)
        base.save_whole(path, merged, model, card)
    say(f"saved the whole model for big_vision: {shown(path)}")


def _report(options: Any, recipe: Recipe, base: Base, data: Data, outcome: Outcome, out: Outputs) -> None:
    made, board, best = outcome.made, outcome.board, outcome.best
    assert board.chosen is not None
    known = made.passes.learned | trained_marks(data, best.draw, made.passes.folds)
    splits = [
        SplitResult(
            shown(file),
            split,
            figures_of(data, made.before, span),
            figures_of(data, best.judged, span),
            data.known(span, known),
        )
        for (split, file), span in zip(data.files.items(), data.spans.values(), strict=True)
    ]
    states = {one.draw.roll: ("died" if one.reason else "alive") for one in made.ended}
    shown_split = "test" if "test" in data.spans else "valid" if "valid" in data.spans else "train"
    rows, scored = data.of(shown_split), best.judged.at(data.spans[shown_split])
    card = card_of(recipe, base, data, best.draw, made.passes, board.chosen)
    curves = [Curve(n, steps, losses, states.get(n, "alive")) for n, (steps, losses) in sorted(made.curves.items())]
    write_report(
        out.report,
        RunSummary(
            title=out.name,
            date=time.strftime("%Y-%m-%d %H:%M"),
            stage=stage(made.passes.count),
            prompt=card.prompt,
            answers=data.task.answers,
            positive=data.positive.reason,
            base={"name": card.base.name, "hash": card.base.hash},
            recipe=dataclasses.asdict(recipe),
            command=options.command,
            roll_file=shown(out.roll),
            facts=made.facts,
            splits=splits,
            curves=curves,
            leaderboard=board if len(made.ended) > 1 else None,
            scored=scored,
            scored_split=shown(data.files[shown_split]),
            decision=outcome.decision,
            pictures=pictures(
                scored,
                {one.id: one.images for one in rows},
                shown_split,
                {one.id: recipe.prompt or one.prompt for one in rows},
            ),
            doubtful=[doubtful_picture(one) for one in outcome.doubtful],
            warnings=board.notes,
        ),
        open_image,
    )
