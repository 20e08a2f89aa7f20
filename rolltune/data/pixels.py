"""Pixels of every mode that Pillow decodes, as 8-bit RGB."""

import numpy as np
from PIL import Image


def rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """A decoded picture of any mode as 8-bit RGB, what is transparent laid over `background`."""
    mode = image.mode
    if mode in ("F", "I") or mode.startswith("I;16"):
        return _grey_to_rgb(image, background)
    if mode == "LAB":
        from PIL import ImageCms  # not in every build of Pillow, and needed by few pictures

        converted = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert converted is not None  # it is where the conversion is in place
        return converted
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        over = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, "RGBA")).convert("RGBA")
        picture = Image.new("RGB", over.size, background)
        picture.paste(over, mask=over.getchannel("A"))
        return picture
    # A copy, so that what is returned outlives the file.
    return image.copy() if mode == "RGB" else image.convert("RGB")


def _grey_to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    values = np.asarray(image)
    if image.mode != "F" and values.min() >= 0 and values.max() <= 65535:
        white = next(white for white in (255, 1023, 4095, 16383, 65535) if values.max() <= white)
        # A table, because as floating-point numbers a large picture would take a gigabyte.
        table = np.rint(np.arange(white + 1, dtype=np.float64) * (255 / white)).astype(np.uint8)
        grey = table[values]
    else:
        levels = np.nan_to_num(values.astype(np.float32), copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(levels.min()), float(levels.max())
        levels -= low
        levels *= 255 / (high - low) if high > low else 0.0
        grey = np.rint(levels, out=levels).astype(np.uint8)
    picture = Image.fromarray(grey).convert("RGB")
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        picture.paste(background, mask=Image.fromarray(values == clear))
    return picture
