"""What the rolls of all folds say together: figures, predictions, and labels that they doubt."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rolltune import atomic
from rolltune.data.sets import shown
from rolltune.evaluation import doubtful
from rolltune.evaluation import folds as folding
from rolltune.evaluation.doubtful import Doubt
from rolltune.evaluation.figures import Scored, block, measured, no_better
from rolltune.evaluation.metrics import Prediction
from rolltune.jobs.outputs import Outputs
from rolltune.training.dataset import Data
from rolltune.training.loop import FinishedRoll

Say = Callable[[str], None]


def rounds(
    finished: Mapping[int, FinishedRoll], ended: Sequence[FinishedRoll], options: Any
) -> list[dict[int, FinishedRoll]]:
    """fold -> the roll that judges it, for each round of --repeat.

    A fold none of whose rolls did well has the last one that ran to its end and gives every picture one answer: that
    is what the training made of it, and figures without it would flatter.
    """
    made: list[dict[int, FinishedRoll]] = [{} for _ in range(options.repeat)]
    poor = [one for one in reversed(ended) if one.trainable is not None and one.draw.roll not in finished]
    for one in (*sorted(finished.values(), key=lambda one: one.draw.roll), *poor):
        assert one.draw.fold is not None
        for members in made:
            if one.draw.fold not in members:
                members[one.draw.fold] = one
                break
    return made


def out_of_fold(
    data: Data,
    rounds: list[dict[int, FinishedRoll]],
    folds: Sequence[int],
    fold_count: int,
    out: Outputs,
    say: Say,
) -> list[Doubt]:
    """Every row's prediction by the roll that did not train on it, printed and written; the spread over seeds with
    --repeat. The labels that these rolls doubt; none of written answers."""
    examples = [data.examples[place] for place in data.seen]
    complete = [members for members in rounds if len(members) == fold_count]
    if not complete:
        lost = [str(fold) for fold in range(fold_count) if fold not in rounds[0]]
        say(
            f"no out-of-fold figures: no roll of fold {', '.join(lost)} ran to its end, so its rows have no "
            "prediction. The best roll of the other folds is saved all the same; a lower rate may let all of them run"
        )
        return []
    if collapsed := [str(fold) for fold, one in sorted(complete[0].items()) if one.reason]:
        say(f"fold {', '.join(collapsed)}: judged by a roll that gives every picture one answer; none did better")
    own = lambda members: [
        one.judged.at([p for p, fold in zip(data.seen, folds, strict=True) if fold == number])
        for number, one in members.items()
    ]
    joined: list[Scored] = [folding.out_of_fold([one.id for one in examples], own(members)) for members in complete]
    figures = [measured(one, data.positive.answer) for one in joined]
    say(block(f"{shown(data.files['train'].parent)} (out of fold)", figures[0]))
    if poor := no_better(figures[0], "a roll that never saw the picture"):
        say(poor)
    if len(figures) > 1:
        say(f"over {len(figures)} seeds:\n{folding.seeds_text(folding.over_seeds(figures))}")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in _plain_rows(joined)]
    atomic.write_text(out.folds, "".join(lines))
    say(f"out-of-fold predictions: {shown(out.folds)}")
    choices = [one for one in joined if isinstance(one, Prediction)]
    if not choices:
        return []
    found = doubtful.doubts(examples, choices)
    doubtful.write(out.doubtful, found)
    say(_doubtful_text(found, len(examples), out))
    return found


def _doubtful_text(found: Sequence[Doubt], rows: int, out: Outputs) -> str:
    if not found:
        return f"doubtful labels: none; rolls that never saw a row give its own answer in all {rows}"
    first = found[0]
    return (
        f"doubtful labels: {len(found)} of {rows}, most doubted first: {shown(out.doubtful)} (first: {first.source}, "
        f"{first.given!r} at {first.probabilities[first.given]:.0%}, where {first.instead!r} is likelier)"
    )


def _plain_rows(rounds: Sequence[Scored]) -> list[dict[str, Any]]:
    """Each row's answer and what was predicted or written in the first round, with the figures it rests on; with
    several rounds the probabilities of each."""
    scored = rounds[0]
    if isinstance(scored, Prediction):
        chances = lambda row: {a: round(float(p), 6) for a, p in zip(scored.answers, np.exp(row), strict=True)}
        rows = [
            {
                "id": id,
                "answer": scored.answers[label],
                "predicted": scored.answers[int(np.argmax(row))],
                "probabilities": chances(row),
            }
            for id, label, row in zip(scored.ids, scored.label, scored.log_probs, strict=True)
        ]
        if len(rounds) > 1:
            for place, row in enumerate(rows):
                row["rounds"] = [chances(one.log_probs[place]) for one in rounds]
        return rows
    texts = scored.texts or [None] * len(scored.ids)
    return [
        {"id": id, "accepted": list(accepted), "written": text, "log-loss": round(float(-log_prob), 6)}
        for id, accepted, text, log_prob in zip(scored.ids, scored.accepted, texts, scored.log_probs, strict=True)
    ]
