"""What `learn` makes of the rolls that ran: the leaderboard, the saved files, the report."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rolltune import adapters, atomic
from rolltune.commands.common import shown
from rolltune.data.files import sha256_of
from rolltune.data.images import open_image
from rolltune.evaluation import folds as folding
from rolltune.evaluation import leaderboard
from rolltune.evaluation.charts import Curve
from rolltune.evaluation.leaderboard import Entry, Status, metrics_json
from rolltune.evaluation.metrics import block, frequencies, measure, stage
from rolltune.evaluation.report import RunSummary, write_report
from rolltune.evaluation.report_pictures import pictures
from rolltune.evaluation.report_tables import SplitResult
from rolltune.evaluation.scoring import subset
from rolltune.training.loop import Ended
from rolltune.training.rolls import own_recipe
from rolltune.training.session import Session, judged_rows
from rolltune.training.step import REASONS, STOPPED
from rolltune.weights.roll_file import RollCard, save_roll

DIVERGED = 3


def conclude(
    args: Any,
    ready: Session,
    state: Any,
    before: Any,
    passes: int,
    folds: Sequence[int] | None,
    curves: dict[int, tuple[list[int], list[float]]],
    facts: dict[str, Any],
    command: str,
    out: Any,
    say: Callable[[str], None],
) -> int:
    """Ranks, prints, saves and reports; returns the exit status."""
    data, metric = ready.data, ready.recipe.metric
    ended = list(state.ended)
    finished = {one.draw.roll: one for one in ended if not one.reason}
    if not finished:
        # Rolls that give every picture one answer are poor, but they are what the training made.
        ended = [dataclasses.replace(one, reason="") if one.trainable is not None else one for one in ended]
        finished = {one.draw.roll: one for one in ended if one.trainable is not None}
    entries = [_entry(ready, one, folds) for one in ended]
    if not finished:
        say(f"nothing was saved: {_all_died(state.ended, ready)}")
        return DIVERGED
    board = leaderboard.rank(entries, metric)
    if folds is not None:
        _out_of_fold(ready, finished, folds, args, out, say)
    chosen = finished[board.chosen.roll]
    after = chosen.judged
    if "test" in data.spans:
        board = leaderboard.with_test(board, subset(after, data.spans["test"]))
    if len(entries) > 1:
        leaderboard.write(out.board, board)
        _print_board(board, say)
    if args.repeat > 1 and folds is None:
        places = judged_rows(data, None, None)
        spread = folding.over_seeds([ready.measure(one.judged, places) for one in finished.values()])
        say(f"over the seeds of the {len(finished)} rolls that are alive:\n{folding.seeds_text(spread)}")
    for split, file in data.files.items():
        if folds is not None and split != "test":  # a fold's roll has seen most of these rows
            continue
        figures = ready.measure(after, data.spans[split])
        say(block(f"{shown(file)} {stage(passes)}", figures))
        say(f"  {frequencies(figures)}")
    if "valid" in data.files and folds is None:
        figures = ready.measure(after, data.seen)
        say(block(f"{shown(data.files['train'].parent)} (all) {stage(passes)}", figures))
    for rank, entry in enumerate(board.keep(args.keep), 1):
        one = finished[entry.roll]
        save_roll(out.kept(rank), one.trainable, _card(ready, one, passes, entry), dtype=None)
        size = out.kept(rank).stat().st_size / 1e6
        say(f"saved roll {entry.roll}: {shown(out.kept(rank))} ({size:.1f} MB)")
    if args.whole:
        _save_whole(ready, chosen, out.whole, say)
    _report(args, ready, board, ended, before, after, passes, curves, facts, command, out)
    say(f"report: {shown(out.report)}")
    return 0


def _entry(ready: Session, one: Ended, folds: Sequence[int] | None) -> Entry:
    """Figures of one roll. A fold's validation rows are those that it did not train on, whatever file they are in."""
    data, judged = ready.data, one.judged
    status = Status()
    if one.reason == REASONS[STOPPED]:
        status = Status("stopped", one.step, "others were better at this rung")
    elif one.reason:
        status = Status("redrawn" if one.redrawn else "died", one.step, one.reason)
    train, valid, ranked = None, None, None
    if judged is not None:
        held_out = judged_rows(data, folds, one.draw)
        trained = [place for place in data.seen if place not in set(held_out)] if folds else data.spans["train"]
        train = ready.measure(judged, trained)
        valid = ready.measure(judged, held_out) if folds or "valid" in data.spans else None
        ranked = subset(judged, held_out)
    recipe, draw = ready.recipe, one.draw
    settings: dict[str, object] = {"fold": draw.fold} if draw.fold is not None else {}
    settings |= {"alpha": draw.alpha} if recipe.alphas else {}
    settings |= {"weight_decay": draw.weight_decay} if recipe.weight_decays else {}
    return Entry(one.draw.roll, one.draw.seed, one.draw.rate, status, train, valid, ranked, settings=settings)


def _all_died(ended: Sequence[Ended], ready: Session) -> str:
    last = ended[-1]
    return (
        f"all {len(ended)} rolls ended early; the last, roll {last.draw.roll}, at step {last.step}: {last.reason} "
        f"(lr {last.draw.rate:.4g}). Try a lower rate, for example --config.rate={ready.recipe.rate / 4:.2g}, or more "
        "rolls: --rolls 8. The log is kept."
    )


