"""The report's tables, as HTML: figures by split, confusions, how often each answer, the leaderboard."""

from collections.abc import Sequence
from dataclasses import dataclass

from rolltune.errors import as_html
from rolltune.evaluation.figures import TITLES, Figures, shown_names
from rolltune.evaluation.leaderboard import Leaderboard, names_beside, setting_text, settings_of, vote_state
from rolltune.evaluation.metrics import AnswerMetrics, Metrics, rounded
from rolltune.evaluation.statistics import f_bounds, interval, wilson
from rolltune.evaluation.written import WrittenMetrics
from rolltune.page import wide_table

MOST_ANSWERS = 10  # in two tables side by side; of more, the commonest confusions and every answer are listed
MOST_CELLS = 40  # answers in a table of its own
FEW = 4  # answers whose names stand flat above their columns
MOST_BARS = 40


@dataclass(frozen=True)
class SplitResult:
    """One data set before and after. `role`: "train", "valid", "test" or "all"; `learned`: rows that were learned from,
    in this pass or in earlier ones."""

    name: str
    role: str
    before: Figures | None
    after: Figures | None
    learned: int = 0

    @property
    def shown(self) -> Figures | None:
        """The figures after training, or those before where there are no others."""
        return self.after if self.after is not None else self.before

    @property
    def choices(self) -> dict[str, Metrics]:
        """The figures "before" and "after" of choices among few answers; empty for written ones."""
        found = {"before": self.before, "after": self.after}
        return {when: figures for when, figures in found.items() if isinstance(figures, Metrics)}


def splits_table(splits: Sequence[SplitResult]) -> str:
    """One row a data set that was scored; each figure as before → after. What is undefined is explained below."""
    found = [(split, split.shown) for split in splits]
    scored = [(split, figures) for split, figures in found if figures is not None]
    names = shown_names([figures for _, figures in scored])
    heads = "".join(f"<th>{TITLES[name]}</th>" for name in names)
    rows, notes = [], []
    for split, figures in scored:
        cells = "".join(f'<td class="change">{_change(split, name)}</td>' for name in names)
        rows.append(f"<tr>{_name(split.name)}<td>{figures.n}</td>{cells}</tr>")
        for when, some in (("before", split.before), ("after", split.after)):
            reasons = {} if some is None else some.undefined
            shown = {TITLES[name] for name in names}
            notes += [
                f"{split.name} {when} training: {name} undefined, {why}"
                for name, why in reasons.items()
                if name in shown
            ]
    below = "".join(f"<br>{as_html(note)}" for note in notes)
    if any(isinstance(figures, Metrics) and figures.positive is None for _, figures in scored):
        below += "<br>precision, recall and F-measure are means over the answers"
    below += "<br>below a figure: where the true one may lie, 95 %"
    table = wide_table(f'<th class="text">data set</th><th>pictures</th>{heads}', rows, stays=True)
    return f"{table}<small>{below[4:]}</small>"


def _name(text: str) -> str:
    """A cell that names its row: as wide as its text, up to a width at which even one long word breaks."""
    return f'<td class="text"><div class="label">{as_html(text)}</div></td>'


def _change(split: SplitResult, name: str) -> str:
    after = "" if split.after is None else f"<b>{_value(split.after, name)}</b>"
    arrow = " →" if after else ""
    before = "" if split.before is None else f'<span class="was">{_value(split.before, name)}{arrow}</span> '
    return before + after + _below(split.shown, name)


def _below(figures: Figures | None, name: str) -> str:
    bounds = None if figures is None else interval(figures, name)
    return f"<br><small>{bounds}</small>" if bounds else ""


def decision_table(plain: Figures, decided: Figures) -> str:
    """The same rows by the likeliest answer at temperature 1, and as the roll decides."""
    names = shown_names([plain])
    rows = []
    for title, figures in (("by the likeliest answer", plain), ("as this roll decides", decided)):
        cells = "".join(f"<td>{_value(figures, name)}{_below(figures, name)}</td>" for name in names)
        error = figures.calibration_error if isinstance(figures, Metrics) else None
        rows.append(f'<tr><td class="text">{title}</td>{cells}<td>{rounded(error)}</td></tr>')
    heads = "".join(f"<th>{TITLES[name]}</th>" for name in names)
    return wide_table(f'<th class="text"></th>{heads}<th>calibration error</th>', rows)


