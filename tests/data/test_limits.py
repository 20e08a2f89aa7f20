"""What would take minutes is refused at once: the limits hold before decoding, whatever the file is made of."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rolltune.data import limits
from rolltune.data.images import frames_of, image_size, open_image
from rolltune.data.limits import gif_frames
from rolltune.errors import UserError


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, rows=b"", extra=b""):
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def gif(frames, width=9, height=9, between=b"", trailer=b";"):
    """Frames of (left, top, width, height), each of one pixel's data, and what stands before each."""
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    for place in frames:
        data += between + b"\x2c" + struct.pack("<HHHHB", *place, 0) + b"\x02\x02\x4c\x01\x00"
    return data + trailer


ENDLESS = {
    "junk.gif": gif([(0, 0, 1, 1)], trailer=b"") + bytes(500_000),
    "spread.gif": gif([(0, 0, 1, 1)] * 200, between=bytes(1000)),
    "texts.png": png(1, 1, b"\0\0", chunk(b"tEXt", b"a\0b") * 200_000),
    "tall.png": png(1, 60_000_000),
    "junk.jpg": b"\xff\xd8\xff\xe0\x00\x02" + bytes(2_000_000),
    "boxes.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08free" * 200_000,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_files_are_refused_by_what_is_wrong_with_them(name, tmp_path):
    (tmp_path / name).write_bytes(ENDLESS[name])
    with pytest.raises(UserError, match=rf"{name}: .*(junk between|millions of pieces|at most 100000 pixels)"):
        open_image(tmp_path / name)


def test_an_animation_has_its_limits_and_so_has_each_of_its_frames(tmp_path):
    (tmp_path / "many.gif").write_bytes(gif([(0, 0, 1, 1)] * 30, 6000, 6000))
    with pytest.raises(UserError, match="30 frames of 6000 x 6000 are more than an animation may have"):
        open_image(tmp_path / "many.gif", 0)
    with pytest.raises(UserError, match="30 frames of 6000 x 6000"):
        image_size(tmp_path / "many.gif", 0)
    # The header says 9 x 9; the second frame says otherwise.
    (tmp_path / "grows.gif").write_bytes(gif([(0, 0, 1, 1), (0, 0, 9000, 9000)]))
    assert open_image(tmp_path / "grows.gif", 0).size == (9, 9)
    for work in (open_image, image_size):
        with pytest.raises(UserError, match="9000 x 9000 pixels are more than the 64 million"):
            work(tmp_path / "grows.gif", 1)


def test_a_gif_is_walked_as_pillow_walks_it():
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    frames = [Image.effect_noise((30, 20), 50 + step) for step in range(6)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], comment=b"c" * 600, loop=0)
    original = buffer.getvalue()
    compared = 0
    for _ in range(300):
        data = bytearray(original)
        for place in rng.integers(13, len(data), 4):
            data[place] = rng.choice([0, 1, 0x21, 0x2C, 0x3B, 0xF9, 255])
        try:
            expected = Image.open(io.BytesIO(data)).n_frames
        except Exception:  # refused there: nothing to compare with
            continue
        assert len(gif_frames("x", bytes(data))) == expected
        compared += 1
    assert compared > 100


def test_a_gif_may_end_anywhere():
    whole = gif([(0, 0, 3, 4), (1, 2, 3, 4)], between=b"!\xfe\x02ab\x00")
    counts = [len(gif_frames("x", whole[:end])) for end in range(len(whole) + 1)]
    assert counts[-1] == 2 and counts == sorted(counts) and gif_frames("x", whole) == [(3, 4), (4, 6)]


def test_honest_files_are_far_from_the_limits(tmp_path, monkeypatch):
    frames = [Image.effect_noise((64, 48), 50 + step).convert("RGB") for step in range(40)]
    for name in ("a.gif", "a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    monkeypatch.setattr(limits, "FREE_READS", 1000)
    for name in ("a.gif", "a.png", "a.webp"):
        assert sum(1 for _ in frames_of(tmp_path / name)) == 40, name


def test_limits_are_reached_and_not_passed():
    most, side, frames = limits.MAX_PIXELS, limits.MAX_SIDE, limits.MAX_FRAMES
    for good in ((side, 1), (1, side), (8000, most // 8000), (most // 8000, 8000)):
        limits.check_size("x", good)
    for bad in ((side + 1, 1), (1, side + 1), (8001, most // 8000), (most // 8000, 8001)):
        with pytest.raises(UserError, match=rf"x: {bad[0]} x {bad[1]}"):
            limits.check_size("x", bad)
    limits.check_size("x", (4, 5), max_pixels=20)
    with pytest.raises(UserError, match="4 x 5 pixels"):
        limits.check_size("x", (4, 5), max_pixels=19)
    limits.check_animation("x", frames, (1, 1))
    limits.check_animation("x", 10, (10_000, limits.MAX_ANIMATION_PIXELS // 100_000))
    limits.check_animation("x", 1, (100_000, 100_000))  # a still picture has limits of its own
    for count, size in ((frames + 1, (1, 1)), (10, (10_000, limits.MAX_ANIMATION_PIXELS // 100_000 + 1))):
        with pytest.raises(UserError, match="more than an animation may have"):
            limits.check_animation("x", count, size)
