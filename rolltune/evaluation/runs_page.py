"""The comparison of runs for a terminal, and as one HTML page that opens anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from rolltune.errors import as_html, visible
from rolltune.evaluation import charts
from rolltune.evaluation.charts import StandingRow
from rolltune.evaluation.figures import TITLES
from rolltune.evaluation.runs import Difference, Run, Standing, figure_text
from rolltune.page import document, plot_card, section

TITLE = "Past runs"
MOST_DRAWN = 40
LONGEST = 32  # characters of a value in a terminal's table


@dataclass(frozen=True)
class Comparison:
    """All that is shown. `problems` are about files that could not be read, a line each."""

    standings: Sequence[Standing]
    unjudged: Sequence[Run]  # without figures
    differing: Sequence[Difference]
    problems: Sequence[str] = ()

    @property
    def runs(self) -> list[Run]:
        """All of them, in the order in which they are shown."""
        return [*(run for standing in self.standings for run in standing.runs), *self.unjudged]

    @property
    def labels(self) -> dict[str, str]:
        """What a run is called for short: without the folder where all lie in one, and without what all end in."""
        names = [run.name for run in self.runs]
        if len({name.rpartition("/")[0] for name in names}) > 1:
            return {name: name for name in names}
        return {name: name.rpartition("/")[2].removesuffix(".npz") for name in names}


def tables(made: Comparison) -> list[tuple[Table, Sequence[str]]]:
    """A table for the rows that judge, each with its notes, then one of what differs. For 80 columns and more."""
    labels = made.labels
    out: list[tuple[Table, Sequence[str]]] = []
    for standing in made.standings:
        table = _table(standing.title)
        for heading in ("", "run", *standing.names[:1], "95 %", *standing.names[1:], "seed", "size", "date"):
            table.add_column(heading, justify="left" if heading == "run" else "right", overflow="fold")
        for place, run in enumerate(standing.runs):
            judged = run.judged
            assert judged is not None
            bounds = judged.interval(standing.metric)
            first, *others = (figure_text(judged, name) for name in standing.names)
            facts = str(run.seed), f"{run.size / 1e6:.1f} MB", run.date
            rank = str(place + 1) if place < standing.ranked else ""
            cells = [rank, labels[run.name], first, str(bounds or ""), *others, *facts]
            style = "dim" if place >= standing.ranked else "bold" if place == 0 else None
            table.add_row(*map(_text, cells), style=style)
        out.append((table, standing.notes))
    if made.unjudged:
        table = _table("no figures were saved with these")
        for heading in ("run", "seed", "size", "date"):
            table.add_column(heading, justify="left" if heading == "run" else "right", overflow="fold")
        for run in made.unjudged:
            cells = [labels[run.name], str(run.seed), f"{run.size / 1e6:.1f} MB", run.date]
            table.add_row(*map(_text, cells))
        out.append((table, ()))
    if made.differing:
        out.append((_differences_table(made), ()))
    return out


def _differences_table(made: Comparison) -> Table:
    """A column an entry that differs; a dot stands for the commonest value, which the heading has."""
    table = _table("what differs between the runs (· as in the heading)")
    table.add_column("run", overflow="fold")
    for one in made.differing:
        table.add_column(_text(one.name if one.commonest is None else f"{one.name}\n{_short(one.commonest)}"))
    labels = made.labels
    for run in made.runs:
        cells = [_short(one.texts[run.name]) for one in made.differing]
        dots = ["·" if one.texts[run.name] == one.commonest else "" for one in made.differing]
        table.add_row(_text(labels[run.name]), *(_text(dot or cell) for dot, cell in zip(dots, cells, strict=True)))
    return table


def _table(title: str) -> Table:
    return Table(title=_text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _text(text: str) -> Text:
    return Text(visible(text))


def page(made: Comparison) -> str:
    """The whole page, its pictures inside it."""
    count = len(made.runs)
    parts = [f"<header><h1>{count} run{'s' * (count != 1)}</h1></header>"]
    if made.problems:
        items = "".join(f"<li>{as_html(problem)}</li>" for problem in made.problems)
        parts.append(section("Not read", f'<ul class="warnings">{items}</ul>'))
    for standing in made.standings:
        notes = "".join(f"<br>{as_html(note)}" for note in standing.notes)
        below = f'<p class="soft below">{notes[4:]}</p>' if notes else ""
        parts.append(section(standing.title, _picture(made, standing) + _runs_table(made, standing) + below))
    if made.unjudged:
        rows = "".join(f"<tr>{_name(made, run)}{_rest(made, run)}</tr>" for run in made.unjudged)
        parts.append(
            section("No figures were saved with these", _wide(f'<th class="text">run</th>{_heads(made)}', rows))
        )
    return document(TITLE, "\n".join(parts))


def _picture(made: Comparison, standing: Standing) -> str:
    labels = made.labels
    rows = [
        StandingRow(labels[run.name], value, judged.interval(standing.metric), place < standing.ranked)
        for place, run in enumerate(standing.runs)
        if (judged := run.judged) is not None and (value := judged.figure(standing.metric)) is not None
    ]
    return plot_card(charts.standing(rows[:MOST_DRAWN], TITLES[standing.metric])) if rows else ""


def _runs_table(made: Comparison, standing: Standing) -> str:
    rows = []
    for place, run in enumerate(standing.runs):
        judged = run.judged
        assert judged is not None
        is_ranked = place < standing.ranked
        cells = f"<td>{place + 1 if is_ranked else ''}</td>{_name(made, run)}"
        for name in standing.names:
            bounds = judged.interval(name)
            below = f"<br><small>{bounds}</small>" if bounds else ""
            cells += f"<td>{as_html(figure_text(judged, name))}{below}</td>"
        style = "out" if not is_ranked else "best" if place == 0 else ""
        rows.append(f'<tr class="{style}">{cells}{_rest(made, run)}</tr>')
    heads = "".join(f"<th>{TITLES[name]}</th>" for name in standing.names)
    return _wide(f'<th></th><th class="text">run</th>{heads}{_heads(made)}', "".join(rows))


def _name(made: Comparison, run: Run) -> str:
    return f'<td class="text wrap">{as_html(made.labels[run.name])}</td>'


def _heads(made: Comparison) -> str:
    heads = "<th>seed</th><th>size</th><th>date</th>"
    for one in made.differing:
        most = "" if one.commonest is None else f"<br><small>mostly {as_html(one.commonest)}</small>"
        heads += f'<th class="{_style(one)}">{as_html(one.name)}{most}</th>'
    return heads


def _rest(made: Comparison, run: Run) -> str:
    """What is known of a run beside its figures; of its recipe what differs, pale where it is the commonest."""
    cells = f"<td>{run.seed}</td><td>{run.size / 1e6:.1f} MB</td><td>{as_html(run.date)}</td>"
    for one in made.differing:
        text = as_html(one.texts[run.name])
        cells += f'<td class="{_style(one)}">'
        cells += f'<span class="was">{text}</span></td>' if one.texts[run.name] == one.commonest else f"{text}</td>"
    return cells


def _style(one: Difference) -> str:
    """Long values are broken over lines, in a column that is wide enough for it."""
    return "text wrap" if max(map(len, one.texts.values())) > LONGEST // 2 else "text"


def _wide(heads: str, rows: str) -> str:
    return f'<div class="card scroll"><table class="wide"><tr>{heads}</tr>{rows}</table></div>'
