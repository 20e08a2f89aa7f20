"""The report's pictures: the wrong ones first, the surest mistakes or the least alike texts before the others."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from rolltune.data.boxes import Box, in_words, read
from rolltune.errors import UserError, as_html
from rolltune.evaluation import boxes
from rolltune.evaluation.doubtful import Doubt
from rolltune.evaluation.figures import Scored
from rolltune.evaluation.metrics import Prediction, rounded
from rolltune.evaluation.written import Written, alternatives, is_exact, similarity

SIDE = 320  # pixels of a thumbnail's longer side: 200 on the page, twice that on a phone
MOST_VIEWS = 4
BOX_KEY = (
    '<div class="key"><span class="box given"><i></i>given box</span>'
    '<span class="box answered"><i></i>answered box</span></div>'
)
MOST_PIXELS = 60_000_000  # a thumbnail is not worth more memory than this


@dataclass(frozen=True)
class Picture:
    """One scored row. `right` is the right answer, or the accepted ones; `given` is what the model answered.

    `goodness` orders pictures, the worst first. `how` says in figures how sure or how near the answer is.
    """

    id: str
    split: str
    images: tuple[Path, ...]
    prompt: str
    right: str
    given: str
    is_wrong: bool
    goodness: tuple[float, ...]
    how: str
    boxes: "Drawn | None" = None


class Drawn(NamedTuple):
    """What is drawn over a picture: the given boxes, and the answered ones."""

    right: tuple[Box, ...]
    given: tuple[Box, ...]


def pictures(
    scored: Scored, images: Mapping[str, Sequence[Path]], split: str, prompts: Mapping[str, str] | None = None
) -> list[Picture]:
    """Scored rows as pictures; `images` and `prompts` by id. None where no answers were written."""
    rows = range(len(scored.ids))
    if isinstance(scored, Prediction):
        judged = [_judged_choice(scored, row) for row in rows]
    else:
        judge = _judged_boxes if boxes.are_boxes(scored.accepted) else _judged_text
        judged = [judge(scored, row) for row in rows] if scored.texts is not None else []
    return [
        Picture(id, split, tuple(images.get(id, ())), (prompts or {}).get(id, ""), *one)
        for id, one in zip(scored.ids, judged, strict=False)
    ]


class Judged(NamedTuple):
    """The last fields of a Picture."""

    right: str
    given: str
    is_wrong: bool
    goodness: tuple[float, ...]
    how: str
    boxes: Drawn | None = None


def _judged_choice(prediction: Prediction, row: int) -> Judged:
    """Good is a likely right answer: the surest mistakes come first."""
    log_probs = prediction.log_probs[row].astype(np.float64)
    label, chosen = int(prediction.label[row]), int(prediction.predicted[row])
    right, given = prediction.answers[label], prediction.answers[chosen]
    chance = float(np.exp(log_probs[label]))
    how = f"{right} {chance:.0%}"
    if chosen != label:
        how = f"{given} {float(np.exp(log_probs[chosen])):.0%}, {how}"
    return Judged(right, given, chosen != label, (chance,), how)


def _judged_text(written: Written, row: int) -> Judged:
    """Good is a text like an accepted one, and among equals a likely accepted answer."""
    assert written.texts is not None
    text, accepted, log_prob = written.texts[row], written.accepted[row], float(written.log_probs[row])
    alike = similarity(text, accepted)
    how = f"ANLS {rounded(alike)}, log-loss of the best accepted answer {rounded(-log_prob)}"
    return Judged(alternatives(accepted), repr(text), not is_exact(text, accepted), (alike, log_prob), how)


def _judged_boxes(written: Written, row: int) -> Judged:
    """Good are boxes that lie on the given ones."""
    assert written.texts is not None
    text, accepted, log_prob = written.texts[row], written.accepted[row], float(written.log_probs[row])
    laid, wrong = boxes.overlap(text, accepted), not boxes.all_found(text, accepted)
    given, right = read(text), read(max(accepted, key=lambda one: boxes.overlap(text, [one])))
    how = f"IoU {rounded(laid)}, log-loss of the best accepted answer {rounded(-log_prob)}"
    said, wanted = in_words(given), in_words(right)
    if wrong and said == wanted:  # all of them, but not where they are
        said = f"{said} elsewhere"
    return Judged(wanted, said, wrong, (laid, log_prob), how, Drawn(right.boxes, given.boxes))


def doubtful_picture(doubt: Doubt) -> Picture:
    """A row whose label is doubted; the most doubted stand first."""
    chance = lambda answer: f"{answer} {doubt.probabilities[answer]:.0%}"
    agree = f"; {doubt.agree} of {doubt.rolls} rolls agree with the label" if doubt.rolls > 1 else ""
    how = f"{chance(doubt.given)}, {chance(doubt.instead)}{agree}"
    label = f"{doubt.given} (the label)"
    return Picture(
        doubt.id, doubt.source, doubt.images, doubt.prompt, label, doubt.instead, True, (float(doubt.rank),), how
    )


def wrong_first(found: Sequence[Picture]) -> list[Picture]:
    """The worst of the wrong ones first; then the right ones, the worst first; equals by split and id."""
    return sorted(found, key=lambda p: (not p.is_wrong, p.goodness, p.split, p.id))


def picture_cards(found: Sequence[Picture], most: int, open_image: Callable[[Path], Image.Image]) -> str:
    """At most `most` pictures, wrong ones first, as HTML; says how many are left out."""
    ordered = wrong_first(found)
    cards = "".join(_card(picture, open_image) for picture in ordered[:most])
    left = ordered[most:]
    more = ""
    if left:
        wrong = sum(picture.is_wrong for picture in left)
        more = f'<p class="soft">{len(left)} more pictures are not shown ({wrong} of them wrong).</p>'
    key = BOX_KEY if any(picture.boxes for picture in ordered[:most]) else ""
    return f'{key}<div class="pictures">{cards}</div>{more}'


def _card(picture: Picture, open_image: Callable[[Path], Image.Image]) -> str:
    drawn = picture.boxes if len(picture.images) == 1 else None  # of several, nobody knows on which
    views = [_view(path, open_image, drawn) for path in picture.images[:MOST_VIEWS]]
    shown = "".join(views) or "<p>no picture in this row</p>"
    extra = f" (+{len(picture.images) - MOST_VIEWS} more)" if len(picture.images) > MOST_VIEWS else ""
    files = [path.name for path in picture.images[:MOST_VIEWS] if path.name not in picture.id]
    names = as_html("".join(f", {name}" for name in files)) + extra
    instead = f"{picture.given} instead of {picture.right}"
    verdict = as_html(instead if picture.is_wrong else f"{picture.given} ✓")
    prompt = f"<small>{as_html(picture.prompt)}</small>" if picture.prompt else ""
    return (
        f'<figure class="{"wrong" if picture.is_wrong else "right"}"><div class="views">{shown}</div><figcaption>'
        f'<div class="verdict">{verdict}</div><small>{as_html(picture.how)}</small>{prompt}'
        f"<small>{as_html(picture.split)}: {as_html(picture.id)}{names}</small></figcaption></figure>"
    )


def _view(path: Path, open_image: Callable[[Path], Image.Image], drawn: Drawn | None = None) -> str:
    try:
        data, size = _thumbnail(open_image(path))
    except (OSError, ValueError, SyntaxError, EOFError, UserError, Image.DecompressionBombError) as problem:
        # The figures stand without the thumbnail; the card says what is wrong with the file. The
        # system's own words come without the path: a report is passed on.
        reason = getattr(problem, "strerror", None) or str(problem)
        return f"<p>{as_html(path.name)} cannot be shown: {as_html(reason)}</p>"
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    if drawn is None:
        return f'<img alt="{as_html(path.name)}" src="{source}">'
    width, height = size
    inside = [_outline(box, width, height, "given") for box in drawn.right]
    inside += [_outline(box, width, height, "answered") for box in drawn.given]
    return (
        f'<svg role="img" aria-label="{as_html(path.name)}" viewBox="0 0 {width} {height}">'
        f'<image href="{source}" width="{width}" height="{height}"/>{"".join(inside)}</svg>'
    )


def _outline(box: Box, width: int, height: int, kind: str) -> str:
    x, y = box.left * width, box.top * height
    sides = f'width="{(box.right - box.left) * width:.1f}" height="{(box.bottom - box.top) * height:.1f}"'
    # The given one's name stands inside its upper edge, the answered one's inside its lower: they often overlap.
    line = y + 15 if kind == "given" else box.bottom * height - 5
    name = f'<text class="{kind}" x="{x + 4:.1f}" y="{line:.1f}">{as_html(box.label)}</text>' if box.label else ""
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {sides}/>{name}'


def _thumbnail(image: Image.Image) -> tuple[bytes, tuple[int, int]]:
    """JPEG, and its size (width, height)."""
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    file = io.BytesIO()
    image.convert("RGB").save(file, format="JPEG", quality=82)
    return file.getvalue(), image.size


def open_plainly(path: Path) -> Image.Image:
    """Opens a picture upright, small where the format can (JPEG); the first frame of an animation.

    A run passes the reader that it trained with instead, so that the report shows what the model saw.
    """
    image = Image.open(path)
    if image.format == "JPEG":
        image.draft("RGB", (SIDE, SIDE))
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels")
    image.load()
    return ImageOps.exif_transpose(image)
