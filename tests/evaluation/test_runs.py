"""Runs beside each other: only what the same rows judged is ranked, and nothing that was learned from."""

import csv
import io
import re

from rich.console import Console

from rolltune.evaluation.runs import Judged, Run, differences, rows_of, standings, to_csv, value_text
from rolltune.evaluation.runs_page import Comparison, page, tables
from rolltune.evaluation.statistics import wilson


def judged(right, learned=0, split="test", rows="16 rows, a", loss=0.5, n=16):
    bounds = {"accuracy": wilson(right, n)._asdict()}
    figures = {"n": n, "accuracy": right / n, "f-measure": None, "log-loss": loss, "interval_95": bounds}
    return Judged(split, f"./set1/{split}.jsonl", rows, figures, learned)


def made(name, found, **entries):
    return Run(f"./checkpoints/{name}.npz", 0, 400_000, "2026-11-26 04:00", entries, found)


def names(standing):
    return [run.name.removeprefix("./checkpoints/").removesuffix(".npz") for run in standing.runs]


def shown(runs, metric="accuracy", width=200):
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    unjudged = [run for run in runs if run.judged is None]
    for table, notes in tables(Comparison(standings(runs, metric), unjudged, differences(runs))):
        console.print(table)
        console.print(*notes, sep="\n", markup=False)
    return out.getvalue()


def test_what_was_learned_from_or_is_not_known_has_no_rank_however_good():
    runs = [
        made("learned", judged(16, learned=3)),
        made("unknown", judged(15, learned=None)),
        made("poor", judged(9)),
        made("good", judged(13, loss=0.7)),
        made("level", judged(13, loss=0.6)),
    ]
    (one,) = standings(runs, "accuracy")
    assert names(one) == ["level", "good", "poor", "learned", "unknown"] and one.ranked == 3
    told = shown(runs)
    assert "1.0*" in told and "0.9375?" in told and "0.57 to 0.93" in told
    assert "no forecast, and no rank" in told and "was not written down: no rank" in told
    assert "2 of the others may be as good as the first" in told
    assert "choosing the best of 3 on 16 pictures" in told  # of those alone that have ranks
    text = page(Comparison([one], [], []))
    assert text.count('class="out"') == 2 and "learned 1.0000 (no forecast)" in text


def test_runs_stand_together_where_the_same_rows_judged_them():
    runs = [
        made("a", judged(13)),
        made("b", judged(16, rows="16 rows, b")),
        made("c", judged(10)),
        made("d", judged(16, split="valid")),
        made("e", judged(16, learned=16, split="train")),
        made("f", None),
    ]
    found = standings(runs, "accuracy")
    assert [names(one) for one in found] == [["a", "c"], ["b"], ["d"], ["e"]]
    assert [one.ranked for one in found] == [2, 1, 1, 0]
    assert [names(one) for one in standings(runs[::-1], "accuracy")] == [names(one) for one in found]
    assert any("these pictures chose" in note for note in found[2].notes)
    assert "no figures were saved with these" in shown(runs)


def test_lower_is_better_for_the_log_loss_alone_and_undefined_figures_come_last():
    runs = [made("a", judged(13, loss=0.9)), made("b", judged(10, loss=0.2))]
    assert names(standings(runs, "log-loss")[0]) == ["b", "a"]
    assert names(standings(runs, "accuracy")[0]) == ["a", "b"]
    assert standings(runs, "f-measure")[0].ranked == 0 and "undefined" in shown(runs, "f-measure")


def test_only_what_differs_is_shown_and_the_commonest_is_a_dot():
    runs = [
        made(name, judged(9), rate=rate, rank=8, prompt=f"{name} <b>\x1b[31m")
        for name, rate in (("a", 0.03), ("b", 0.01), ("c", 0.03))
    ]
    rate, prompt = differences(runs)
    assert (rate.name, rate.commonest, prompt.commonest) == ("rate", "0.03", None)
    told = shown(runs)
    assert "rank" not in told and "\x1b" not in told
    lines = [line.split() for line in told[told.index("what differs") :].splitlines()]
    assert [line[1] for line in lines if line[:1] in (["a"], ["b"], ["c"])] == ["·", "0.01", "·"]
    text = page(Comparison(standings(runs, "accuracy"), [], differences(runs), ["x.npz <i> is damaged"]))
    assert "<b>" not in text.split("<table")[1] and "\x1b" not in text and "&lt;i&gt; is damaged" in text
    assert "mostly 0.03" in text and "://" not in text


def test_each_cell_of_the_page_is_its_run_s():
    runs = [
        made("a", judged(13), rate=0.03),
        made("b", judged(9, loss=0.4), rate=0.01),
        made("c", judged(16, learned=2), rate=0.03),
        made("d", None, rate=0.03),
    ]
    text = page(Comparison(standings(runs, "accuracy"), runs[3:], differences(runs)))
    rows = [
        (style, re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", cells))
        for style, cells in re.findall(r'<tr(?: class="(\w*)")?>(.*?)</tr>', text)
    ]
    rest = lambda rate: ["0", "0.4 MB", "2026-11-26 04:00", rate]
    usual = '<span class="was">0.03</span>'
    between = lambda bounds: f"<br><small>{bounds}</small>"
    heads = ["seed", "size", "date", "rate<br><small>mostly 0.03</small>"]
    assert rows == [
        ("", ["", "run", "accuracy", "log-loss", *heads]),
        ("best", ["1", "a", "0.8125" + between("0.57 to 0.93"), "0.5", *rest(usual)]),
        ("", ["2", "b", "0.5625" + between("0.33 to 0.77"), "0.4", *rest("0.01")]),
        ("out", ["", "c", "1.0*" + between("0.81 to 1.00"), "0.5*", *rest(usual)]),
        ("", ["run", *heads]),
        ("", ["d", *rest(usual)]),
    ]
    assert 'alt="accuracy by run. a 0.8125; b 0.5625; c 1.0000 (no forecast)"' in text
    undefined = page(Comparison(standings(runs, "f-measure"), [], []))
    assert "<picture>" not in undefined and "undefined" in undefined


def test_a_line_a_run_for_programs():
    runs = [made("a", judged(13), rates=[1, 2]), made("b", judged(16, learned=2), rates=[]), made("c", None)]
    found = list(csv.DictReader(io.StringIO(to_csv(rows_of(standings(runs, "accuracy"), runs[2:], differences(runs))))))
    assert [row["rank"] for row in found] == ["1", "", ""] and [row["learned"] for row in found] == ["0", "2", ""]
    assert found[0]["accuracy"] == "0.8125" and float(found[0]["accuracy low"]) == wilson(13, 16).low
    assert found[0]["recipe.rates"] == "[1, 2]" and found[2]["run"] == "./checkpoints/c.npz"


def test_values_are_written_in_a_line():
    assert [value_text(one) for one in (0.030000001, "", None, (), ("a", 2), True, {"a": 1})] == [
        "0.03", "none", "none", "none", "a, 2", "True", '{"a": 1}'
    ]  # fmt: skip