def confusions(split: SplitResult, whole: bool = False) -> str:
    """The before and after tables of one data set, side by side. Of many answers the commonest confusions, and with
    `whole` the table after training above them."""
    cards, table = [], ""
    for when, metrics in split.choices.items():
        title = f"{when} training: {metrics.n - metrics.right} of {metrics.n} wrong"
        few = len(metrics.answers) <= MOST_ANSWERS
        cards.append(_scrolling(title, _grid(metrics) if few else _commonest(metrics)))
        if whole and MOST_ANSWERS < len(metrics.answers) <= MOST_CELLS:  # the later one stays
            table = _scrolling(title, _grid(metrics))
    return f'<h3 class="name">{as_html(split.name)}</h3>{table}<div class="pair">{"".join(cards)}</div>'


def _scrolling(title: str, table: str) -> str:
    return f'<div class="card"><h3>{title}</h3><div class="scroll">{table}</div></div>'


def _grid(metrics: Metrics) -> str:
    """Right answers down, predicted ones across; more than a few have their names on end, and no zeros."""
    many, turned = (" many", " upright") if len(metrics.answers) > FEW else ("", "")
    label = lambda text, turned="": f'<th><div class="label{turned}">{as_html(text)}</div></th>'
    heads = "".join(label(answer, turned) for answer in metrics.answers)
    rows = []
    for right, counts in enumerate(metrics.confusion):
        total = sum(counts)
        cells = []
        for predicted, count in enumerate(counts):
            tone = "--good" if right == predicted else "--bad"
            share = 0.85 * count / total if total else 0
            shade = f' style="background: rgb(var({tone}) / {0.08 + share * 0.5:.2f})"' if count else ""
            cells.append(f"<td{shade}>{count if count or not many else ''}</td>")
        rows.append(f"<tr>{label(metrics.answers[right])}{''.join(cells)}</tr>")
    corner = "<th><small>right answer ↓<br>predicted →</small></th>"
    return f'<table class="confusion stays{many}"><tr>{corner}{heads}</tr>{"".join(rows)}</table>'


def _commonest(metrics: Metrics, most: int = 15) -> str:
    found = [
        (count, metrics.answers[right], metrics.answers[predicted])
        for right, counts in enumerate(metrics.confusion)
        for predicted, count in enumerate(counts)
        if count and right != predicted
    ]
    found.sort(key=lambda row: (-row[0], row[1], row[2]))
    if not found:
        return "<p>No picture was confused with another answer.</p>"
    cell = lambda text: f'<td class="text half">{as_html(text)}</td>'
    rows = [f"<tr><td>{n}</td>{cell(a)}{cell(b)}</tr>" for n, a, b in found]
    more = f"<p><small>and {len(found) - most} rarer confusions</small></p>" if len(found) > most else ""
    heads = '<th>pictures</th><th class="text">right answer</th><th class="text">predicted</th>'
    return f'<table class="wide"><tr>{heads}</tr>{"".join(rows[:most])}</table>{more}'


def answers_table(metrics: Metrics) -> str:
    """Every answer's own figures, for sets with many answers."""
    heads = '<th class="text">answer</th><th>pictures</th><th>predicted</th><th>right</th>'
    heads += "<th>precision</th><th>recall</th><th>F-measure</th>"
    rows = [_answer_row(row) for row in sorted(metrics.per_answer, key=lambda row: (-row.actual, row.answer))]
    return wide_table(heads, rows, stays=True)


def _answer_row(row: AnswerMetrics) -> str:
    precision, recall = wilson(row.right, row.predicted), wilson(row.right, row.actual)
    ratios = ""
    for ratio, bounds in ((row.precision, precision), (row.recall, recall), (row.f_measure, f_bounds(row))):
        below = f"<br><small>{bounds}</small>" if bounds else ""
        ratios += f"<td>{'–' if ratio is None else rounded(ratio)}{below}</td>"
    counts = f"<td>{row.actual}</td><td>{row.predicted}</td><td>{row.right}</td>"
    return f"<tr>{_name(row.answer)}{counts}{ratios}</tr>"


