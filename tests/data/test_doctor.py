"""The doctor finds what makes results lie, says where, and never touches the original."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rolltune.commands.doctor import main
from rolltune.data.doctor import Report, _answers, _oddities, examine, script_of, sources_of, write_cleaned
from rolltune.data.doctor_page import answer_plot, length_plot, page
from rolltune.data.examples import Example, Scan, Turn
from rolltune.data.fingerprints import Fingerprint
from rolltune.data.sources import read_examples


def picture(number):
    """Seeded structure: no two numbers look alike."""
    image = Image.new("RGB", (120, 100), (number * 37 % 256, number * 91 % 256, 200))
    draw = ImageDraw.Draw(image)
    for part in range(6):
        left, top = (number * 53 + part * 41) % 90, (number * 29 + part * 67) % 70
        draw.rectangle(
            (left, top, left + 20 + number % 9, top + 15),
            ((part * 50 + number * 80) % 256, part * 40, number * 20 % 256),
        )
    return image


@pytest.fixture
def split(tmp_path):
    """A train and a valid set with one of each thing that goes wrong."""
    for number in range(9):
        picture(number).save(tmp_path / f"{number}.png")
    picture(1).resize((90, 75)).save(tmp_path / "resized.jpg", quality=85)
    Image.new("RGB", (30, 30), (5, 5, 5)).save(tmp_path / "dark.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:150])
    row = lambda image, suffix, **more: json.dumps({"prefix": "ok?", "suffix": suffix, "image": image, **more})
    train = [row(f"{n}.png", "yes" if n % 2 else "no") for n in range(6)]
    train += [
        row("1.png", "yes"),
        row("2.png", "yes"),
        row("broken.png", "no"),
        "{oops",
        row("6.png", "Yes", video="v"),
    ]
    valid = [row("3.png", "yes"), row("resized.jpg", "yes"), row("7.png", "no", video="v"), row("dark.png", "maybe")]
    (tmp_path / "train.jsonl").write_text("\n".join(train))
    (tmp_path / "valid.jsonl").write_text("\n".join(valid))
    return tmp_path


def test_train_comes_first(split):
    assert list(sources_of([split / "valid.jsonl", split / "train.jsonl"])) == ["train", "valid"]


def told(report):
    return {(finding.kind, finding.where.partition("/")[2]): finding for finding in report.findings}


def test_every_kind_is_found_where_it_is(split):
    report = examine(sources_of([split]))
    found = told(report)
    assert not report.may_train
    for kind, where, level, text in (
        ("bad row", "train.jsonl:10", "error", "not JSON"),
        ("unreadable image", "train.jsonl:9", "error", "broken.png"),
        ("leak between splits", "valid.jsonl:1", "error", "train.jsonl:4"),
        ("group in two splits", "valid.jsonl:3", "error", "'v'"),
        ("label conflict", "train.jsonl:8", "error", "train.jsonl:3"),
        ("near copy in two splits", "valid.jsonl:2", "warning", "train.jsonl:2"),
        ("duplicate row", "train.jsonl:7", "warning", "train.jsonl:2"),
        ("small image", "valid.jsonl:4", "warning", "30 x 30"),
        ("one-coloured image", "valid.jsonl:4", "warning", "dark.png"),
    ):
        finding = found.pop((kind, where))
        assert finding.level == level and text in finding.message
    rest = {finding.kind for finding in found.values()}
    assert rest == {"few rows of an answer", "answer not in train", "answer spelled two ways"}
    levels = [finding.level for finding in report.findings]
    assert levels == sorted(levels)  # error, note, warning: there are no notes here


def test_a_copy_is_shown_beside_what_it_is_a_copy_of(split):
    rows = {"train": [["4.png", "8.png", "5.png"], ["0.png"], ["0.png"]], "valid": [["4.png", "8.png", "5.png"]]}
    for name, images in rows.items():
        made = [json.dumps({"prefix": "same?", "suffix": "no", "images": some}) for some in images]
        (split / f"{name}.jsonl").write_text("\n".join(made))
    found = told(examine(sources_of([split])))
    shown = {place: [path.name for path in finding.images] for place, finding in found.items()}
    assert shown["leak between splits", "valid.jsonl:1"] == ["4.png", "8.png"] * 2
    assert shown["duplicate row", "train.jsonl:3"] == ["0.png"] * 2


def test_many_that_look_alike_are_told_once(tmp_path):
    rows = []
    for number in range(22):
        image = picture(1)
        image.putpixel((number, 0), (0, 0, 0))
        image.save(tmp_path / f"{number}.png")
        rows.append(json.dumps({"prefix": f"which {number}?", "suffix": "a", "image": f"{number}.png"}))
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    (told_once,) = [one for one in examine({"t": tmp_path / "t.jsonl"}).findings if one.kind == "near duplicate"]
    assert told_once.message.startswith("22 rows, this one first") and len(told_once.images) == 4


def test_every_row_is_in_the_charts(tmp_path):
    answers = {"train": ["a"] * 7 + ["b"] * 2, "valid": ["b"] * 3}
    for name, given in answers.items():
        rows = [{"prefix": "q" * (5 * n + 300 * (name == "valid")), "suffix": one} for n, one in enumerate(given)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = examine(sources_of([tmp_path]))
    lengths, shares = (draw(report).axes[0] for draw in (length_plot, answer_plot))
    assert [sum(bar.get_height() for bar in bars) for bars in lengths.containers] == [9, 3]
    left, right = lengths.get_xlim()
    assert left < min(report.lengths["train"]) and max(report.lengths["valid"]) < right
    bars = {name: [bar.get_width() for bar in bars] for name, bars in zip(answers, shares.containers, strict=True)}
    np.testing.assert_allclose(bars["train"], [700 / 9, 200 / 9])
    np.testing.assert_allclose(bars["valid"], [0, 100])
    assert [text.get_text() for text in shares.texts] == ["7", "2", "0", "3"]
    assert [text.get_text() for text in shares.get_yticklabels()] == ["a", "b"]


def test_status_page_and_cleaned_files(split, capsys):
    before = {file.name: file.read_bytes() for file in split.iterdir()}
    assert main([str(split), "--fix", "--html", str(split / "report.html")]) == 1
    out = capsys.readouterr().out
    assert "train.jsonl:9" in out and "put the errors right before training" in out
    assert {name: (split / name).read_bytes() for name in before} == before
    train = read_examples(split / "train.cleaned.jsonl")
    # Left out: the duplicate, the unreadable and the malformed row, and the rows that valid holds too.
    assert [Path(row.images[0]).name for row in train] == ["0.png", "2.png", "4.png", "5.png", "2.png", "6.png"]
    html = (split / "report.html").read_text()
    assert "Do not train yet" in html and html.count("data:image/png;base64,") == 6  # light and dark
    assert "data:image/jpeg;base64," in html and "://" not in html
    good = [str(split / "only.jsonl")]
    (split / "only.jsonl").write_text((split / "train.jsonl").read_text().split("\n")[0])
    assert main(good) == 0


def test_marks_of_other_toolkits_are_told(tmp_path):
    marks = ("<bbox>", "<image_placeholder>", "<IMG_CONTEXT>", "<|vision_start|>", "<|im_end|>", "<image_1>", "</ref>")
    rows = [{"prefix": f"look {mark} here", "suffix": "a"} for mark in (*marks, "<loc0123>", "a < b > c", "<b>")]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    report = examine({"t": tmp_path / "t.jsonl"})
    found = {one.where.partition(":")[2]: one for one in report.findings if one.kind == "mark of another toolkit"}
    assert sorted(found) == sorted(str(line) for line in range(1, len(marks) + 1)) and report.may_train
    assert found["1"].message.startswith("<bbox> stands in 2 rows")


def test_page_escapes_what_it_shows(split):
    (split / "x.jsonl").write_text(json.dumps({"prefix": "q", "suffix": "<script>$x$</script>", "image": "dark.png"}))
    html = page(examine({"<b>\x1b[31m": split / "x.jsonl"}), "<title>\u202e")
    assert "<script>" not in html and "\x1b" not in html and "\u202e" not in html
    assert html.count(r"&lt;title&gt;\u202e") == 2 and r"&lt;b&gt;\x1b[31m" in html


def test_lengths_in_tokens(tmp_path):
    rows = [
        {"prefix": "short", "suffix": "a"},
        {"prefix": "long " * 30, "suffix": "a"},
        {"prefix": "\u16a0\u16a1", "suffix": "a"},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cut = lambda word: ["<0xE1>"] * 3 if "\u16a0" in word else [word]
    pieces = lambda text: [piece for word in text.split() for piece in cut(word)]
    report = examine({"t": tmp_path / "t.jsonl"}, pieces=pieces, max_tokens=20)
    found = told(report)
    assert "31 tokens" in found["over-long row", "t.jsonl:2"].message
    assert ("text broken into bytes", "t.jsonl:3") in found and report.lengths == {"t": [2, 31, 4]}


def test_real_sets(shared):
    data = shared("data")
    leak = examine(sources_of([data / "video_frames"]))
    assert sum(finding.kind == "group in two splits" for finding in leak.findings) == 5 and not leak.may_train
    turned = examine({"all": data / "plantdoc" / "all.jsonl", "originals": data / "plantdoc" / "originals.jsonl"})
    kinds = [finding.kind for finding in turned.findings]
    assert kinds.count("turned by EXIF") == 3 and kinds.count("near copy in two splits") == 62


def print_of(name="a.png", width=64, height=64, **more) -> Fingerprint:
    small = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    given = {"format": "PNG", "mode": "RGB", "frames": 1, "orientation": 1, "small": small} | more
    return Fingerprint(Path(name), width=width, height=height, pixels="", hashes=np.zeros(8, np.uint64), **given)


@pytest.mark.parametrize(
    ("one", "kinds"),
    [
        (print_of(), []),
        (print_of(width=63), ["small image"]),
        (print_of(height=63), ["small image"]),
        (print_of(width=64, height=256), []),
        (print_of(width=64, height=257), ["stretched image"]),
        (print_of(width=257, height=64), ["stretched image"]),
        (print_of("a.PNG"), []),
        (print_of("a.jpg"), ["wrong file ending"]),
        (print_of("a.jpeg", format="JPEG"), []),
        (print_of("a.png", format="TIFF"), []),  # that no ending is usual for
        (print_of(orientation=6), ["turned by EXIF"]),
        (print_of(frames=2), ["animation"]),
        (print_of(mode="I;16B"), ["unusual pixels"]),
        (print_of(mode="CMYK"), ["unusual pixels"]),
        (print_of(mode="P"), []),
        (print_of(small=np.full((16, 16, 3), 7, np.uint8)), ["one-coloured image"]),
    ],
)
def test_what_is_odd_about_a_picture(one, kinds):
    assert [kind for _, kind, _, _ in _oddities(one)] == kinds


def report_of(**splits: str) -> Report:
    """Rows of these answers, a letter each."""
    row = lambda n, answer: Example(str(n), (), (Turn("user", f"{n}?"), Turn("assistant", answer)), f"x:{n}")
    scans = {name: Scan("rows", Path(), [row(n, one) for n, one in enumerate(some)]) for name, some in splits.items()}
    return Report(scans)


@pytest.mark.parametrize(
    ("splits", "kinds"),
    [
        ({"train": "a" * 5 + "b" * 5}, []),
        ({"train": "a" * 5 + "b" * 4}, ["few rows of an answer"]),
        ({"train": "a" * 49 + "b" * 5}, []),
        ({"train": "a" * 50 + "b" * 5}, ["imbalance"]),
        ({"train": "a" * 6 + "b" * 6, "valid": "ab"}, []),  # few rows are told of in train alone
        ({"train": "a" * 6 + "b" * 6, "valid": "ac"}, ["answer not in train"]),
        ({"train": "a" * 6 + "b" * 6 + "c" * 6, "valid": "ab"}, []),
        ({"train": "abcdefgh"}, []),  # free text
        ({"train": "aaa"}, []),
    ],
)
def test_how_answers_are_spread_is_told(splits, kinds):
    report = report_of(**splits)
    _answers(report)
    assert [finding.kind for finding in report.findings] == kinds


def test_letters_have_their_scripts():
    assert [script_of(letter) for letter in ("a", "\u00e9", "\u3042", "\u5e83", "\u0436")] == [
        "Latin", "Latin", "Hiragana", "Cjk", "Cyrillic"
    ]  # fmt: skip


def test_a_cleaned_file_counts_the_rows_that_it_leaves_out_once(tmp_path):
    rows = [
        {"prefix": "a", "suffix": "yes", "id": 1},
        {"prefix": 5, "suffix": ""},  # two things are wrong with it
        {"prefix": "b", "suffix": "no", "id": 1},  # an id that was used
        {"prefix": "a", "suffix": "yes", "id": 3},  # a duplicate
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = sources_of([tmp_path / "rows.jsonl"])
    report = examine(sources)
    assert sum(finding.kind == "bad row" for finding in report.findings) == 2
    assert write_cleaned(report, sources) == {"rows": (tmp_path / "rows.cleaned.jsonl", 2, 2)}
    kept = [json.loads(line) for line in (tmp_path / "rows.cleaned.jsonl").read_text().splitlines()]
    assert kept == [rows[0], {"prefix": "b", "suffix": "no"}]
