"""Grounds that things stand on, and what a camera does to a picture."""

import io
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .drawing import COLOURS, Colour, blend, jitter, lighter, luminance

TEXTURES = ("wood", "grass", "brick", "sky", "cloth", "sand", "marble", "water", "metal", "tiles", "leaves", "paper")
PATTERNS = ("plain", "gradient", "striped", "checked", "dotted", "cloudy", "noisy")


def generator(rng: random.Random) -> np.random.Generator:
    """A NumPy generator that follows from `rng` (for whole arrays of random numbers)."""
    return np.random.Generator(np.random.SFC64(rng.getrandbits(63)))


def clouds(rng: random.Random, side: int, across: int, down: int, octaves: int = 3) -> np.ndarray:
    """Smooth noise in about -1..1, float32 [side, side]: random grids of rising fineness, enlarged and summed."""
    random_numbers = generator(rng)
    total = np.zeros((side, side), np.float32)
    height = 1.0
    for _ in range(octaves):
        grid = random_numbers.uniform(-1, 1, (min(down, side), min(across, side))).astype(np.float32)
        total += height * np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC))
        across, down, height = across * 2, down * 2, height * 0.55
    return total / 1.4


def from_mix(mix: np.ndarray, a: Colour, b: Colour) -> Image.Image:
    """Colours between a (0) and b (1) by a map of parts."""
    part = np.clip(mix, 0, 1)[..., None]
    return Image.fromarray((np.asarray(a, np.float32) * (1 - part) + np.asarray(b, np.float32) * part).astype(np.uint8))


