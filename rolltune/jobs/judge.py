"""How a roll is judged on the way and at its end: by the rows that it did not learn from, where there are such."""

from collections.abc import Callable, Sequence

from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.figures import Scored, measured, worth
from rolltune.training.dataset import Data, judged_rows
from rolltune.training.loop import Evaluation
from rolltune.training.rolls import Draw
from rolltune.training.step import Roll


def judge_of(
    evaluator: Evaluator, data: Data, metric: str, folds: Sequence[int] | None
) -> Callable[..., dict[int, Evaluation]]:
    """Evaluates the rolls of some slots: on the validation rows, or a fold's own, or else on the training rows."""

    def judging(rolls: Roll, slots: Sequence[int], final: bool, draws: Sequence[Draw | None]) -> dict[int, Evaluation]:
        predictions = evaluator.predict(rolls.trainable, rolls.scale)
        return {slot: judged(data, metric, folds, draws[slot], predictions[slot]) for slot in slots}

    return judging


def judged(data: Data, metric: str, folds: Sequence[int] | None, draw: Draw | None, prediction: Scored) -> Evaluation:
    """What scores of all rows say of a roll. Its figures are named after the rows that they are of: valid/accuracy."""
    figures = measured(prediction.at(judged_rows(data, folds, draw)), data.positive.answer)
    rows = "valid" if folds is not None or "valid" in data.spans else "train"
    named = {f"{rows}/{name}": value for name in figures.names if (value := figures.figure(name)) is not None}
    return Evaluation(worth(figures, metric), figures.collapsed is not None, prediction, named)
