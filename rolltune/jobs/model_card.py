"""The page that goes with what is exported: what was learned from, how, how well; the use is the person's to say."""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from rolltune.errors import visible
from rolltune.recipe import Recipe
from rolltune.weights.card import RollCard

SETTINGS = (
    *("task", "method", "rank", "alpha", "rslora", "first_layer", "quantize", "dropout", "optimizer", "rate"),
    *("schedule", "warmup", "weight_decay", "batch", "accumulate", "steps"),
)
KINDS = {
    "peft": "A LoRA adapter in the layout of the PEFT library",
    "hf": "A whole model with an adapter merged into its weights, as transformers loads it",
    "npz": "A whole model with an adapter merged into its weights, as big_vision reads it",
}
SPLITS = {"train": "learned from: no forecast for new data", "valid": "not learned from", "test": "not learned from"}
USE = """```python
from peft import PeftModel

model = PeftModel.from_pretrained(base, "{folder}")  # `base`: {base} as transformers (5 or later) loads it
```
"""


def model_card(card: RollCard, recipe: Recipe, form: str, folder: str, base_name: str, notes: list[str]) -> str:
    """README.md, with the entries that the hub reads on top. `notes` are what the export found."""
    library = {"peft": "peft", "hf": "transformers", "npz": "big_vision"}[form]
    head = {"library_name": library, "base_model": base_name, "tags": ["rolltune", "lora" if form == "peft" else form]}
    run = card.metrics.get("run") or {}
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in head.items()), "---", ""]
    lines += [f"# {_plain(folder)}", "", f"{KINDS[form]}, trained with rolltune on {_code(base_name)}.", ""]
    if form == "peft":
        lines += [USE.format(folder=_in_code(folder), base=_in_code(base_name))]
    lines += ["## What it answers", ""]
    lines += [f"- asked: {_code(card.prompt) if card.prompt else 'the question of each row'}"]
    if card.answers:
        lines += [f"- answers: {', '.join(map(_code, card.answers))}"]
        lines += ["- an answer's probability is that of its words, among those of all the answers"]
    else:
        lines += ["- it writes its answers"]
    lines += ["", "## Intended use", "", "*To be written by whoever publishes this: for whom and for what it is made,"]
    lines += ["what it must not be used for, and under which licence. That of the base model holds for it, too.*", ""]
    lines += ["## Data", "", "| split | file | rows | SHA-256 |", "|---|---|---|---|"]
    for split, told in (card.metrics.get("files") or {}).items():
        rows = (card.metrics.get(split) or {}).get("n", "")
        name = PurePath(str(told.get("path", ""))).name  # the folders of whoever trained it are their own affair
        lines.append(f"| {_plain(split)} | {_code(name)} | {rows} | {_plain(str(told.get('sha256', '')))} |")
    lines += ["", "## Figures", ""]
    chosen = int(run.get("rolls") or 1)
    for split, about in SPLITS.items():
        if figures := card.metrics.get(split):
            on = split == "valid" and chosen > 1
            lines += _figures(split, f"the best of {chosen} rolls was chosen on these" if on else about, figures)
    passes = int(card.metrics.get("passes", 1))
    if passes > 1:
        lines += [f"It is of pass {passes}: rows of earlier passes were learned from, too.", ""]
    lines += ["## Settings", "", "| | |", "|---|---|", f"| seed | {card.seed} |"]
    lines += [f"| {name} | {_code(str(getattr(recipe, name)))} |" for name in SETTINGS]
    lines += [f"| base's digest | {_code(card.base.hash)} |"]
    if made := run.get("made with"):
        lines.append(f"| made with | {_code(', '.join(f'{name} {value}' for name, value in made.items() if value))} |")
    lines += ["", "## Export", "", *(f"- {_plain(note)}" for note in notes), ""]
    return "\n".join(lines)


def _figures(split: str, about: str, figures: Mapping[str, Any]) -> list[str]:
    """A table of a split's figures; those that have a 95 % interval show it."""
    lines = [f"**{split}** ({about}), {figures.get('n')} rows", "", "| figure | | 95 % interval |", "|---|---|---|"]
    bounds = figures.get("interval_95") or {}
    for name, value in figures.items():
        if name == "n" or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        numbers = [one for one in _members(bounds.get(name)) if isinstance(one, int | float)][:2]
        shown = " to ".join(f"{one:.3f}" for one in numbers)
        lines.append(f"| {_plain(name)} | {value if isinstance(value, int) else f'{value:.4f}'} | {shown} |")
    return [*lines, ""]


def _members(bound: Any) -> list[Any]:
    return list(bound.values()) if isinstance(bound, Mapping) else []


def _plain(text: str) -> str:
    """Text of people in a line of Markdown, as text."""
    text = visible(" ".join(text.split()))
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>()#!|~" else sign for sign in text)


def _in_code(text: str) -> str:
    return visible(" ".join(text.split())).replace("`", "'").replace('"', "'")


def _code(text: str) -> str:
    """Text of people as code: nothing in it is Markdown or HTML. A table's cell ends at a bar even there."""
    text = visible(" ".join(text.split())).replace("|", "\\|")
    if not text:
        return ""
    fence = "`"
    while fence in text:
        fence += "`"
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"
