"""Every checkpoint on every data set: one table, and the same as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from rolltune import atomic
from rolltune.evaluation.figures import TITLES, Figures
from rolltune.evaluation.leaderboard import metrics_json
from rolltune.evaluation.metrics import rounded
from rolltune.evaluation.statistics import interval


@dataclass(frozen=True)
class Cell:
    """One checkpoint on one data set. `trained_on`: it has seen these rows in training: the figure is no forecast."""

    checkpoint: str
    dataset: str
    metrics: Figures
    trained_on: bool = False


def table(cells: Sequence[Cell], metric: str = "f-measure") -> Table:
    """One row a checkpoint, one column a data set, in the order of first appearance."""
    checkpoints, datasets, found = _sides(cells)
    seen = any(cell.trained_on for cell in cells)
    bounded = any(interval(cell.metrics, metric) for cell in cells)
    notes = [f"below: 95 % interval of {metric}"] if bounded else []
    notes += ["* trained on these pictures: no forecast for new ones"] if seen else []
    caption = "\n".join(notes) or None
    shares = dict.fromkeys(cell.metrics.share for cell in cells)
    beside = " or ".join(TITLES[share] for share in shares if share != metric)
    out = Table(
        title=f"{metric}{f' ({beside})' if beside else ''} of every checkpoint on every data set",
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    # A narrow terminal folds paths anywhere: folders stand apart, and once only where all rolls lie in one.
    folders = {checkpoint.rpartition("/")[0] for checkpoint in checkpoints}
    folder = folders.pop() if len(folders) == 1 else ""
    out.add_column(f"checkpoint\nin {folder}" if folder else "checkpoint", overflow="fold")
    for dataset in datasets:
        sizes = {cell.metrics.n for cell in cells if cell.dataset == dataset}
        size = f"\n{sizes.pop()} pictures" if len(sizes) == 1 else ""
        place, slash, name = dataset.rpartition("/")
        out.add_column(f"{place}{slash}\n{name}{size}" if place else dataset + size, justify="right", overflow="fold")
    for checkpoint in checkpoints:
        name = checkpoint.removeprefix(f"{folder}/") if folder else checkpoint
        out.add_row(name, *(_text(found.get((checkpoint, dataset)), metric) for dataset in datasets))
    return out


def _sides(cells: Sequence[Cell]) -> tuple[list[str], list[str], dict[tuple[str, str], Cell]]:
    found = {(cell.checkpoint, cell.dataset): cell for cell in cells}
    if len(found) != len(cells):
        raise ValueError("a checkpoint was scored twice on one data set")
    return list(dict.fromkeys(c.checkpoint for c in cells)), list(dict.fromkeys(c.dataset for c in cells)), found


def _text(cell: Cell | None, metric: str) -> str:
    if cell is None:
        return ""
    text = rounded(cell.metrics.figure(metric))
    if metric != cell.metrics.share:
        text += f" ({rounded(cell.metrics.figure(cell.metrics.share))})"
    bounds = interval(cell.metrics, metric)
    return text + ("*" if cell.trained_on else "") + (f"\n{bounds}" if bounds else "")


BEGINS = r'\{\s*"metric": .*\s*"cells": '  # of a file that `write` has written


def to_json(cells: Sequence[Cell], metric: str = "f-measure") -> dict[str, object]:
    _sides(cells)
    return {
        "metric": metric,
        "cells": [
            {
                "checkpoint": cell.checkpoint,
                "dataset": cell.dataset,
                "trained_on": cell.trained_on,
                "metrics": metrics_json(cell.metrics),
            }
            for cell in cells
        ],
    }


def write(path: str | Path, cells: Sequence[Cell], metric: str = "f-measure") -> None:
    atomic.write_json(path, to_json(cells, metric))
