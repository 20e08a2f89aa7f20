"""Ordered rules over parameter paths: freezing, LoRA targets, rate multipliers and sharding are all of this form."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rolltune.errors import UserError

Value = TypeVar("Value")


def match(rules: Sequence[tuple[str, Value]], paths: Iterable[str], purpose: str) -> dict[str, Value]:
    """The value of each path: that of the first rule whose regular expression matches the whole path.

    Raises UserError where a rule matches no path at all, or a path no rule: both are typing mistakes.
    """
    paths = list(paths)
    values, used = {}, set()
    for path in paths:
        for number, (pattern, value) in enumerate(rules):
            if re.fullmatch(pattern, path):
                values[path] = value
                used.add(number)
                break
        else:
            raise UserError(f"{purpose}: no rule matches {path!r}; add a last rule ('.*', ...) for the rest")
    for number, (pattern, value) in enumerate(rules):
        if number not in used and not any(re.fullmatch(pattern, path) for path in paths):
            near = ", ".join(sorted(paths)[:8])
            raise UserError(f"{purpose}: the rule {pattern!r} -> {value!r} matches no parameter. Paths are like {near}")
    return values
