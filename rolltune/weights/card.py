"""What is written of a roll beside its arrays: all that is needed to use it again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rolltune.errors import UserError

VERSION = 1


@dataclass(frozen=True)
class Base:
    """The model a roll belongs to: what it was called, and the digest of its weights (`identity.base_hash`)."""

    name: str
    hash: str


@dataclass(frozen=True)
class RollCard:
    """All about a roll but its arrays. `method` is "lora", "attention", ...: it says what the arrays mean."""

    base: Base
    method: str
    recipe: dict[str, Any]
    prompt: str = ""
    answers: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    version: int = VERSION


def card_of(values: Mapping[str, Any], source: str) -> RollCard:
    """The card that this JSON is. Raises UserError for a part that is missing or of another kind.

    What the recipe's own entries may be is `recipe.from_card`'s to check.
    """
    base = values.get("base")
    if not isinstance(base, dict) or not {"method", "recipe"} <= values.keys():
        raise UserError(f"{source} lacks base, method, recipe or arrays: another program wrote it.")
    stated = values.get("metrics")
    metrics: dict[str, Any] = stated if isinstance(stated, dict) else {}
    positive = metrics.get("positive")  # none of three answers and more, nor of written ones
    for name, right, expected in (
        ("base", _is_text(base.get("name")) and _is_text(base.get("hash")), "a name and a hash"),
        ("method", _is_text(values["method"]), "text"),
        ("recipe", isinstance(values["recipe"], dict), "an object"),
        ("prompt", _is_text(values.get("prompt", "")), "text"),
        ("answers", _all(_is_text, values.get("answers", [])), "a list of texts"),
        ("metrics", isinstance(values.get("metrics", {}), dict), "an object"),
        ("metrics.passes", is_count(metrics.get("passes", 1)), "a whole number from 1"),
        ("metrics.positive", positive is None or _is_text(positive), "text or null"),
        ("metrics.decision", metrics.get("decision") is None or _is_object(metrics["decision"]), "an object"),
        ("metrics.learned", _all(_is_text, metrics.get("learned", [])), "a list of texts"),
        ("metrics.files", _all(_is_object, metrics.get("files", {})), "an object of objects"),
        ("seed", is_whole_number(values.get("seed", 0)) and values.get("seed", 0) >= 0, "a whole number from 0"),
    ):
        if not right:
            raise UserError(f"{source}: {name} is not {expected}: the file was damaged, or another program wrote it.")
    kept = {entry.name: values[entry.name] for entry in fields(RollCard) if entry.name in values}
    return RollCard(**kept | {"base": Base(base["name"], base["hash"])})


def is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return is_whole_number(value) and value >= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _all(right: Callable[[Any], bool], values: Any) -> bool:
    """Whether these are a list, or an object, all of whose members are right."""
    members = values.values() if isinstance(values, dict) else values
    return isinstance(values, list if right is _is_text else dict) and all(right(one) for one in members)
