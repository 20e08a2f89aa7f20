"""The doctor's report as one HTML file that opens without a network."""

import base64
import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rolltune.data.doctor import Report, answers_of, token_buckets
from rolltune.data.findings import ERROR, NOTE, WARNING, Finding
from rolltune.data.fingerprints import Fingerprint
from rolltune.data.images import open_image
from rolltune.errors import UserError, as_html, visible
from rolltune.page import document, plot_card, section, wide_table
from rolltune.plots import LIGHT, Shades, axes_of, both, name_axes

SHOWN = 40  # findings of one kind on the page; each may carry some thumbnails
THUMBNAIL = 112
MOST_COLUMNS = 30
WORDS = {ERROR: "Put right before training", WARNING: "Worth a look", NOTE: "Good to know"}


def page(report: Report, title: str) -> str:
    """The whole page; figures and thumbnails are inside it as data."""
    errors = report.count(ERROR)
    verdict = (
        f'<p class="verdict-bad">Do not train yet: {errors} problem{"s" * (errors > 1)} to put right first.</p>'
        if errors
        else '<p class="verdict-good">Training can start.</p>'
    )
    body = [
        f"<header><h1>Data report: {as_html(title)}</h1>{verdict}</header>",
        _summary(report),
        *[_findings(report, level) for level in (ERROR, WARNING, NOTE)],
        *[section(name, plot_card(both(draw, name))) for name, draw in _plots(report).items()],
    ]
    return document(f"Data report: {title}", "\n".join(part for part in body if part))


def _summary(report: Report) -> str:
    unit = "tokens" if report.in_tokens else "characters"
    heads = '<th class="text">split</th><th>rows</th><th class="text">what it is</th>'
    heads += f'<th class="text">rows by length ({unit} of text, up to)</th>'
    rows = []
    for name, scan in report.scans.items():
        by_length = ", ".join(f"{size}: {count}" for size, count in token_buckets(report, name).items())
        cells = f'<td class="text">{as_html(name)}</td><td>{len(scan.examples)}</td>'
        texts = "".join(f'<td class="text wrap">{as_html(text)}</td>' for text in (scan.understood, by_length))
        rows.append(f"<tr>{cells}{texts}</tr>")
    return wide_table(heads, rows)


def _findings(report: Report, level: str) -> str:
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        if finding.level == level:
            by_kind[finding.kind].append(finding)
    if not by_kind:
        return ""
    parts = []
    for kind, findings in by_kind.items():
        items = "".join(_item(finding) for finding in findings[:SHOWN])
        more = f"<li>... and {len(findings) - SHOWN} more</li>" if len(findings) > SHOWN else ""
        opened = " open" if level != NOTE else ""
        title = f"{as_html(kind.capitalize())} ({len(findings)})"
        parts.append(f'<details class="card found"{opened}><summary>{title}</summary><ul>{items}{more}</ul></details>')
    return section(WORDS[level], "\n".join(parts))


