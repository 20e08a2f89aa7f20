"""What was fine-tuned elsewhere, as a saved roll, to be validated and asked like our own: an adapter that the PEFT
library saved, or a whole model (a Hugging Face folder, or a npz of big_vision).

It has no card: an adapter's base is named by whoever asks, questions and answers are those of the data or of whoever
asks, and what it has learned from is not known.
"""

import dataclasses
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rolltune import base, trees
from rolltune.data.examples import Example
from rolltune.data.sets import shown
from rolltune.errors import UserError
from rolltune.evaluation.metrics import choose_positive
from rolltune.evaluation.tasks import AUTO, CHOOSE, WRITE, Task, decide
from rolltune.jobs.export import hf_table
from rolltune.jobs.scorer import ALL_FROZEN, Saved, read_saved
from rolltune.recipe import Recipe
from rolltune.weights import hf
from rolltune.weights.card import Base, RollCard
from rolltune.weights.npz import META
from rolltune.weights.peft import is_adapter, read_adapter, scaling_of
from rolltune.weights.roll_file import RollFile
from rolltune.weights.whole import is_whole

FOREIGN = "made elsewhere; whether it has learned from these rows is not known"


@dataclasses.dataclass(frozen=True)
class Asking:
    """What whoever asks says of rolls without a card; nothing of it is needed for others."""

    model: str | None = None  # the base of adapters
    answers: tuple[str, ...] = ()  # the allowed ones; none: those that the rows have
    writes: bool = False  # it is to write its answers, not to choose


def is_foreign(path: Path) -> bool:
    """Whether this was made elsewhere, and has no card."""
    return is_adapter(path) or is_model(path)


def is_model(path: Path) -> bool:
    """Whether this is a whole model from elsewhere: a Hugging Face folder, or a npz that is no roll."""
    if path.is_dir():
        return (path / hf.CONFIG).is_file() and not is_adapter(path)
    if is_whole(path) or path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return f"{META}.npy" not in file.namelist()


def read_rolls(
    paths: Sequence[Path], asking: Asking, examples: Sequence[Example]
) -> tuple[list[Saved], dict[Path, RollFile]]:
    """(all that is known of these rolls, in their order; the arrays of those that were made elsewhere)."""
    foreign = {path: adopt(path, asking, examples) for path in paths if is_foreign(path)}
    if asking.answers and not foreign:
        raise UserError(f"--answers {','.join(asking.answers)}: the rolls have their own; leave it away")
    saved = [foreign[path][0] if path in foreign else read_saved(path) for path in paths]
    return saved, {path: file for path, (_, file) in foreign.items()}


def adopt(path: Path, asking: Asking, examples: Sequence[Example]) -> tuple[Saved, RollFile]:
    """(what is known of it, its factors, none of a whole model). Headers are read, none of the base's weights.

    Raises UserError for adapters that change more than linear layers by plain LoRA, or belong to another model, for
    models that no family here is of, and where nobody says which answers there are.
    """
    if is_adapter(path):
        recipe, trained, name = _adapter(path, asking.model)
    else:
        recipe, trained, name = _model(path, asking.model)
    answered = [one for one in examples if one.answered]
    task = _task(path, asking, answered)
    counts = Counter(one.answer for one in answered)
    positive = choose_positive(task.answers, counts).answer if task.kind == CHOOSE else None
    recipe = dataclasses.replace(recipe, task=task.kind)
    card = RollCard(
        Base(name, ""),
        recipe.method,
        dataclasses.asdict(recipe),
        answers=list(task.answers),
        metrics={"positive": positive},
    )
    return Saved(path, card, recipe), RollFile(trees.unflatten(dict(trained)), card)


def _task(path: Path, asking: Asking, answered: Sequence[Example]) -> Task:
    if asking.writes and asking.answers:
        raise UserError(f"--answers {','.join(asking.answers)}: with --generate any answer is written; leave one away")
    if asking.writes:
        return Task(WRITE, ())
    if not answered and not asking.answers:
        raise UserError(
            f"{shown(path)} does not say which answers it chooses from, and no row has one: --answers yes,no names "
            "them; --generate 32 lets it write"
        )
    return decide(AUTO, asking.answers, answered)[0]


def _adapter(folder: Path, model: str | None) -> tuple[Recipe, Mapping[str, Any], str]:
    """(the recipe that would train it, its factors, what its base is called)."""
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
            "stands for: only adapters of models that give words can be used from elsewhere"
        )
    recipe = Recipe(
        model=model or named,
        method="rules",
        rules=(*((f"^{re.escape(path)}$", "lora") for path in sorted(trained)), (".*", "frozen")),
        rank=scaling.rank,
        alpha=scaling.alpha,
        rslora=scaling.rslora,
    )
    return recipe, trained, opened.model.base.name


def _model(path: Path, model: str | None) -> tuple[Recipe, Mapping[str, Any], str]:
    """The same of a whole model, which is its own base and trains nothing."""
    if model is not None:
        raise UserError(f"--model {model}: {shown(path)} is a whole model and its own base; leave --model away")
    opened = base.open_model(path.as_posix())
    return Recipe(model=path.as_posix(), method="rules", rules=ALL_FROZEN), {}, opened.model.base.name
