"""The sample data set: 96 drawn advertisements, and whether each complies with the law of a made-up country.

That law: an advertisement with a claim (No.1, CURES, 100%, ...) must carry small print in a box. Offers (NEW,
SALE, -20%, ...) need none, and small print does no harm. So neither the badge nor the box alone gives the
answer, and nothing else in the picture (product, colours, layout, kind of file) has to do with it.
"""

import argparse
import io
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from rolltune import atomic

from .drawing import COLOURS, OUTLINES, Pen
from .layouts import BADGES, BUTTONS, NOTES, SLOGANS, Ad, Badge, draw_ad
from .words import price

PROMPT = "Does this advertisement comply with the law?"
CLAIMS = ("No.1", "CURES", "HEALS", "100%", "MIRACLE", "BEST")
OFFERS = ("NEW", "SALE", "-20%", "FRESH", "GIFT", "TRY ME")
HEADLINES = {
    "tube": ("PURE SKIN", "Silk Cream", "SUN CARE"),
    "pills": ("VITA PLUS", "Daily Iron", "SLEEP WELL"),
    "jar": ("Royal Honey", "GLOW BALM", "Herb Jelly"),
    "bottle": ("GREEN TONIC", "Lemon Water", "HAIR OIL"),
    "cup": ("SLIM TEA", "Calm Coffee", "MORNING CUP"),
    "shoe": ("EASY WALK", "Cloud Run", "SPORT STEP"),
    "apple": ("FARM FRUIT", "Sweet Apple", "GOOD SNACK"),
    "leaf": ("MOUNTAIN HERB", "Wild Mint", "GREEN LEAF"),
    "fish": ("OCEAN OIL", "Smart Fish", "DEEP SEA"),
    "lamp": ("WARM LIGHT", "Soft Lamp", "HOME GLOW"),
    "salad": ("FIT LUNCH", "Garden Bowl", "LIGHT MEAL"),
    "carrot": ("EYE CARE", "Root Juice", "FRESH BOX"),
}
# How many advertisements of each kind: (what the badge says, small print?) -> count. None is no badge.
LAWFUL = {("claim", True): 20, ("offer", True): 9, ("offer", False): 17, (None, True): 4, (None, False): 4}
UNLAWFUL = {("claim", False): 42}
GIFS = 6


@dataclass(frozen=True)
class Sample:
    """One advertisement of the set, before it is drawn."""

    ad: Ad
    lawful: bool
    size: tuple[int, int]
    format: str  # png, jpg or gif


def complies(ad: Ad) -> bool:
    """The law."""
    return ad.badge is None or ad.badge.text not in CLAIMS or ad.note is not None


def samples(seed: int) -> list[Sample]:
    """The 96 descriptions in their final order. Products, texts and formats are dealt alike to both answers."""
    rng = random.Random(seed)
    kinds = [kind for table in (LAWFUL, UNLAWFUL) for kind, count in table.items() for _ in range(count)]
    rng.shuffle(kinds)
    texts: dict[str | None, list] = {None: [None], "claim": list(CLAIMS), "offer": list(OFFERS)}
    turn = dict.fromkeys(kinds, 0)
    formats = ["gif"] * GIFS + ["jpg", "png"] * ((len(kinds) - GIFS) // 2)
    rng.shuffle(formats)
    out = []
    for (badge, note), form in zip(kinds, formats, strict=True):
        product = rng.choice(list(HEADLINES))
        text = texts[badge][turn[badge, note] % len(texts[badge])]
        turn[badge, note] += 1
        ad = Ad(
            product=product,
            headline=rng.choice(HEADLINES[product]),
            price=price(rng) if rng.random() < 0.5 else None,
            badge=None if text is None else Badge(rng.choice(BADGES), text, rng.choice(list(COLOURS))),
            note=rng.choice(NOTES) if note else None,
            button=rng.choice(BUTTONS) if rng.random() < 0.5 else None,
            slogan=rng.choice(SLOGANS) if rng.random() < 0.5 else None,
        )
        size = rng.choice(((360, 360), (360, 360), (420, 340), (340, 420)))
        out.append(Sample(ad, complies(ad), size, form))
    return out


def picture(sample: Sample, seed: int) -> bytes:
    """The file's bytes. A GIF twinkles: its frames differ by a few stars, never in what counts."""
    scale = 2 if sample.format != "gif" else 1  # drawn larger and averaged down: smooth edges
    wide, high = (side * scale for side in sample.size)
    image = draw_ad(random.Random(seed), sample.ad, wide, high).resize(sample.size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if sample.format == "jpg":
        image.save(file, "JPEG", quality=88)
    elif sample.format == "png":
        image.save(file, "PNG", optimize=True)
    else:
        frames = []
        for number in range(4):
            frame, rng = image.copy(), random.Random(seed + number)
            draw = ImageDraw.Draw(frame)
            for _ in range(6):
                x, y, r = rng.uniform(0, frame.width), rng.uniform(0, frame.height), rng.uniform(3, 7)
                Pen(draw, x, y, r).area(OUTLINES["star"], (255, 250, 200))
            frames.append(frame.quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=250, loop=0)
    return file.getvalue()


def write_sample_ads(folder: Path | str, seed: int = 0) -> Path:
    """Writes images/ and data.jsonl into the folder, and returns the path of data.jsonl, which is written last:
    where it is, the pictures are whole."""
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, sample in enumerate(samples(seed), 1):
        name = f"images/{'OK' if sample.lawful else 'NG'}_image{number:03}.{sample.format}"
        (folder / name).write_bytes(picture(sample, seed * 1000 + number))
        rows.append({"prefix": PROMPT, "suffix": "yes" if sample.lawful else "no", "image": name})
    atomic.write_text(folder / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data.jsonl"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rolltune.tiny.ads",
        description="Writes the sample data set: 96 drawn advertisements and data.jsonl.",
        epilog="example: python -m rolltune.tiny.ads playground/dataset",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other advertisements (%(default)s)")
    args = parser.parse_args(argv)
    print(f"wrote 96 advertisements: {write_sample_ads(args.folder, args.seed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
