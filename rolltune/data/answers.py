"""When two written answers are the same answer: one rule, for finding them in the data and for scoring."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal

from rolltune.data.findings import SHOWN, WARNING, Finding, quoted

_NUMBER = re.compile(r"([+-]?)(0|[1-9]\d*|[1-9]\d{0,2}(?:,\d{3})+)(\.\d+)?")
_FULL_STOPS = ".。"


def _unicode_form(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")


def _spaces(text: str) -> str:
    return " ".join(text.split())


def _no_full_stop(text: str) -> str:
    bare = text.rstrip(_FULL_STOPS)
    return bare.rstrip() or text if bare != text else text


def _value(text: str) -> str:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    number = Decimal(text.replace(",", ""))
    return f"{number.normalize():f}" if number else "0"


# (what two answers may differ in and be the same, how it is taken away), in this order.
_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("Unicode form", _unicode_form),
    ("letter case", str.casefold),
    ("spaces", _spaces),
    ("a full stop at the end", _no_full_stop),
    ("how a number is written", _value),
)


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text: spaces, and signs without a shape such as U+200B."""
    return all(sign.isspace() or unicodedata.category(sign) in ("Cf", "Cc") for sign in text)


def normalise(text: str) -> str:
    """The form in which two answers are compared: equal forms are the same answer.

    In this order: Unicode form NFKC (full-width letters, composed accents; the minus sign is a hyphen); letter
    case; space outside, and runs of space inside as one; full stops at the end ("." and "。"); and where the
    whole answer is a number, its value: "1,000" is "1000", "3.0" and "+3" are "3". A comma counts only between
    thousands, and a number that begins with 0 ("007") is a code and stays. Nothing is left out otherwise: no
    article, no punctuation inside.
    """
    for _, step in _STEPS:
        text = step(text)
    return text


def are_classes(answers: Collection[str]) -> bool:
    """Whether the answers of these rows are a few that come again and again, rather than free text."""
    return len(set(answers)) <= max(2, len(answers) // 2)


def spelling_findings(answers: Iterable[str], where: str) -> list[Finding]:
    """A warning for each answer of a set of rows that is written in more than one way, however it differs.

    `answers` are those of all rows, `where` names the set. This is the one check: whoever collects answers calls it.
    """
    counts = Counter(answers)
    same: dict[str, list[str]] = defaultdict(list)
    for answer in counts:
        same[normalise(answer)].append(answer)
    findings = []
    for ways in same.values():
        if len(ways) > 1:
            ways.sort(key=lambda way: (-counts[way], not unicodedata.is_normalized("NFC", way), way))
            rows = [f"{_exactly(way)} ({counts[way]} row{'s' * (counts[way] > 1)})" for way in ways]
            told = ", ".join(rows[:4]) + ", ..." * (len(ways) > 4)
            message = f"{told} differ only in {' and '.join(_differences(ways))}, and count as different answers"
            advice = f"write it one way, such as {_exactly(ways[0])}"
            findings.append(Finding(WARNING, "answer spelled two ways", where, message, advice))
    return findings


def _exactly(text: str) -> str:
    """In quotes, so that forms which look the same can be told apart."""
    return quoted(text) if unicodedata.is_normalized("NFC", text) else ascii(text[:SHOWN])


def _differences(ways: Sequence[str]) -> list[str]:
    """The steps without which not all ways become one."""
    told = []
    for name, left_out in _STEPS:
        forms = list(ways)
        for _, step in _STEPS:
            forms = forms if step is left_out else [step(form) for form in forms]
        if len(set(forms)) > 1:
            told.append(name)
    return told or ["how they are written"]
