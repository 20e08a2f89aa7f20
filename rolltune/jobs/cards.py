"""A saved roll, checked as a recipe is: its card before a model is loaded for it, its arrays against the model."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rolltune import recipe as recipes
from rolltune.adapters import CLASSES
from rolltune.base import Model
from rolltune.errors import UserError
from rolltune.evaluation.decision import Decision, decision_of
from rolltune.evaluation.tasks import KINDS, WRITE, Task
from rolltune.recipe import Recipe, unwritable
from rolltune.training.plan import plan_for
from rolltune.weights.roll_file import RollCard, check_arrays

# Entries of the recipe that say what the arrays mean and what is asked of them: a default in their place would score
# another roll. Every version has written them.
NEEDED = ("model", "task", "method", "rank", "alpha", "rslora", "first_layer", "dtype", "frames")


def recipe_of(card: RollCard, source: str) -> Recipe:
    """The recipe that a roll was made by. `source` names its file.

    Raises UserError for entries that no recipe can have, that are missing, or that say something else than the card.
    """
    if missing := [name for name in NEEDED if name not in card.recipe]:
        raise _odd(source, f"its recipe lacks {', '.join(missing)}")
    recipe = recipes.from_card(card.recipe, source)
    if card.method != recipe.method:
        raise _odd(source, f"method is {card.method!r}, and {recipe.method!r} in its recipe")
    if recipe.task not in KINDS:
        raise _odd(source, f"task is {recipe.task!r}, expected {', '.join(KINDS)}")
    for text in (card.prompt, *card.answers):
        if broken := unwritable(text):
            raise _odd(source, f"{text[:40]!a} holds {broken}")
    if problem := _answers_problem(recipe.task, card.answers, card.metrics.get("positive")):
        raise _odd(source, problem)
    decided_by(card, source)
    return recipe


def decided_by(card: RollCard, source: str) -> Decision:
    """How the roll's scores become its answers. Raises UserError for a card that holds what can be no decision."""
    try:
        return decision_of(card.metrics.get("decision"), tuple(card.answers))
    except ValueError as error:
        raise _odd(source, str(error)) from error


def _answers_problem(task: str, answers: Collection[str], positive: str | None) -> str:
    """What is wrong with the answers of a card; empty: nothing."""
    if task == WRITE:
        return f"its answers are written, yet it lists {len(answers)} to choose from" if answers else ""
    distinct = {answer for answer in answers if answer and answer == answer.strip()}
    if len(answers) < 2 or len(distinct) < len(answers):
        return f"answers is {list(answers)[:8]}, expected two texts or more, different and not empty"
    if positive is None:
        return "it does not say which of its two answers is the positive one" if len(answers) == 2 else ""
    return "" if positive in answers else f"the positive answer {positive!r} is not among the answers {list(answers)}"


def check_trained(
    path: Path,
    trained: Mapping[str, Any],
    model: Model,
    shapes: Mapping[str, tuple[int, ...]],
    recipe: Recipe,
    task: Task,
) -> None:
    """Raises UserError where a roll's arrays are not those that its recipe trains of this model, or of other shapes.

    `trained` is `nested_lora` of the roll's flat tree, `shapes` are those of the model's parameters. A roll that lacks
    an adapter would score all the same, as another one.
    """
    known = dict(shapes)
    if CLASSES in trained:  # which the roll brings with it
        known[CLASSES] = tuple(trained[CLASSES].shape)
    check_arrays(path, trained, known, model.stacks, recipe.first_layer, recipe.rank)
    wanted = set(plan_for(model, known, recipe, task).trained)
    if odd := sorted(wanted.symmetric_difference(trained)):
        told = ", ".join(f"{name} {'is missing' if name in wanted else 'is not trained by it'}" for name in odd[:4])
        raise _odd(str(path), f"its arrays are not those of its recipe: {told}{', ...' * (len(odd) > 4)}")


def _odd(source: str, problem: str) -> UserError:
    return UserError(
        f"{source}: {problem}: the file was damaged, or written by another program. Train or copy it again"
    )
