"""How a roll is judged on the way and at its end: by the rows that it did not learn from, where there are such."""

from collections.abc import Callable, Sequence

from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.metrics import collapsed, measure
from rolltune.evaluation.scoring import subset
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
            figures = measure(subset(predictions[slot], places), data.positive.answer)
            figure = figures.figure(metric)
            ranked = -float("inf") if figure is None else -figure if metric == "log-loss" else figure
            verdicts[slot] = Evaluation(ranked, collapsed(figures) is not None, predictions[slot])
        return verdicts

    return judging
