"""An adapter that the PEFT library saved, fine-tuned elsewhere, as a saved roll: to be validated like our own.

It has no card: the base is named by whoever asks, questions and answers are those of the data, and what it has learned
from is not known.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rolltune import base, trees
from rolltune.data.examples import Example
from rolltune.data.sets import shown
from rolltune.errors import UserError
from rolltune.evaluation.metrics import choose_positive
from rolltune.evaluation.tasks import AUTO, CHOOSE, decide
from rolltune.jobs.export import hf_table
from rolltune.jobs.scorer import Saved
from rolltune.recipe import Recipe
from rolltune.weights.card import Base, RollCard
from rolltune.weights.peft import read_adapter, scaling_of
from rolltune.weights.roll_file import RollFile


def adopt(folder: Path, model: str | None, examples: Sequence[Example]) -> tuple[Saved, RollFile]:
    """(what is known of the adapter, its factors). The model's headers are read, none of its weights.

    Raises UserError for adapters that change more than linear layers by plain LoRA, or belong to another model.
    """
    scaling, named = scaling_of(folder)
    if model is None and named != "tiny" and not Path(named).exists():
        raise UserError(
            f"{shown(folder)} belongs to {named!r}, which does not lie here: name its base with --model PATH "
            "(01-download_models.py fetches it)"
        )
    opened = base.open_model(model or named)
    trained, _ = read_adapter(folder, hf_table(opened))
    if odd := [path for path, leaf in trained.items() if not isinstance(leaf, dict)]:
        raise UserError(
            f"{shown(folder)} brings a head of classes ({', '.join(odd)}), and does not say which answer each of them "
            "stands for: only adapters of models that give words can be validated from elsewhere"
        )
    task, _ = decide(AUTO, (), examples)
    counts = Counter(one.answer for one in examples)
    positive = choose_positive(task.answers, counts).answer if task.kind == CHOOSE else None
    recipe = Recipe(
        model=model or named,
        task=task.kind,
        method="rules",
        rules=(*((f"^{re.escape(path)}$", "lora") for path in sorted(trained)), (".*", "frozen")),
        rank=scaling.rank,
        alpha=scaling.alpha,
        rslora=scaling.rslora,
    )
    card = RollCard(
        Base(opened.model.base.name, ""),
        recipe.method,
        dataclasses.asdict(recipe),
        answers=list(task.answers),
        metrics={"positive": positive},
    )
    return Saved(folder, card, recipe), RollFile(trees.unflatten(dict(trained)), card)