def frequencies(split: SplitResult) -> str:
    """Bars: how often each answer is right, was predicted before, and is predicted after training."""
    choices = split.choices
    shown = choices["after" if "after" in choices else "before"]
    rows = sorted(shown.per_answer, key=lambda row: (-max(row.actual, row.predicted), row.answer))
    series = [("data", "in the data", shown.actual)]
    series += [(when, f"predicted {when} training", metrics.predicted) for when, metrics in choices.items()]
    highest = max([1, *(count for _, _, counts in series for count in counts.values())])
    key = "".join(f'<span class="bar {kind}"><i></i>{label}</span>' for kind, label, _ in series)
    bars = []
    for row in rows[:MOST_BARS]:
        lines = "".join(
            f'<div class="bar {kind}"><i style="width: {82 * counts[row.answer] / highest:.1f}%"></i>'
            f"{counts[row.answer]}</div>"
            for kind, _, counts in series
        )
        bars.append(f"<div>{as_html(row.answer)}</div><div>{lines}</div>")
    more = f"<p><small>and {len(rows) - MOST_BARS} rarer answers</small></p>" if len(rows) > MOST_BARS else ""
    head = f"<h3>{as_html(split.name)}</h3>"
    return f'<div class="card">{head}<div class="key">{key}</div><div class="bars">{"".join(bars)}</div>{more}</div>'


def texts_table(metrics: WrittenMetrics, most: int = 15) -> str:
    """The texts that were written most often: one for nearly all rows is a model that does not look."""
    ordered = sorted(metrics.texts.items(), key=lambda item: (-item[1], item[0]))
    rows = [f'<tr><td>{count}</td><td class="text wrap">{as_html(text)}</td></tr>' for text, count in ordered[:most]]
    more = f"<p><small>and {len(ordered) - most} rarer texts</small></p>" if len(ordered) > most else ""
    return wide_table('<th>rows</th><th class="text">written</th>', rows) + more


def leaderboard_table(board: Leaderboard) -> str:
    names = [board.metric, *names_beside(board)]
    own = settings_of(board)
    heads = "<th></th><th>roll</th><th>seed</th><th>rate</th>"
    heads += "".join(f"<th>{heading}</th>" for heading in own.values()) + "<th>on train</th>"
    figures = [getattr(entry, board.split) for entry in board.entries]
    bounded = [name for name in names if any(some is not None and interval(some, name) for some in figures)]
    for name in names:
        heads += f"<th>{TITLES[name]}</th>" + ('<th class="text">95 % interval</th>' if name in bounded else "")
    rows = []
    for place, (entry, some) in enumerate(zip(board.entries, figures, strict=True)):
        is_ranked = place < board.ranked
        cells = f"<td>{place + 1 if is_ranked else ''}</td><td>{entry.roll}</td><td>{entry.seed}</td>"
        cells += f"<td>{entry.learning_rate:.3g}</td>"
        cells += "".join(f"<td>{setting_text(entry, name)}</td>" for name in own)
        cells += f"<td>{_value(entry.train, board.metric)}</td>"
        for name in names:
            cells += f"<td>{_value(some, name)}</td>"
            drawn = name == board.metric and name != "log-loss"  # which has no end to draw a line to
            cells += f'<td class="text">{_range(some, name, drawn)}</td>' if name in bounded else ""
        state = entry.status.state + (f" at {entry.status.step}" if entry.status.step is not None else "")
        style = "out" if not is_ranked else "best" if place == 0 else ""
        rows.append(f'<tr class="{style}">{cells}<td class="text">{state}</td></tr>')
    for vote in board.votes:
        cells = f"<td></td><td>{vote.title}</td><td></td><td></td>{'<td></td>' * len(own)}<td></td>"
        for name in names:
            cells += f"<td>{_value(vote.ranked_on, name)}</td>"
            drawn = name == board.metric and name != "log-loss"
            cells += f'<td class="text">{_range(vote.ranked_on, name, drawn)}</td>' if name in bounded else ""
        rows.append(f'<tr>{cells}<td class="text">{vote_state(vote)}</td></tr>')
    return wide_table(heads + '<th class="text">state</th>', rows)


def _value(figures: Figures | None, name: str) -> str:
    return "" if figures is None else rounded(figures.figure(name))


def _range(figures: Figures | None, name: str, drawn: bool) -> str:
    """The interval in figures; `drawn` puts it on a line from 0 to 1 before them, the figure as a mark on it."""
    bounds = None if figures is None else interval(figures, name)
    value = None if figures is None else figures.figure(name)
    if bounds is None or value is None:
        return ""
    text = f'<span class="was">{bounds}</span>'
    if not drawn:
        return text
    low, high, at = (100 * number for number in (bounds.low, bounds.high, value))
    bar = f'<i style="left: {low:.1f}%; width: {high - low:.1f}%"></i><b style="left: {at:.1f}%"></b>'
    return f'<span class="range" title="{as_html(bounds.method)}, on a line from 0 to 1">{bar}</span> {text}'
