"""What a recipe trains of a model, and so where a batch's rows come in."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rolltune import adapters, trees
from rolltune.adapters import CLASSES
from rolltune.base import Model
from rolltune.errors import UserError
from rolltune.evaluation.tasks import CLASSIFY, Task
from rolltune.quantize import Quantized
from rolltune.recipe import Recipe
from rolltune.trees import Stacks


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained, and so where the batch's rows come in."""

    words: Mapping[str, str]  # path -> frozen, lora or full
    stacks: Stacks  # of the layers from `first` up
    first: int  # the lowest layer that is trained, where the states below it are to be kept
    in_step: bool  # a tower is trained: it runs in the step
    projected: bool  # kept rows are past the projector
    new_classes: int = 0  # outputs of a head that the checkpoint does not have
    columns: tuple[int, ...] = ()  # of the head that it has, each answer's; empty: as they come

    def paths(self, word: str) -> list[str]:
        return [path for path, own in self.words.items() if own == word]

    @property
    def trained(self) -> list[str]:
        return self.paths("lora") + self.paths("full")


def plan_for(model: Model, shapes: Mapping[str, Sequence[int]], recipe: Recipe, task: Task) -> Plan:
    """What the recipe trains of parameters of these shapes. Raises UserError for what cannot be, naming the entry."""
    classes = len(task.answers) if task.kind == CLASSIFY else 0
    had = shapes.get(CLASSES)
    if had is not None and not classes:
        raise UserError(
            f"{model.base.name} has a head of {had[-1]} classes and gives no words: --config.task=classify trains the "
            f"head, or take the language model that it was made of"
        )
    columns = columns_of(model, task) if classes and had is not None else ()
    if classes and had is not None and had[-1] != classes:
        raise UserError(
            f"{model.base.name} has a head of {had[-1]} classes, the data {classes} answers: {task.answers}"
        )
    new = classes if had is None else 0
    paths = [*shapes, *([CLASSES] if new else [])]
    chosen = recipe.trainability
    if CLASSES in paths and recipe.method != "rules":
        chosen = [(CLASSES, "full"), *chosen]  # a head is there to be trained, whatever else is
    words = adapters.trainability(chosen, paths)
    if columns and words[CLASSES] == "lora":
        names = model.family.class_names(model.config)
        raise UserError(f'{CLASSES}: a head that is adapted keeps its own order: --config.answers="{names}"')
    depth = model.config.text.layers
    if recipe.first_layer >= depth:
        raise UserError(f"first_layer: {recipe.first_layer}, but the decoder has the layers 0 to {depth - 1}")
    trained = [path for path, word in words.items() if word != "frozen"]
    outside = [path for path in trained if not trees.stack_of(path, model.stacks)]
    above = [path for path in outside if path.startswith(("text/norm/", "text/head/", "text/classes/"))]
    if recipe.first_layer and (below := sorted(set(outside) - set(above))):
        raise UserError(f"first_layer: {recipe.first_layer}, but {below[0]!r}, which is trained, lies below the layers")
    return dataclasses.replace(plan_of(model, words, recipe.first_layer), new_classes=new, columns=columns)


def columns_of(model: Model, task: Task) -> tuple[int, ...]:
    """The outputs that answers are, of a head whose checkpoint names them; empty where answers are in their order.

    Raises UserError where the names are not the answers.
    """
    names = model.family.class_names(model.config)
    if not names or names == task.answers:
        return ()
    if set(names) != set(task.answers):
        only = lambda some, others: ", ".join(sorted(map(repr, set(some) - set(others)))) or "none"
        raise UserError(
            f"{model.base.name} has a head of the classes {list(names)} (id2label), the data the answers "
            f"{list(task.answers)}. Only the head's: {only(names, task.answers)}; only the data's: "
            f"{only(task.answers, names)}. Write the answers as the head has them, name those that the data lacks with "
            f'--config.answers="{names}", or start from the model without a head'
        )
    return tuple(names.index(answer) for answer in task.answers)


def in_columns(head: Any, columns: Sequence[int]) -> Any:
    """A head with its outputs in this order; as it is where none is given. Raises UserError for a quantized one."""
    if columns and isinstance(head, Quantized):
        raise UserError(
            f"{CLASSES} is quantized, and its classes stand in another order than the answers: keep it as it is by a "
            "rule of --config.quantize_rules"
        )
    return head[:, np.array(columns)] if columns else head


def plan_of(model: Model, words: Mapping[str, str], first: int) -> Plan:
    """Where rows come in, by what is trained: a recipe's words for all paths, or a saved roll's for its own."""
    visual = [path for path, word in words.items() if word != "frozen" and not path.startswith("text/")]
    in_step = any(path.startswith(tuple(f"{tower}/" for tower in model.family.towers)) for path in visual)
    width = model.family.feature_width
    # The narrower side is kept. Where a projector is trained, rows come before it: after, it would get no gradient.
    narrower = width is not None and model.config.text.width < width(model.config)
    projected = not visual and width is not None and (first > 0 or narrower)
    return Plan(words, trees.above(model.stacks, first), first, in_step, projected)
