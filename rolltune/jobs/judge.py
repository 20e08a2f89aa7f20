"""How a roll is judged on the way and at its end: by the rows that it did not learn from, where there are such."""

from collections.abc import Callable, Sequence

from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.figures import measured, worth
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
        verdicts = {}
        for slot in slots:
            places = judged_rows(data, folds, draws[slot])
            figures = measured(predictions[slot].at(places), data.positive.answer)
            verdicts[slot] = Evaluation(worth(figures, metric), figures.collapsed is not None, predictions[slot])
        return verdicts

    return judging