def _item(finding: Finding) -> str:
    advice = f' <span class="soft">{as_html(finding.advice)}</span>' if finding.advice else ""
    thumbs = "".join(_thumbnail(path) for path in finding.images[:4]) if finding.kind != "unreadable image" else ""
    return (
        f"<li><code>{as_html(finding.where)}</code> {as_html(finding.message)}{advice}"
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


def _plots(report: Report) -> dict[str, Callable[[Shades], Figure]]:
    """Answers of each split, sizes of the images, lengths of the texts; what does not apply is left out."""
    draw: dict[str, Callable[..., Figure | None]] = {
        "How often each answer is given": answer_plot,
        "How large the images are": size_plot,
        "How long the texts are": length_plot,
    }
    drawn = {name: one for name, one in draw.items() if one(report) is not None}
    return {name: partial(one, report) for name, one in drawn.items()}  # type: ignore[misc]


def answer_plot(report: Report, shades: Shades = LIGHT) -> Figure | None:
    """Share of each answer in each split, the most frequent ones."""
    counts = {name: counter for name, counter in answers_of(report).items() if counter}
    total = sum(counts.values(), start=Counter())
    if not total or len(total) > max(2, sum(total.values()) // 2):
        return None
    names = [answer for answer, _ in total.most_common(40)]
    figure, axes = axes_of(shades, 1.0 + 0.25 * len(names) * max(1, len(counts) / 2))
    height = 0.8 / len(counts)
    for number, (split, counter) in enumerate(counts.items()):
        places = [place + number * height for place in range(len(names))]
        shares = [100 * counter[name] / sum(counter.values()) for name in names]
        bars = axes.barh(places, shares, height, label=_drawable([split])[0], color=_colour(number, shades))
        axes.bar_label(bars, [str(counter[name]) for name in names], fontsize=7, padding=2, color=shades.ink)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], _drawable(names))
    axes.set_ylim(len(names) - 0.1, -0.5)
    axes.margins(x=0.1)
    axes.grid(visible=False)
    name_axes(axes, shades, "% of the split (rows at the bars)", "")
    _key(axes, shades, len(counts))
    return figure


def _colour(number: int, shades: Shades) -> str:
    return (shades.accent, "#d1873c", shades.muted, "#8b6bb1")[number % 4]


def _key(axes: Axes, shades: Shades, entries: int) -> None:
    if entries > 1:
        axes.figure.legend(frameon=False, fontsize=9, labelcolor=shades.ink, loc="outside upper right", ncols=entries)


def _drawable(texts: Sequence[str]) -> list[str]:
    """Labels that matplotlib takes literally: short, and without its own mark for formulas."""
    shortened = [visible(text if len(text) <= 30 else text[:29] + "…") for text in texts]
    return [text.replace("$", r"\$").replace("\n", " ") for text in shortened]


def size_plot(report: Report, shades: Shades = LIGHT) -> Figure | None:
    """Width and height of each image, from 0 on, so that what looks small is."""
    prints = [one for one in report.prints.values() if isinstance(one, Fingerprint)]
    if not prints:
        return None
    figure, axes = axes_of(shades, 3.4)
    widths, heights = [one.width for one in prints], [one.height for one in prints]
    axes.scatter(widths, heights, s=14, alpha=0.5, color=shades.accent, linewidths=0, clip_on=False)
    axes.axvline(224, color=shades.muted, linewidth=0.8)
    axes.axhline(224, color=shades.muted, linewidth=0.8)
    axes.set_xlim(0, 1.06 * max(224, *widths))
    axes.set_ylim(0, 1.06 * max(224, *heights))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    name_axes(axes, shades, f"width of {len(prints)} images in pixels (lines at 224)", "height")
    return figure


def length_plot(report: Report, shades: Shades = LIGHT) -> Figure | None:
    """Rows by the length of their text: a bar a length where there are few, and whole numbers on both axes."""
    lengths = {name: lengths for name, lengths in report.lengths.items() if lengths}
    if not lengths:
        return None
    figure, axes = axes_of(shades, 2.8)
    low, high = min(map(min, lengths.values())), max(map(max, lengths.values()))
    step = max(1, math.ceil((high - low + 1) / MOST_COLUMNS))
    edges = np.arange(low, high + step + 1, step) - 0.5
    colours = [_colour(n, shades) for n in range(len(lengths))]
    axes.hist(list(lengths.values()), bins=edges.tolist(), label=_drawable(list(lengths)), color=colours)
    middle, half = (edges[0] + edges[-1]) / 2, max(edges[-1] - edges[0], 6) / 2  # one length alone is a bar, not a wall
    axes.set_xlim(middle - half, middle + half)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True))
    name_axes(axes, shades, f"{'tokens' if report.in_tokens else 'characters'} of prompt and answer", "rows")
    _key(axes, shades, len(lengths))
    return figure
