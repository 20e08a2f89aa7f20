"""The pages in a browser, on a desk and on a phone: nothing is cut off, no name is set a letter a line."""

import html as escaping
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from made_predictions import texts

from rolltune.data.doctor import examine
from rolltune.data.doctor_page import page as doctor_page
from rolltune.evaluation import leaderboard
from rolltune.evaluation.figures import measured
from rolltune.evaluation.leaderboard import Entry
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.report import RunSummary, html
from rolltune.evaluation.report_pictures import pictures
from rolltune.evaluation.report_tables import SplitResult

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
WIDTHS = (1280, 390)
PLANTS = ("Tomato Septoria leaf spot", "Squash Powdery mildew leaf", "Bell_pepper leaf spot", "grape leaf black rot")
# What lies past the edge of the page outside of what scrolls, and text in a column too narrow for three letters.
LOOK = """
window.onload = () => { const wrong = {};
  for (const frame of document.querySelectorAll('iframe')) { const found = [], page = frame.contentDocument;
    const width = page.documentElement.clientWidth, scrolls = (e) => e && (getComputedStyle(e).overflowX === 'auto'
      || scrolls(e.parentElement));
    if (page.documentElement.scrollWidth > width) found.push('the page is wider: ' + page.documentElement.scrollWidth);
    for (const e of page.querySelectorAll('body *')) { const box = e.getBoundingClientRect();
      const style = getComputedStyle(e);
      if (box.width && box.right > width + 1 && !scrolls(e.parentElement)) found.push('cut: ' + e.outerHTML);
      if (!e.children.length && e.textContent.trim().length > 3 && box.width && box.width < 40 && box.height > 60
        && style.writingMode === 'horizontal-tb') found.push('a letter a line: ' + e.outerHTML); }
    wrong[frame.title] = found.slice(0, 5).map((one) => one.slice(0, 200)); }
  document.body.innerHTML = ''; document.body.textContent = JSON.stringify(wrong); };
"""

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium is here to look at the pages with")


def seen(tmp_path, pages):
    """What is wrong with each page at each width, by its name."""
    frames = "".join(
        f'<iframe title="{name} at {width}" width="{width}" height="900" srcdoc="{escaping.escape(page)}"></iframe>'
        for name, page in pages.items()
        for width in WIDTHS
    )
    (tmp_path / "all.html").write_text(f"<!doctype html><meta charset=utf-8><script>{LOOK}</script>{frames}")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom")
    command = [BROWSER, *flags, "--virtual-time-budget=20000", (tmp_path / "all.html").as_uri()]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = json.loads(escaping.unescape(re.search(r"<body>(\{.*\})</body>", out, re.S)[1]))
    assert len(found) == len(pages) * len(WIDTHS)
    return {name: problems for name, problems in found.items() if problems}


def report_of(answers, positive=None, n=60):
    draw = np.random.default_rng(3)
    label = draw.integers(0, len(answers), n)

    def scored(skill):
        logits = draw.normal(size=(n, len(answers)))
        logits[np.arange(n), label] += skill
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return Prediction(tuple(f"row{place}" for place in range(n)), tuple(answers), label, log_probs)

    before, after = scored(0.2), scored(2.0)
    rolls = [scored(1.5 + number / 4) for number in range(4)]
    entries = [
        Entry(r, r, 0.01 / (r + 1), valid=measured(one, positive), prediction=one) for r, one in enumerate(rolls)
    ]
    split = SplitResult("./dataset/set1/valid.jsonl", "valid", measured(before, positive), measured(after, positive))
    run = RunSummary(
        "best-set1",
        prompt="Name the plant and its disease, if any.",
        answers=answers,
        splits=[split],
        leaderboard=leaderboard.rank(entries),
        scored=after,
        scored_split="./dataset/set1/valid.jsonl",
        pictures=pictures(after, {}, "valid"),
        command="./03-do_learn.py -d set1 -w best-set1 --rolls 4",
    )
    return html(run)


def test_pages_on_a_desk_and_on_a_phone(tmp_path):
    plants = [f"{PLANTS[number % 4]} {number}" for number in range(27)]
    long = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung"
    data = tmp_path / "train.jsonl"
    rows = [{"prefix": "Which?", "suffix": plants[number % 27]} for number in range(60)]
    data.write_text("".join(json.dumps({**row, "id": f"row {number}"}) + "\n" for number, row in enumerate(rows)))
    box = "<loc0000><loc0000><loc1023><loc0512> cat"
    written = texts([box, "none" * 40, long], [(box,)] * 3)
    split = SplitResult("valid.jsonl", "valid", None, measured(written))
    pages = {
        "two": report_of(("no", "yes"), "yes"),
        "ten": report_of(plants[:10]),
        "plants": report_of(plants),
        "long": report_of((long, "<td>\x1b[31m", "\u202eb")),
        "boxes": html(RunSummary("boxes", splits=[split], pictures=pictures(written, {}, "valid"))),
        "doctor": doctor_page(examine({"train": data}), str(data)),
    }
    assert not seen(tmp_path, pages)
    wide = '<table><tr><td style="white-space: nowrap">a table that does not scroll is told of</td></tr></table>' * 2
    broken = pages["two"].replace("<main>", f'<main><div style="width: 2000px">{wide}</div>')
    narrow = '<p style="width: 9px; overflow-wrap: anywhere">letters</p>'
    problems = seen(tmp_path, {"broken": broken, "narrow": pages["doctor"].replace("<main>", f"<main>{narrow}")})
    assert "the page is wider" in problems["broken at 390"][0] and "a letter a line" in problems["narrow at 1280"][0]