def _print_board(board: leaderboard.Leaderboard, say: Callable[[str], None]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(leaderboard.table(board))
    for text in (*board.ends, *board.notes):
        say(f"  {text}")


def _out_of_fold(
    ready: Session, finished: dict[int, Ended], folds: Sequence[int], args: Any, out: Any, say: Callable[[str], None]
) -> None:
    """Every row's prediction by the roll that did not train on it; the spread over seeds with --repeat."""
    data = ready.data
    ids = [data.examples[place].id for place in data.seen]
    rounds: dict[int, dict[int, Ended]] = {}
    for one in sorted(finished.values(), key=lambda one: one.draw.roll):
        for members in (rounds.setdefault(number, {}) for number in range(args.repeat)):
            if one.draw.fold not in members:
                members[one.draw.fold] = one
                break
    complete = [members for members in rounds.values() if len(members) == args.folds]
    if not complete:
        say("no out-of-fold figures: a fold's rolls all ended early")
        return
    own = lambda members: [
        subset(one.judged, [p for p, fold in zip(data.seen, folds, strict=True) if fold == number])
        for number, one in members.items()
    ]
    joined = [folding.out_of_fold(ids, own(members)) for members in complete]
    measured = [measure(one, data.positive.answer) for one in joined]
    say(block(f"{shown(data.files['train'].parent)} (out of fold)", measured[0]))
    if len(measured) > 1:
        say(f"over {len(measured)} seeds:\n{folding.seeds_text(folding.over_seeds(measured))}")
    probabilities = np.exp(joined[0].log_probs)
    lines = [
        {"id": id, "answer": joined[0].answers[label], "predicted": joined[0].answers[int(np.argmax(row))],
         "probabilities": {a: round(float(p), 6) for a, p in zip(joined[0].answers, row, strict=True)}}
        for id, label, row in zip(joined[0].ids, joined[0].label, probabilities, strict=True)
    ]  # fmt: skip
    atomic.write_text(out.folds, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    say(f"out-of-fold predictions: {shown(out.folds)}")


def _card(ready: Session, ended: Ended, passes: int, entry: Entry) -> RollCard:
    data, recipe = ready.data, ready.recipe
    files = {split: {"path": shown(file), "sha256": sha256_of(file)} for split, file in data.files.items()}
    figures = {split: metrics_json(getattr(entry, split)) for split in ("train", "valid", "test")}
    prompts = {one.prompt for one in data.examples}
    prompt = recipe.prompt or (prompts.pop() if len(prompts) == 1 else "")
    return RollCard(
        base=ready.model.base,
        method=recipe.method,
        recipe=dataclasses.asdict(own_recipe(recipe, ended.draw)),
        prompt=prompt,
        answers=list(data.answers),
        metrics={"passes": passes, "positive": data.positive.answer, "files": files} | figures,
        seed=ended.draw.seed,
    )


def _save_whole(ready: Session, ended: Ended, path: Path, say: Callable[[str], None]) -> None:
    """The model with the roll worked in, loaded afresh: the frozen parts are not all on the device any more."""
    from rolltune import base
    from rolltune.families.paligemma_names import npz_rows
    from rolltune.weights.names import to_file
    from rolltune.weights.npz import write_npz

    recipe = ready.recipe
    with jax.default_device(jax.devices("cpu")[0]):
        model = base.load(recipe.model, recipe.tokenizer, base.choose_dtype(recipe.dtype))
        scale = own_recipe(recipe, ended.draw).scale
        merged = adapters.merge(model.params, ended.trainable, scale, recipe.first_layer)
        write_npz(path, to_file(merged, npz_rows(model.config)), prefix="params/")
    say(f"saved the whole model for big_vision: {shown(path)}")


def _report(args, ready, board, ended, before, after, passes, curves, facts, command, out) -> None:
    data, recipe = ready.data, ready.recipe
    role = {"train": "train", "valid": "valid", "test": "test"}
    splits = [
        SplitResult(shown(file), role[split], ready.measure(before, span), ready.measure(after, span))
        for (split, file), span in zip(data.files.items(), data.spans.values(), strict=True)
    ]
    states = {one.draw.roll: ("died" if one.reason else "alive") for one in ended}
    shown_split = "test" if "test" in data.spans else "valid" if "valid" in data.spans else "train"
    rows = data.of(shown_split)
    card = _card(ready, next(one for one in ended if one.draw.roll == board.chosen.roll), passes, board.chosen)
    write_report(
        out.report,
        RunSummary(
            title=args.write,
            stage=stage(passes),
            prompt=card.prompt,
            answers=data.answers,
            positive=data.positive.reason,
            base={"name": card.base.name, "hash": card.base.hash},
            recipe=dataclasses.asdict(recipe),
            command=command,
            roll_file=shown(out.roll),
            facts=facts,
            splits=splits,
            curves=[Curve(n, steps, losses, states.get(n, "alive")) for n, (steps, losses) in sorted(curves.items())],
            leaderboard=board if len(ended) > 1 else None,
            pictures=pictures(
                subset(after, data.spans[shown_split]),
                {one.id: one.images for one in rows},
                shown_split,
                {one.id: recipe.prompt or one.prompt for one in rows},
            ),
            warnings=board.notes,
        ),
        open_image,
    )