def grid(side: int, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates 0..1 along and across a direction, float32 [side, side]."""
    line = np.arange(side, dtype=np.float32) / side
    c, s = math.cos(turn), math.sin(turn)
    return c * line[None, :] + s * line[:, None], c * line[:, None] - s * line[None, :]


def pattern(rng: random.Random, kind: str, a: Colour, b: Colour, side: int) -> Image.Image:
    """One of PATTERNS in two colours."""
    if kind == "plain":
        return Image.new("RGB", (side, side), a)
    along, across = grid(side, rng.uniform(0, math.tau))
    if kind == "gradient":
        if rng.random() < 0.3:
            return from_mix(np.hypot(along - rng.uniform(0, 0.7), across - rng.uniform(0, 0.7)) * 1.3, a, b)
        return from_mix((along - along.min()) / (np.ptp(along) + 1e-6), a, b)
    period = rng.uniform(4, 14)
    if kind == "striped":
        return from_mix((np.sin(along * math.tau * period) > rng.uniform(-0.4, 0.4)).astype(np.float32), a, b)
    if kind == "checked":
        return from_mix(
            ((np.sin(along * math.pi * period) * np.sin(across * math.pi * period)) > 0).astype(np.float32), a, b
        )
    if kind == "dotted":
        waves = np.cos(along * math.tau * period) + np.cos(across * math.tau * period)
        return from_mix((waves > rng.uniform(0.5, 1.2)).astype(np.float32), a, b)
    if kind == "cloudy":
        cells = rng.randint(2, 6)
        return from_mix(0.5 + 0.7 * clouds(rng, side, cells, cells, 3), a, b)
    noise = generator(rng).random((side, side), np.float32)
    return from_mix(noise * 0.9, a, b)


def _wood(rng: random.Random, side: int) -> np.ndarray:
    base = np.asarray(
        jitter(rng, rng.choice([(150, 100, 60), (100, 62, 36), (196, 152, 104), (60, 40, 28)]), 15), np.float32
    )
    fine = clouds(rng, side, 2, rng.randint(20, 40), 2)
    rings = np.sin((grid(side, math.pi / 2)[0] * rng.uniform(4, 10) + 0.35 * clouds(rng, side, 2, 4, 2)) * math.tau)
    shade = 1 + 0.16 * fine + 0.1 * rings
    planks = rng.choice([0, 0, 3, 5])
    if planks:
        board = np.arange(side) * planks // side
        shade[np.flatnonzero(board != np.roll(board, 2))] *= 0.5
    out = base * shade[..., None]
    return out.transpose(1, 0, 2) if rng.random() < 0.5 else out


def _strands(
    rng: random.Random, side: int, colours: list[Colour], count: int, length: float, upright: bool
) -> np.ndarray:
    image = Image.new("RGB", (side, side), lighter(colours[0], -0.5))
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        x, y = rng.uniform(0, side), rng.uniform(0, side * 1.1)
        a = -math.pi / 2 + rng.gauss(0, 0.35) if upright else rng.uniform(0, math.tau)
        r = side * length * rng.uniform(0.5, 1.2)
        shade = lighter(jitter(rng, rng.choice(colours), 15), rng.uniform(-0.35, 0.25))
        draw.line((x, y, x + r * math.cos(a), y + r * math.sin(a)), fill=shade, width=rng.choice((1, 2, 2, 3)))
    return np.asarray(image, np.float32)


def _leaves(rng: random.Random, side: int) -> np.ndarray:
    """Overlapping ovals of many sizes: the "dead leaves" picture, whose statistics resemble those of photographs."""
    colours = [jitter(rng, rng.choice([*COLOURS.values(), (90, 120, 50), (70, 90, 40)]), 40) for _ in range(4)]
    image = Image.new("RGB", (side, side), colours[0])
    draw = ImageDraw.Draw(image)
    for _ in range(70):
        r = side * min(0.3, 0.03 / max(0.05, rng.random()) ** 0.9)
        x, y = rng.uniform(0, side), rng.uniform(0, side)
        shade = lighter(jitter(rng, rng.choice(colours), 20), rng.uniform(-0.3, 0.3))
        draw.ellipse((x - r, y - r * rng.uniform(0.4, 1), x + r, y + r * rng.uniform(0.4, 1)), fill=shade)
    return np.asarray(image, np.float32)


def _bricks(rng: random.Random, side: int, tiles: bool) -> np.ndarray:
    base = jitter(rng, (215, 215, 205) if tiles else rng.choice([(165, 75, 55), (140, 90, 70), (190, 110, 80)]), 18)
    if tiles and rng.random() < 0.5:
        base = jitter(rng, rng.choice(list(COLOURS.values())), 20)
    image = Image.new("RGB", (side, side), lighter(base, rng.choice((-0.5, 0.5))))
    draw = ImageDraw.Draw(image)
    high = side / rng.randint(4, 9)
    wide = high if tiles else high * 2.2
    for row in range(int(side / high) + 1):
        shift = 0 if tiles else (row % 2) * wide / 2
        for col in range(-1, int(side / wide) + 1):
            x, y = col * wide + shift, row * high
            draw.rectangle(
                (x + 1, y + 1, x + wide - 2, y + high - 2), fill=lighter(jitter(rng, base, 8), rng.uniform(-0.12, 0.1))
            )
    return np.asarray(image, np.float32)


def texture(rng: random.Random, kind: str, side: int) -> Image.Image:
    """One of TEXTURES, drawn at `side` and coarse as well as fine."""
    if kind == "wood":
        out = _wood(rng, side)
    elif kind == "grass":
        out = _strands(rng, side, [(70, 130, 50), (50, 110, 40), (110, 150, 60)], 230, 0.16, True)
    elif kind == "brick":
        out = _bricks(rng, side, False)
    elif kind == "tiles":
        out = _bricks(rng, side, True)
    elif kind == "leaves":
        out = _leaves(rng, side)
    elif kind == "sky":
        down = grid(side, math.pi / 2)[0]
        blue = np.asarray(jitter(rng, rng.choice([(90, 150, 230), (60, 110, 200), (240, 170, 120)]), 20), np.float32)
        white = np.clip(1.2 * clouds(rng, side, 2, 4, 4), 0, 1)[..., None]
        out = (blue * (0.8 + 0.4 * down[..., None])) * (1 - white) + 245 * white
    elif kind == "cloth":
        along, across = grid(side, rng.choice((0, math.pi / 4)))
        n = rng.uniform(8, 24)
        a = np.asarray(jitter(rng, rng.choice(list(COLOURS.values())), 25), np.float32)
        b = np.asarray(rng.choice([(245, 245, 245), a * 0.6]), np.float32)
        mix = (
            0.5
            * ((np.sin(along * n * math.tau) > 0).astype(np.float32) + (np.sin(across * n * math.tau) > 0))[..., None]
        )
        out = (a * (1 - mix) + b * mix) * (1 + 0.2 * clouds(rng, side, 3, 3, 2))[..., None]
    elif kind == "sand":
        base = np.asarray(jitter(rng, rng.choice([(214, 186, 140), (180, 150, 110), (150, 145, 140)]), 15), np.float32)
        grain = generator(rng).standard_normal((side, side), np.float32)
        out = base * (1 + 0.08 * grain + 0.1 * clouds(rng, side, 4, 4, 3))[..., None]
    elif kind == "marble":
        base = np.asarray(jitter(rng, rng.choice([(235, 232, 228), (60, 62, 66), (190, 205, 195)]), 10), np.float32)
        veins = np.abs(clouds(rng, side, 3, 3, 4)) < 0.07
        out = base * (1 + 0.08 * clouds(rng, side, 4, 4, 2) - 0.35 * veins)[..., None]
    elif kind == "water":
        base = np.asarray(jitter(rng, rng.choice([(40, 90, 130), (60, 120, 130), (70, 90, 100)]), 15), np.float32)
        out = base * (1 + 0.35 * clouds(rng, side, 4, 24, 3))[..., None]
    elif kind == "metal":
        base = np.asarray(jitter(rng, (150, 152, 158), 25), np.float32)
        folds = clouds(rng, side, rng.randint(3, 12), rng.randint(3, 12), 3)
        out = base * (1 + 0.75 * np.sign(folds) * np.abs(folds) ** 1.5)[..., None]
    else:  # paper
        base = np.asarray(jitter(rng, (238, 234, 224), 14), np.float32)
        out = base * (1 + 0.05 * clouds(rng, side, 3, 3, 5))[..., None]
    return Image.fromarray(np.clip(out, 0, 255).astype(np.uint8))


def ground(rng: random.Random, side: int, calm: bool = False) -> tuple[Image.Image, Colour]:
    """A random pattern or texture, and its mean colour. `calm` keeps contrasts low, so that print stays readable."""
    kind = rng.choice(PATTERNS)
    a = jitter(rng, rng.choice(list(COLOURS.values())), 25)
    b = blend(
        a, jitter(rng, rng.choice(list(COLOURS.values())), 25), rng.uniform(0.1, 0.35) if calm else rng.uniform(0.3, 1)
    )
    if rng.random() < 0.2:
        image = texture(rng, rng.choice(TEXTURES), side)
        if calm:
            image = Image.blend(image, Image.new("RGB", (side, side), a), 0.7)
    else:
        image = pattern(rng, kind, a, b, side)
    red, green, blue = image.resize((1, 1), Image.Resampling.BOX).tobytes()
    return image, (red, green, blue)


def photograph(rng: random.Random, image: Image.Image, strength: float = 1.0) -> Image.Image:
    """What light, lens, sensor and file format do: shading, gain, tint, blur, grain and JPEG blocks, each at times."""
    pixels = np.asarray(image, np.float32)
    side = pixels.shape[0]
    gain = 1 + strength * rng.uniform(-0.3, 0.25)
    tint = np.asarray([1 + strength * rng.uniform(-0.15, 0.15) for _ in range(3)], np.float32)
    if rng.random() < 0.6 * strength:
        along, _ = grid(side, rng.uniform(0, math.tau))
        light = 1 + strength * rng.uniform(0, 0.6) * (along - along.mean()) + 0.15 * clouds(rng, side, 2, 2, 1)
        pixels = pixels * light[..., None]
    pixels = pixels * (gain * tint)
    mean = float(luminance(tuple(pixels[::8, ::8].mean((0, 1)))))
    pixels = mean + (pixels - mean) * (1 + strength * rng.uniform(-0.35, 0.25))
    if rng.random() < 0.5 * strength:
        pixels = pixels + rng.uniform(2, 14) * generator(rng).standard_normal((side, side, 1), np.float32)
    out = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if rng.random() < 0.25 * strength:
        out = out.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0)))
    if rng.random() < 0.4 * strength:
        file = io.BytesIO()
        out.save(file, "JPEG", quality=rng.randint(25, 90))
        out = Image.open(file).convert("RGB")
    return out
