"""The report's pictures: the wrong ones first, the surest mistakes before the others."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rolltune.errors import UserError
from rolltune.evaluation.metrics import Prediction

SIDE = 320  # pixels of a thumbnail's longer side: 200 on the page, twice that on a phone
MOST_VIEWS = 4
MOST_PIXELS = 60_000_000  # a thumbnail is not worth more memory than this


@dataclass(frozen=True)
class Picture:
    """One scored row. `probability` is the predicted answer's, `right_probability` the right one's."""

    id: str
    split: str
    images: tuple[Path, ...]
    prompt: str
    right: str
    predicted: str
    probability: float
    right_probability: float

    @property
    def is_wrong(self) -> bool:
        return self.right != self.predicted


def pictures(
    prediction: Prediction, images: Mapping[str, Sequence[Path]], split: str, prompts: Mapping[str, str] | None = None
) -> list[Picture]:
    """The rows of a prediction as pictures; `images` and `prompts` by id."""
    chosen, probs = prediction.predicted, np.exp(prediction.log_probs.astype(np.float64))
    return [
        Picture(
            id=id,
            split=split,
            images=tuple(images.get(id, ())),
            prompt=(prompts or {}).get(id, ""),
            right=prediction.answers[prediction.label[row]],
            predicted=prediction.answers[chosen[row]],
            probability=float(probs[row, chosen[row]]),
            right_probability=float(probs[row, prediction.label[row]]),
        )
        for row, id in enumerate(prediction.ids)
    ]


def wrong_first(found: Sequence[Picture]) -> list[Picture]:
    """Surest mistakes first; then the right ones, the least sure first; equals by split and id."""
    return sorted(found, key=lambda p: (not p.is_wrong, p.right_probability, p.split, p.id))


def picture_cards(found: Sequence[Picture], most: int, open_image: Callable[[Path], Image.Image]) -> str:
    """At most `most` pictures, wrong ones first, as HTML; says how many are left out."""
    ordered = wrong_first(found)
    cards = "".join(_card(picture, open_image) for picture in ordered[:most])
    left = ordered[most:]
    more = ""
    if left:
        wrong = sum(picture.is_wrong for picture in left)
        more = f'<p class="soft">{len(left)} more pictures are not shown ({wrong} of them wrong).</p>'
    return f'<div class="pictures">{cards}</div>{more}'


def _card(picture: Picture, open_image: Callable[[Path], Image.Image]) -> str:
    views = "".join(_view(path, open_image) for path in picture.images[:MOST_VIEWS]) or "<p>no picture in this row</p>"
    extra = f" (+{len(picture.images) - MOST_VIEWS} more)" if len(picture.images) > MOST_VIEWS else ""
    if picture.is_wrong:
        verdict = f"{escape(picture.predicted)} instead of {escape(picture.right)}"
        chance = f"{picture.predicted} {picture.probability:.0%}, {picture.right} {picture.right_probability:.0%}"
    else:
        verdict, chance = f"{escape(picture.right)} ✓", f"{picture.right} {picture.probability:.0%}"
    prompt = f"<small>{escape(picture.prompt)}</small>" if picture.prompt else ""
    return (
        f'<figure class="{"wrong" if picture.is_wrong else "right"}"><div class="views">{views}</div><figcaption>'
        f'<div class="verdict">{verdict}</div><small>{escape(chance)}</small>{prompt}'
        f"<small>{escape(picture.split)}: {escape(picture.id)}{extra}</small></figcaption></figure>"
    )


def _view(path: Path, open_image: Callable[[Path], Image.Image]) -> str:
    try:
        data = _thumbnail(open_image(path))
    except (OSError, ValueError, SyntaxError, EOFError, UserError, Image.DecompressionBombError) as problem:
        # The figures stand without the thumbnail; the card says what is wrong with the file. The
        # system's own words come without the path: a report is passed on.
        reason = getattr(problem, "strerror", None) or str(problem)
        return f"<p>{escape(path.name)} cannot be shown: {escape(reason)}</p>"
    return f'<img alt="{escape(path.name)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'


def _thumbnail(image: Image.Image) -> bytes:
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    file = io.BytesIO()
    image.convert("RGB").save(file, format="JPEG", quality=82)
    return file.getvalue()


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
