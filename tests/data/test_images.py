"""Images come out upright and as RGB, or as a message that names the file."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from rolltune.data.examples import Example, Turn
from rolltune.data.images import (
    FramePolicy,
    apply_frame_policy,
    count_frames,
    evenly,
    frames_of,
    image_size,
    open_image,
    parse_policy,
    upright_rgb,
)
from rolltune.errors import UserError

# Not whole for Pillow, but what we need of them is: the first view of two MPO files with a broken second one, and
# an icon that Pillow alone takes for a TGA. The animation is whole up to its middle.
MORE_THAN_PILLOW = {
    "broken/pillow__sugarshack_ifd_offset.mpo",
    "broken/pillow__sugarshack_no_data.mpo",
    "broken/pillow__pillow.ico",
    "broken/pillow__apng__syntax_num_frames_high.png",
}


@pytest.mark.filterwarnings("ignore")
def test_awkward_files_against_their_manifest(shared):
    folder = shared("data/robustness")
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        path = folder / entry["image"]
        try:
            picture = open_image(path)
        except UserError as error:
            assert entry.get("load") != "ok", error
            assert str(path) in str(error)
        else:
            assert entry.get("load") == "ok" or entry["image"] in MORE_THAN_PILLOW, path
            assert picture.mode == "RGB"
            if entry["image"].startswith("exif_orientation/pillow__hopper_orientation"):
                upright = open_image(folder / "modes/pillow__hopper.bmp")
                assert picture.size == upright.size
                assert np.abs(np.asarray(picture, float) - np.asarray(upright, float)).mean() < 12, path


def test_modes(tmp_path):
    def opened(array_or_image, name, **options):
        image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
        image.save(tmp_path / name, **options)
        return np.asarray(open_image(tmp_path / name, background=(0, 0, 255)))

    assert opened(np.array([[0, 257 * 100, 65535]], np.uint16), "a.png")[0, :, 0].tolist() == [0, 100, 255]
    assert opened(np.array([[0, 4095, 2048]], np.uint16), "a12.png")[0, :, 0].tolist() == [0, 255, 128]
    assert opened(np.array([[-1.0, 0.0, 1.0]], np.float32), "a.tif")[0, :, 1].tolist() == [0, 128, 255]
    clear = np.array([[[255, 0, 0, 0], [255, 0, 0, 255]]], np.uint8)
    assert opened(clear, "b.png")[0].tolist() == [[0, 0, 255], [255, 0, 0]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    assert opened(palette, "c.png", transparency=0)[0].tolist() == [[0, 0, 255], [40, 50, 60]]
    assert opened(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "d.tif")[0, 0].tolist() == [255, 0, 0]
    assert opened(np.array([[[7, 128]]], np.uint8), "e.png").shape == (1, 1, 3)


# Orientation: where the file's top left pixel lies in the upright picture of a file of 3 x 2 pixels, (row, column).
TURNS = {1: (0, 0), 2: (0, 2), 3: (1, 2), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (2, 1), 8: (2, 0)}


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_exif_turns_the_picture(name, tmp_path):
    array = np.zeros((2, 3, 3), np.uint8)
    array[0, 0] = 255
    array[0, 1] = 90  # tells 5 from 1 and 7 from 3: they differ in which way the first line runs
    lossless = {"lossless": True} if name == "a.webp" else {}
    for orientation, corner in TURNS.items():
        Image.fromarray(array).save(tmp_path / name, exif=exif(orientation), **lossless)
        turned = np.asarray(open_image(tmp_path / name))[..., 0]
        assert turned.shape == ((3, 2) if orientation >= 5 else (2, 3))
        assert turned[corner] == 255, orientation
        line = turned[:, corner[1]] if orientation >= 5 else turned[corner[0]]
        assert sorted(line.tolist(), reverse=True)[1] == 90, orientation
        assert image_size(tmp_path / name) == turned.shape


def test_a_picture_before_the_animation_is_no_frame(tmp_path):
    frames = [Image.new("RGB", (20, 10), (grey, 0, 0)) for grey in (250, 10, 20, 30)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True)
    assert count_frames(tmp_path / "a.png") == 3
    assert [open_image(tmp_path / "a.png", frame).getpixel((5, 5))[0] for frame in (0, 1, 2, None)] == [10, 20, 30, 20]
    with pytest.raises(UserError, match="there is no frame 3: it has 3"):
        open_image(tmp_path / "a.png", 3)
    with pytest.raises(UserError, match="there is no frame 3: it has 3"):
        image_size(tmp_path / "a.png", 3)


@pytest.mark.filterwarnings("ignore")
def test_sizes_out_of_headers_are_those_of_the_pictures(shared):
    compared = 0
    for folder in ("data/robustness", "data/gifs_real"):
        for path in sorted(place for place in shared(folder).rglob("*") if place.suffix not in (".md", ".jsonl")):
            for frame in (None, 0, 3, -4) if path.stat().st_size < 10**6 else (None,):
                try:
                    picture = open_image(path, frame)
                except UserError:
                    continue
                assert image_size(path, frame) == (picture.height, picture.width), (path, frame)
                compared += 1
    assert compared > 500


def test_a_size_needs_no_pixels(tmp_path, monkeypatch):
    frames = [Image.effect_noise((30, 20), 40 + step) for step in range(5)]
    for name in ("a.gif", "b.png", "c.webp", "d.jpg"):
        many = {"save_all": True, "append_images": frames[1:]} if name[0] in "abc" else {}
        frames[0].save(tmp_path / name, exif=exif(6), **many)
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>')
    late = {"late.png": (b"eXIf", {"exif": exif(6)}), "late too.png": (b"iTXt", {"pnginfo": xmp})}
    for name, (kind, said) in late.items():
        frames[0].save(tmp_path / name, **said)
        data = (tmp_path / name).read_bytes()
        place = data.index(kind) - 4
        after = place + 12 + int.from_bytes(data[place : place + 4])
        (tmp_path / name).write_bytes(data[:place] + data[after:-12] + data[place:after] + data[-12:])
        assert image_size(tmp_path / name) == (30, 20)
    for name in ("a.gif", "b.png", "c.webp", "d.jpg", *late):
        for frame in (None, -4):
            picture = open_image(tmp_path / name, frame)
            with monkeypatch.context() as patch:
                if name not in late:  # says how to turn it only after its pixels
                    patch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
                assert image_size(tmp_path / name, frame) == (picture.height, picture.width), (name, frame)


def bomb(path, width, height, row=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)))


def test_bombs_are_refused_before_decoding(tmp_path):
    bomb(tmp_path / "a.png", 100_000, 100_000)
    with pytest.raises(UserError, match=r"a\.png: refused as a decompression bomb"):
        open_image(tmp_path / "a.png")
    bomb(tmp_path / "b.png", 9000, 9000)  # below what Pillow itself refuses
    with pytest.raises(UserError, match=r"b\.png: 9000 x 9000 pixels"):
        open_image(tmp_path / "b.png")
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    (tmp_path / "c.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + frame * 10_001 + b";")
    with pytest.raises(UserError, match="more than 10000 frames"):
        open_image(tmp_path / "c.gif")
    blocks = b"\x21\xfe" + b"\x01\x00" * 2_000_001 + b"\x00"
    (tmp_path / "d.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + blocks)
    with pytest.raises(UserError):
        open_image(tmp_path / "d.gif")


def test_files_that_are_no_images_are_named(tmp_path):
    for name, data, expected in (
        ("a.jpg", b"", "empty"),
        ("b.jpg", b"<html>not here</html>", "no known image format"),
        ("c.heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC"),
        # Pillow would start a program for it.
        ("d.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no known image format"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}.*{expected}"):
            open_image(tmp_path / name)
    with pytest.raises(UserError, match="no such image"):
        open_image(tmp_path / "none.png")


@pytest.fixture
def animation(tmp_path):
    """Ten frames: grey k * 20, but frame 7 is white."""
    frames = [Image.new("L", (20, 10), 255 if k == 7 else k * 20) for k in range(10)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    return path


def greys(example):
    return [open_image(p, f).getpixel((5, 5))[0] for p, f in zip(example.images, example.frames, strict=True)]


def row(*paths):
    return Example("r", tuple(paths), (Turn("user", "q"), Turn("assistant", "a")), "f:1")


def test_frame_policies(animation, tmp_path):
    Image.new("L", (9, 9), 9).save(tmp_path / "still.png")
    example = row(animation, tmp_path / "still.png")
    assert count_frames(animation) == 10
    assert greys(apply_frame_policy([example])[0]) == [100, 9]
    for policy, expected in (
        ("first", [0, 9]),
        ("last", [180, 9]),
        ("most-different", [255, 9]),
        ("n:3", [20, 100, 160, 9]),
    ):
        assert greys(apply_frame_policy([example], policy)[0]) == expected, policy
    (sheet,) = apply_frame_policy([row(animation)], "grid")
    picture = open_image(animation, sheet.frames[0])
    assert picture.size == (20, 10)
    assert [picture.getpixel(place)[0] for place in ((2, 2), (17, 2), (2, 7), (17, 7))] == [20, 60, 120, 160]
    expanded = apply_frame_policy([row(animation)], "expand")
    assert [greys(one)[0] for one in expanded[:3]] == [0, 20, 40] and len({one.id for one in expanded}) == 10
    assert {one.group for one in expanded} == {"r"}
    assert len(apply_frame_policy([example, row(tmp_path / "still.png")], "skip")) == 1
    with pytest.raises(UserError, match="one image a row"):
        apply_frame_policy([example], "expand")
    with pytest.raises(UserError, match="frame policy 'n'"):
        apply_frame_policy([example], "n")
    with pytest.raises(UserError, match=r"frames could not be chosen:\n  f:1: .*gone\.gif: there is no such"):
        apply_frame_policy([row(animation), row(tmp_path / "gone.gif")])


def test_frames_come_as_they_are_shown(shared):
    path = shared("data/gifs_real") / "newtonscradle.gif"
    in_order = [np.asarray(upright_rgb(frame)) for frame in frames_of(path)]
    assert len(in_order) == 36
    for index in (0, 17, 35):
        assert np.array_equal(in_order[index], np.asarray(open_image(path, index)))


@pytest.mark.parametrize("count", [1, 2, 5, 9, 100])
@pytest.mark.parametrize("wanted", [1, 2, 4, 9])
def test_frames_are_evenly_spaced_and_favour_neither_end(count, wanted):
    found = evenly(count, wanted)
    assert len(found) == min(count, wanted) and list(found) == sorted(set(found))
    assert found[0] >= 0 and found[-1] < count
    assert abs(found[0] - (count - 1 - found[-1])) <= 1
    gaps = np.diff(found)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1
    assert wanted > 1 or found == (count // 2,)


def test_words_of_frame_policies():
    good = {"first": None, "middle": None, "n:4": 4, "grid": None, "grid:9": 9, "expand": None, "expand:8": 8, "n:1": 1}
    for text, number in good.items():
        assert parse_policy(text) == FramePolicy(text.partition(":")[0], number)
    for text in ("", "n", "n:", "n:0", "n:x", "n:-1", "grid:", "grid:0", "first:1", "skip:2", "every", "middle:"):
        with pytest.raises(UserError, match="expected one of first, middle"):
            parse_policy(text)


@pytest.mark.parametrize("frames", [2, 5, 7, 12])
def test_a_sheet_holds_its_frames_in_order(frames, tmp_path):
    grey = [Image.new("L", (60, 40), 20 * number) for number in range(frames)]
    grey[0].save(tmp_path / "a.png", save_all=True, append_images=grey[1:])
    for cells in (1, 2, 3, 5, 6, 7, 9):
        sheet, shown = open_image(tmp_path / "a.png", frame=-cells), evenly(frames, cells)
        columns = next(side for side in range(1, 9) if side * side >= len(shown))
        rows = -(-len(shown) // columns)
        width, height = round(60 / columns), round(40 / columns)
        assert sheet.size == (width * columns, height * rows)
        middles = [
            (int((n % columns + 0.5) * width), int((n // columns + 0.5) * height)) for n in range(columns * rows)
        ]
        found = [sheet.getpixel(middle)[0] for middle in middles]
        assert found == [20 * n for n in shown] + [found[-1]] * (len(found) - len(shown))
