"""Rolls of one base share what they can, and nothing that is their own."""

from pathlib import Path

import numpy as np
from small_families import PALIGEMMA

from rolltune.data.examples import Example, Turn
from rolltune.jobs.scorer import Bench, Scorer
from rolltune.recipe import Recipe
from rolltune.weights.roll_file import Base, RollCard, RollFile

EXAMPLES = [Example(str(n), (), (Turn("user", "is it" + "?" * n), Turn("assistant", "a")), f"a:{n}") for n in range(3)]


def test_rolls_with_other_answers_are_scored_on_one_bench_as_on_their_own():
    recipe = Recipe(
        task="choose", evaluate_batch=2, method="rules", rules=(("text/norm/scale", "full"), (".*", "frozen"))
    )
    tree = {"text": {"norm": PALIGEMMA.params["text"]["norm"]}}

    def scorer(bench: Bench, *answers: str) -> Scorer:
        card = RollCard(Base("small", "ab"), "rules", {}, "or so?", list(answers))
        return Scorer(bench, Path("a.npz"), RollFile(tree, card), recipe)

    shared = Bench(PALIGEMMA.model, PALIGEMMA.params)
    for answers in (("a", "no"), ("a", "no", "bc")):
        found = scorer(shared, *answers).predict(EXAMPLES)
        alone = scorer(Bench(PALIGEMMA.model, PALIGEMMA.params), *answers).predict(EXAMPLES)
        assert found.answers == alone.answers == answers and found.log_probs.shape == (3, len(answers))
        np.testing.assert_allclose(found.log_probs, alone.log_probs, rtol=1e-6)
