"""The doctor's report as one HTML file that opens without a network."""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from rolltune.data.doctor import Report, answers_of, token_buckets
from rolltune.data.findings import ERROR, NOTE, WARNING, Finding
from rolltune.data.fingerprints import Fingerprint
from rolltune.data.images import open_image
from rolltune.errors import UserError, as_html, visible

SHOWN = 40  # findings of one kind on the page; each may carry some thumbnails
THUMBNAIL = 112
COLOURS = ("#3b6ea5", "#d1873c", "#5a9a5a", "#8b6bb1")
WORDS = {ERROR: "Put right before training", WARNING: "Worth a look", NOTE: "Good to know"}

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #ddd; }
.verdict { padding: .6rem 1rem; border-radius: .4rem; color: #fff; }
.good { background: #2e7d4f; } .bad { background: #b23b3b; }
table { border-collapse: collapse; margin: .5rem 0; }
td, th { border: 1px solid #ddd; padding: .2rem .6rem; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
details { margin: .4rem 0; } summary { cursor: pointer; font-weight: 600; }
ul { margin: .3rem 0; padding-left: 1.2rem; } li { margin: .25rem 0; overflow-wrap: anywhere; }
.where { font-family: ui-monospace, monospace; font-size: .85em; background: #f2f2f2; padding: 0 .3em; }
.advice { color: #666; } .plots img { max-width: 100%; margin: .5rem 0; }
.thumbs img { border: 1px solid #ccc; margin: .2rem .2rem .2rem 0; vertical-align: top; }
"""


def page(report: Report, title: str) -> str:
    """The whole page; figures and thumbnails are inside it as data."""
    errors = report.count(ERROR)
    verdict = (
        f'<p class="verdict bad">Do not train yet: {errors} problem{"s" * (errors > 1)} to put right first.</p>'
        if errors
        else '<p class="verdict good">Training can start.</p>'
    )
    body = [
        f"<h1>Data report: {as_html(title)}</h1>",
        verdict,
        _summary(report),
        *[_section(report, level) for level in (ERROR, WARNING, NOTE)],
        "<h2>Pictures of the data</h2>",
        '<div class="plots">',
        *[f'<img alt="{as_html(name)}" src="{_png(figure)}">' for name, figure in plots(report).items()],
        "</div>",
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{as_html(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _summary(report: Report) -> str:
    unit = "tokens" if report.in_tokens else "characters"
    head = f"<tr><th>split</th><th>rows</th><th>what it is</th><th>rows by length ({unit} of text, up to)</th></tr>"
    rows = []
    for name, scan in report.scans.items():
        by_length = ", ".join(f"{size}: {count}" for size, count in token_buckets(report, name).items())
        cells = f"<td>{as_html(name)}</td><td class=n>{len(scan.examples)}</td>"
        rows.append(f"<tr>{cells}<td>{as_html(scan.understood)}</td><td>{as_html(by_length)}</td></tr>")
    return f"<table>{head}{''.join(rows)}</table>"


def _section(report: Report, level: str) -> str:
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        if finding.level == level:
            by_kind[finding.kind].append(finding)
    if not by_kind:
        return ""
    parts = [f"<h2>{WORDS[level]}</h2>"]
    for kind, findings in by_kind.items():
        items = "".join(_item(finding) for finding in findings[:SHOWN])
        more = f"<li>... and {len(findings) - SHOWN} more</li>" if len(findings) > SHOWN else ""
        opened = " open" if level != NOTE else ""
        title = f"{as_html(kind.capitalize())} ({len(findings)})"
        parts.append(f"<details{opened}><summary>{title}</summary><ul>{items}{more}</ul></details>")
    return "\n".join(parts)


def _item(finding: Finding) -> str:
    advice = f' <span class="advice">{as_html(finding.advice)}</span>' if finding.advice else ""
    thumbs = "".join(_thumbnail(path) for path in finding.images[:4]) if finding.kind != "unreadable image" else ""
    return (
        f'<li><span class="where">{as_html(finding.where)}</span> {as_html(finding.message)}{advice}'
        + (f'<div class="thumbs">{thumbs}</div>' if thumbs else "")
        + "</li>"
    )


def _thumbnail(path: Path) -> str:
    try:
        picture = open_image(path)
    except UserError:  # a broken picture has a finding of its own
        return ""
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=80)
    name = as_html(path.name)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return f'<img alt="{name}" title="{name}" width="{picture.width}" height="{picture.height}" src="{source}">'


def _png(figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def plots(report: Report) -> dict[str, Figure]:
    """Answers of each split, sizes of the images, lengths of the texts; what does not apply is left out."""
    drawn = {"answers": answer_plot(report), "image sizes": size_plot(report), "text lengths": length_plot(report)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def answer_plot(report: Report) -> Figure | None:
    """Share of each answer in each split, the most frequent ones."""
    counts = {name: counter for name, counter in answers_of(report).items() if counter}
    total = sum(counts.values(), start=Counter())
    if not total or len(total) > max(2, sum(total.values()) // 2):
        return None
    names = [answer for answer, _ in total.most_common(40)]
    figure = Figure(figsize=(8, 1.2 + 0.25 * len(names) * max(1, len(counts) / 2)))
    axes = figure.subplots()
    height = 0.8 / len(counts)
    for number, (split, counter) in enumerate(counts.items()):
        places = [place + number * height for place in range(len(names))]
        shares = [100 * counter[name] / sum(counter.values()) for name in names]
        bars = axes.barh(places, shares, height, label=_drawable([split])[0], color=COLOURS[number % len(COLOURS)])
        axes.bar_label(bars, [str(counter[name]) for name in names], fontsize=7, padding=2)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], _drawable(names))
    axes.invert_yaxis()
    axes.set_xlabel("% of the split (rows at the bars)")
    axes.set_title("Answers")
    axes.legend()
    return figure


def _drawable(texts: Sequence[str]) -> list[str]:
    """Labels that matplotlib takes literally: short, and without its own mark for formulas."""
    shortened = [visible(text if len(text) <= 40 else text[:39] + "…") for text in texts]
    return [text.replace("$", r"\$").replace("\n", " ") for text in shortened]


def size_plot(report: Report) -> Figure | None:
    prints = [one for one in report.prints.values() if isinstance(one, Fingerprint)]
    if not prints:
        return None
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    axes.scatter([one.width for one in prints], [one.height for one in prints], s=12, alpha=0.4, color=COLOURS[0])
    axes.axvline(224, color="#999", linewidth=0.8)
    axes.axhline(224, color="#999", linewidth=0.8)
    axes.set_xlabel("width (pixels; lines at 224)")
    axes.set_ylabel("height")
    axes.set_title(f"Sizes of {len(prints)} images")
    return figure


def length_plot(report: Report) -> Figure | None:
    lengths = {name: lengths for name, lengths in report.lengths.items() if lengths}
    if not lengths:
        return None
    figure = Figure(figsize=(8, 3))
    axes = figure.subplots()
    axes.hist(
        list(lengths.values()),
        bins=30,
        label=_drawable(list(lengths)),
        color=[COLOURS[n % 4] for n in range(len(lengths))],
    )
    axes.set_xlabel(f"{'tokens' if report.in_tokens else 'characters'} of prompt and answer")
    axes.set_ylabel("rows")
    axes.set_title("Lengths of the texts")
    axes.legend()
    return figure
