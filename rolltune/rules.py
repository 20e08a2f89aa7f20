"""Ordered rules over parameter paths: freezing, LoRA targets, rate multipliers and sharding are all of this form."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rolltune.errors import UserError

Value = TypeVar("Value")


def compiled(pattern: str, purpose: str) -> re.Pattern[str]:
    """The pattern of a rule. Raises UserError where it is no regular expression, saying where it breaks."""
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"{purpose}: the rule {pattern[:200]!r} is no regular expression: {error}. A dot means any character and "
            ".* any text; write \\( for a bracket itself"
        ) from error


def match(rules: Sequence[tuple[str, Value]], paths: Iterable[str], purpose: str) -> dict[str, Value]:
    """The value of each path: that of the first rule whose regular expression matches the whole path.

    Raises UserError where a rule matches no path at all, or a path no rule: both are typing mistakes.
    """
    paths = list(paths)
    patterns = [compiled(pattern, purpose) for pattern, _ in rules]
    values: dict[str, Value] = {}
    used: set[int] = set()
    for path in paths:
        for number, (_, value) in enumerate(rules):
            if patterns[number].fullmatch(path):
                values[path] = value
                used.add(number)
                break
        else:
            raise UserError(f"{purpose}: no rule matches {path!r}; add a last rule ('.*', ...) for the rest")
    for number, (pattern, value) in enumerate(rules):
        if number not in used and not any(patterns[number].fullmatch(path) for path in paths):
            near = ", ".join(sorted(paths)[:8])
            raise UserError(f"{purpose}: the rule {pattern!r} -> {value!r} matches no parameter. Paths are like {near}")
    return values
