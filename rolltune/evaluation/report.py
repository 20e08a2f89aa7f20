"""The report of a run: one HTML file that opens anywhere, with no network and no script."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from rolltune import atomic, plain_json
from rolltune.errors import as_html
from rolltune.evaluation import charts
from rolltune.evaluation.calibration import BINS, bins
from rolltune.evaluation.calibration import error as calibration_error
from rolltune.evaluation.charts import Curve
from rolltune.evaluation.decision import PLAIN, Decision
from rolltune.evaluation.figures import TITLES, Figures, Scored, measured, reason
from rolltune.evaluation.leaderboard import Leaderboard
from rolltune.evaluation.metrics import Metrics, Prediction, rounded
from rolltune.evaluation.report_pictures import Picture, open_plainly, picture_cards
from rolltune.evaluation.report_tables import (
    MOST_ANSWERS,
    SplitResult,
    answers_table,
    confusions,
    decision_table,
    frequencies,
    leaderboard_table,
    splits_table,
    texts_table,
)
from rolltune.evaluation.statistics import interval
from rolltune.evaluation.written import WrittenMetrics
from rolltune.page import document, plot_card, section

MOST_ASKED = 400  # letters of the question at the top; all of it stands below


@dataclass
class RunSummary:
    """What a run leaves to be read. Whatever is empty is left out of the report."""

    title: str  # "best-set1"
    stage: str = ""  # "(1st trained)"
    prompt: str = ""  # the text asked of every picture, or the template of it
    answers: Sequence[str] = ()
    positive: str = ""  # which answer counts as positive and why, in words
    base: Mapping[str, object] = field(default_factory=dict)  # the base model: name, file, hash, precision
    recipe: Mapping[str, object] = field(default_factory=dict)
    command: str = ""
    roll_file: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)  # device, time, samples/s, peak memory, versions
    splits: Sequence[SplitResult] = ()
    curves: Sequence[Curve] = ()
    leaderboard: Leaderboard | None = None
    pictures: Sequence[Picture] = ()
    doubtful: Sequence[Picture] = ()  # rows whose label rolls doubt that never saw them
    warnings: Sequence[str] = ()
    most_pictures: int = 96
    scored: Scored | None = None  # the rows of the split that says most, as they are decided, for the curves
    scored_split: str = ""
    decision: Decision = PLAIN
    most_doubtful: int = 24
    date: str = ""  # when it was made: "2025-02-28 16:05"


def write_report(path: str | Path, run: RunSummary, open_image: Callable[[Path], Image.Image] = open_plainly) -> None:
    """Writes the report of `run`. `open_image` opens a picture for its thumbnail as the run did."""
    atomic.write_text(path, html(run, open_image))


def html(run: RunSummary, open_image: Callable[[Path], Image.Image] = open_plainly) -> str:
    sections = [_head(run), _warnings(run), *_figures(run), *_probabilities(run), *_rolls(run), *_losses(run)]
    sections.append(_doubtful(run, open_image))
    if run.pictures:
        wrong = sum(picture.is_wrong for picture in run.pictures)
        title = f"The pictures: {wrong} wrong of {len(run.pictures)}" + (", wrong ones first" if wrong else "")
        sections.append(section(title, picture_cards(run.pictures, run.most_pictures, open_image)))
    sections.append(_details(run))
    return document(f"{run.title} {run.stage}".strip(), "\n".join(part for part in sections if part))


def main_split(splits: Sequence[SplitResult]) -> SplitResult | None:
    """The split whose figures say most about new pictures: the untouched one, else validation, else any."""
    scored = [split for split in splits if split.shown is not None]
    return min(scored, key=_telling, default=None)


def _telling(split: SplitResult) -> int:
    return ("test", "valid", "all", "train").index(split.role)


def _head(run: RunSummary) -> str:
    head = f'<h1>{as_html(run.title)} <span class="was">{as_html(run.stage)}</span></h1>'
    said = [as_html(run.date)] if run.date else []
    said += [f"saved as <code>{as_html(run.roll_file)}</code>"] if run.roll_file else []
    head += f'<p class="soft">{", ".join(said)}</p>' if said else ""
    if run.prompt:
        asked = run.prompt if len(run.prompt) <= MOST_ASKED else f"{run.prompt[:MOST_ASKED]}..."
        head += f'<p class="asked">Asked: <q>{as_html(asked)}</q></p>'
    split = main_split(run.splits)
    if split is None or split.shown is None:
        return f"<header>{head}</header>"
    now, before = split.shown, split.before if split.after is not None else None
    names = dict.fromkeys((run.leaderboard.metric if run.leaderboard else now.names[0], *now.beside))
    head += f'<p class="lead">{_lead(split, now, before)}</p>'
    tiles = "".join(_tile(now, before, name) for name in names) + _wrong_tile(now, before)
    return f'<header>{head}<div class="tiles">{tiles}</div></header>'


def _lead(split: SplitResult, now: Figures, before: Figures | None) -> str:
    where = {
        "test": "on pictures that neither training nor choosing has seen",
        "valid": "on pictures it was not trained on",
        "train": "on the pictures it was trained on (which says nothing about new ones)",
        "all": "on all pictures, those it was trained on among them",
    }[split.role]
    if split.learned and split.role in ("valid", "test"):  # cut from the same data as what an earlier pass learned from
        where = f"on pictures of which {split.learned} were learned from (which says little about new ones)"
    if now.right is None:  # no answer was written out
        was = f"; before training {rounded(before.log_loss)}" if before is not None else ""
        return as_html(f"Log-loss {rounded(now.log_loss)} {where}{was}.")
    bounds = interval(now, now.share)
    was = f"; before training on {before.right}" if before is not None and before.right is not None else ""
    sure = f" The true rate may lie anywhere from {bounds} (95 %)." if bounds else ""
    return as_html(f"Right on {now.right} of {now.n} {where}{was}.{sure}")


def _tile(now: Figures, before: Figures | None, name: str) -> str:
    value, bounds = now.figure(name), interval(now, name)
    style = "value word" if value is None else "value"
    lines = [f'{TITLES[name]}<div class="{style}">{rounded(value)}</div>']
    if value is None:
        lines.append(f"<small>{as_html(reason(now, name))}</small>")
    if before is not None:
        lines.append(f"<small>before: {rounded(before.figure(name))}</small>")
    lines += [f"<small>95 %: {bounds}</small>"] if bounds else []
    return f'<div class="card">{"".join(lines)}</div>'


def _wrong_tile(now: Figures, before: Figures | None) -> str:
    if now.right is None:
        return ""
    was = before.n - before.right if before is not None and before.right is not None else None
    earlier = f"<small>before: {was} of {now.n}</small>" if was is not None else ""
    always = f"<small>always the commonest answer: {rounded(now.majority_rate)}</small>" if now.n else ""
    return f'<div class="card">wrong<div class="value">{now.n - now.right} of {now.n}</div>{earlier}{always}</div>'


def _warnings(run: RunSummary) -> str:
    texts = list(run.warnings)
    for split in run.splits:
        only = split.after.collapsed if split.after is not None else None
        if only is not None:
            texts.append(f"{split.name}: every picture gets the same answer, {only!r}")
    texts += list(run.leaderboard.notes) if run.leaderboard else []
    if not texts:
        return ""
    items = "".join(f"<li>{as_html(text)}</li>" for text in dict.fromkeys(texts))
    return section("Read this first", f'<ul class="warnings">{items}</ul>')


def _figures(run: RunSummary) -> list[str]:
    splits = sorted((split for split in run.splits if split.shown is not None), key=_telling)
    if not splits:
        return []
    note = f'<p class="soft">{as_html(run.positive)}</p>' if run.positive else ""
    before_and_after = note + splits_table(run.splits)
    return [section("Before and after", before_and_after), *_choices(splits), *_texts(splits[0])]


def _choices(splits: Sequence[SplitResult]) -> list[str]:
    """What was taken for what; nothing for written answers."""
    chosen = [split for split in splits if split.choices]
    if not chosen:
        return []
    parts = [
        section("What was taken for what", "".join(confusions(split, split is chosen[0]) for split in chosen)),
        section("How often each answer is given", frequencies(chosen[0])),
    ]
    metrics = chosen[0].shown
    if isinstance(metrics, Metrics) and len(metrics.answers) > MOST_ANSWERS:
        parts.append(section("Every answer", answers_table(metrics)))
    return parts


def _texts(split: SplitResult) -> list[str]:
    """What was written most often; nothing for choices, and where nothing was written."""
    if not isinstance(split.shown, WrittenMetrics) or not split.shown.texts:
        return []
    return [section(f"What was written most often: {split.name}", texts_table(split.shown))]


def _probabilities(run: RunSummary) -> list[str]:
    """What the probabilities are worth: the decision beside the plain one, precision by recall, and calibration."""
    scored = run.scored
    if not isinstance(scored, Prediction) or not len(scored.ids):
        return []
    split = main_split(run.splits)
    positive = split.shown.positive if split is not None and isinstance(split.shown, Metrics) else None
    sections = []
    if run.decision.text:
        body = f"<p>{as_html(run.decision.text)}.</p>"
        if run.decision.changes:
            plain = measured(run.decision.undo(scored), positive)
            body += decision_table(plain, measured(scored, positive))
        sections.append(section(f"How an answer is decided: {run.scored_split}", body))
    if positive is not None and len(scored.answers) == 2:
        curve = charts.precision_recall(scored, positive)
        if curve is not None:
            sections.append(section(f"Precision and recall: {run.scored_split}", plot_card(curve)))
    found = bins(scored.log_probs, scored.label)
    error = calibration_error(scored.log_probs, scored.label)
    text = (
        f"Expected calibration error {rounded(error)} on {len(scored.ids)} pictures, in {BINS} bins of equal width of "
        "the likeliest answer's probability. On few pictures it is above 0 where nothing is wrong, too."
    )
    body = f'<p class="soft">{as_html(text)}</p>{plot_card(charts.reliability(found))}'
    return [*sections, section(f"Are the probabilities right? {run.scored_split}", body)]


def _rolls(run: RunSummary) -> list[str]:
    board = run.leaderboard
    if board is None or not board.entries:
        return []
    on = {"valid": "validation", "train": "training"}[board.split]
    order = f'<p class="soft">Ranked by {TITLES[board.metric]} on the {on} pictures.</p>'
    body = (order if len(board.entries) > 1 else "") + leaderboard_table(board)
    if board.ends:
        body += f'<p class="soft below">{"<br>".join(as_html(end) for end in board.ends)}</p>'
    points = [
        (entry.roll, entry.learning_rate, value)
        for entry in board.entries[: board.ranked]
        if entry.learning_rate > 0 and (value := getattr(entry, board.split).figure(board.metric)) is not None
    ]
    if board.chosen is not None and len({rate for _, rate, _ in points}) >= 3:
        chart = charts.rates(points, TITLES[board.metric], board.chosen.roll)
        body += f'<h3 style="margin-top: 18px">Learning rate and {TITLES[board.metric]}</h3>{plot_card(chart)}'
    return [section(f"The {len(board.entries)} rolls" if len(board.entries) > 1 else "The roll", body)]


def _doubtful(run: RunSummary, open_image: Callable[[Path], Image.Image]) -> str:
    if not run.doubtful:
        return ""
    note = (
        '<p class="soft">Rolls that never saw these rows find another answer likelier than the label. '
        "Look at the first ones: the label may be wrong, or the picture hard.</p>"
    )
    shown = run.doubtful[: run.most_doubtful]
    left = len(run.doubtful) - len(shown)
    more = f'<p class="soft">{left} less doubtful rows are not shown.</p>' if left else ""
    cards = picture_cards(shown, run.most_doubtful, open_image)
    return section(f"Doubtful labels: {len(run.doubtful)}", note + cards + more)


def _losses(run: RunSummary) -> list[str]:
    if not any(len(curve.losses) for curve in run.curves):
        return []
    best = run.leaderboard.chosen if run.leaderboard else None
    chosen = best.roll if best else run.curves[0].roll if len(run.curves) == 1 else None
    return [section("Training loss", plot_card(charts.loss_curves(run.curves, chosen)))]


def _details(run: RunSummary) -> str:
    rows = []
    if run.prompt:
        rows.append(("prompt", f"<code>{as_html(run.prompt)}</code>"))
    if run.answers:
        rows.append(("answers", as_html(", ".join(run.answers))))
    rows += [(key, as_html(_text(value))) for key, value in run.base.items()]
    rows += [(key, as_html(_text(value))) for key, value in run.facts.items()]
    if run.command:
        rows.append(("command", f"<code>{_words(run.command)}</code>"))
    parts = []
    if rows:
        items = "".join(f"<dt>{as_html(str(key))}</dt><dd>{value}</dd>" for key, value in rows)
        parts.append(f'<div class="card"><dl>{items}</dl></div>')
    if run.recipe:
        recipe = as_html(plain_json.dumps(run.recipe, indent=2))
        parts.append(f"<details><summary>The recipe, in full</summary><pre>{recipe}</pre></details>")
    return section("How it was made", "".join(parts)) if parts else ""


def _words(command: str) -> str:
    """A command that breaks between its words, not at the dashes in them."""
    return " ".join(f"<span>{as_html(word)}</span>" for word in command.split(" "))


def _text(value: object) -> str:
    return value if isinstance(value, str) else plain_json.dumps(value)
