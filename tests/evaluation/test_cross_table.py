import io
import json

import pytest
from made_predictions import counted, texts
from rich.console import Console

from rolltune.evaluation.cross_table import Cell, table, write
from rolltune.evaluation.figures import measured
from rolltune.evaluation.metrics import measure

CELLS = [
    Cell("a.npz", "train.jsonl", measure(counted(4, 4, 1, 1), "yes"), trained_on=True),
    Cell("a.npz", "valid.jsonl", measure(counted(3, 5, 0, 2), "yes")),
    Cell("b.npz", "valid.jsonl", measure(counted(3, 4, 0, 3), "yes")),
]


def test_every_figure_is_in_the_table():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(CELLS))
    text = console.export_text()
    for part in ("0.8 (0.8)*", "0.75 (0.8)", "0.6667 (0.7)", "10 pictures", "no forecast"):
        assert part in text


def test_each_cell_is_its_roll_s_on_its_set():
    made = table(CELLS)
    assert [column.header for column in made.columns] == [
        "checkpoint", "train.jsonl\n10 pictures", "valid.jsonl\n10 pictures",
    ]  # fmt: skip
    assert list(zip(*(column.cells for column in made.columns), strict=True)) == [
        ("a.npz", "0.8 (0.8)*\n0.46 to 0.95", "0.75 (0.8)\n0.37 to 0.94"),
        ("b.npz", "", "0.6667 (0.7)\n0.32 to 0.90"),
    ]
    (plain,) = list(table(CELLS[1:2], "accuracy").columns[1].cells)  # beside itself it need not stand
    assert plain == "0.8\n0.49 to 0.94"


def test_no_name_is_folded_on_a_narrow_terminal():
    console = Console(width=80, record=True, file=io.StringIO())
    measured = measure(counted(4, 4, 1, 1), "yes")
    sets = ("./dataset/set1/train.jsonl", "./dataset/set1/valid.jsonl")
    rolls = ("./checkpoints/trained-set1.npz", "./checkpoints/best-set1.npz")
    console.print(table([Cell(roll, path, measured) for roll in rolls for path in sets]))
    text = console.export_text()
    for part in (
        "in ./checkpoints",
        "trained-set1.npz",
        "best-set1.npz",
        "./dataset/set1/",
        "train.jsonl",
        "valid.jsonl",
    ):
        assert part in text


def test_the_json_holds_them_too(tmp_path):
    write(tmp_path / "table.json", CELLS, "precision")
    read = json.loads((tmp_path / "table.json").read_text())
    assert [cell["metrics"]["precision"] for cell in read["cells"]] == [0.8, 1.0, 1.0]
    assert [cell["trained_on"] for cell in read["cells"]] == [True, False, False]


def test_a_pair_scored_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        table([CELLS[0], CELLS[0]])


def test_written_answers_show_their_metric_beside_the_exact_match():
    console = Console(width=100, record=True, file=io.StringIO())
    figures = measured(texts(["a", "bc"], [("a",), ("b",)], [0.5, 1.0]))
    console.print(table([Cell("a.npz", "docs.jsonl", figures)], "anls"))
    text = console.export_text()
    assert "anls (exact match) of every" in text and "0.75 (0.5)" in text
