"""Splits keep together what belongs together, are stratified, and are the same on every platform."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rolltune.data.examples import Example, Turn
from rolltune.data.fingerprints import alike, fingerprint, fingerprints
from rolltune.data.splits import (
    cluster_rows,
    fold_by_id,
    fold_rows,
    keys_of,
    modulo_rows,
    one_sided,
    parse_amount,
    split_rows,
)
from rolltune.errors import UserError

ANSWERS = ["OK"] * 54 + ["NG"] * 42
ALONE = list(range(96))


def test_sizes_and_shares_are_exact():
    parts = split_rows(ANSWERS, ALONE, {"valid": 10, "test": 20}, seed=1)
    assert {name: len(places) for name, places in parts.items()} == {"train": 66, "valid": 10, "test": 20}
    assert sorted(place for places in parts.values() for place in places) == ALONE
    assert Counter(ANSWERS[place] for place in parts["valid"]) == {"OK": 6, "NG": 4}
    assert Counter(ANSWERS[place] for place in parts["test"]) == {"OK": 11, "NG": 9}


def test_the_same_seed_is_the_same_split_everywhere():
    assert split_rows(ANSWERS, ALONE, {"valid": 10}, seed=42)["valid"] == VALID_42
    assert split_rows(ANSWERS, ALONE, {"valid": 10}, seed=43)["valid"] != VALID_42


VALID_42 = [1, 62, 26, 59, 15, 33, 84, 10, 68, 9]


def test_clusters_stay_whole():
    clusters = [place // 4 for place in range(96)]
    parts = split_rows(ANSWERS, clusters, {"valid": 20}, seed=3)
    sides = {}
    for name, places in parts.items():
        for place in places:
            assert sides.setdefault(clusters[place], name) == name
    assert len(parts["valid"]) == 20
    with pytest.raises(UserError, match="possible next to it: 8 or 12"):
        split_rows(ANSWERS, clusters, {"valid": 10}, seed=3)
    assert len(split_rows(ANSWERS, clusters, {"valid": 10}, seed=3, exact=False)["valid"]) == 8
    with pytest.raises(UserError, match="hang together"):
        split_rows(ANSWERS, [0] * 96, {"valid": 10}, seed=3, exact=False)
    # A size that only an odd choice of clusters makes: 7 = 3 + 4 of 3, 4, 5, 5, 5.
    odd = [number for number, size in enumerate((5, 5, 5, 3, 4)) for _ in range(size)]
    assert len(split_rows(["x"] * 22, odd, {"valid": 7}, seed=0)["valid"]) == 7


def test_impossible_sizes_are_refused():
    for sizes in ({"valid": 96}, {"valid": 50, "test": 46}, {"valid": 0}):
        with pytest.raises(UserError):
            split_rows(ANSWERS, ALONE, sizes, seed=1)
    assert parse_amount("10", 96) == (10, True) and parse_amount("12.5%", 96) == (12, False)
    assert parse_amount("0.2", 96) == (19, False)
    for text in ("-1", "x", "100%", "1.5", ""):
        with pytest.raises(UserError):
            parse_amount(text, 96)


def test_folds_spread_answers_and_keep_clusters():
    clusters = [place // 2 for place in range(96)]
    folds = fold_rows(ANSWERS, clusters, 5, seed=2)
    per_fold = Counter(zip(folds, ANSWERS, strict=True))
    assert all(10 <= per_fold[fold, "OK"] <= 12 and 8 <= per_fold[fold, "NG"] <= 10 for fold in range(5))
    assert all(folds[2 * pair] == folds[2 * pair + 1] for pair in range(48))
    # What is left over of each answer goes to different folds: four of each of three answers make four a fold.
    over = [Counter(fold_rows(["a", "b", "c"] * 4, list(range(12)), 3, seed)) for seed in range(20)]
    assert sum(set(sizes.values()) == {4} for sizes in over) > 15
    with pytest.raises(UserError, match="2 to 96"):
        fold_rows(ANSWERS, ALONE, 97, seed=2)


def test_folds_by_id_are_the_remainders():
    places = [f"set1/train.jsonl:{n}" for n in range(1, 5)]
    assert fold_by_id(["7", "0", "12", "-1"], places, 3) == [1, 0, 0, 2]
    with pytest.raises(
        UserError, match=r"^set1/train\.jsonl:2: the id 'train\.jsonl:2' is not a whole number.* id % 3"
    ):
        fold_by_id(["7", "train.jsonl:2", "x", "1"], places, 3)
    with pytest.raises(UserError, match=r"no row has an id with id % 2 = 1"):
        fold_by_id(["2", "4", "6", "8"], places, 2)
    with pytest.raises(UserError, match="1 folds"):
        fold_by_id(["2", "4", "6", "8"], places, 1)


def row(number, images=(), group=None, text="q"):
    return Example(str(number), tuple(images), (Turn("user", text), Turn("assistant", "a")), f"f:{number}", group)


def test_modulo_by_id():
    parts = modulo_rows([row(number) for number in (5, 6, 7, 10)], 5)
    assert parts == {"train": [1, 2], "valid": [0, 3]}
    with pytest.raises(UserError):
        modulo_rows([row(1), row(2)], 5)


@pytest.fixture
def photo():
    """Something with structure that is not symmetric."""
    picture = Image.effect_noise((8, 8), 90).resize((160, 120), Image.Resampling.BICUBIC).convert("RGB")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((10, 10, 60, 40), (255, 0, 0))
    draw.rectangle((90, 70, 150, 110), (0, 0, 255))
    return picture


def test_copies_are_found_and_others_are_not(photo, tmp_path):
    copies = {
        "same.png": photo,
        "small.jpg": photo.resize((96, 72)),
        "turned.png": photo.transpose(Image.Transpose.ROTATE_90),
        "mirrored.png": photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }
    photo.save(tmp_path / "a.png")
    for name, picture in copies.items():
        picture.save(tmp_path / name)
    photo.point(lambda value: 255 - value).save(tmp_path / "other.png")
    for name in ("flat1.png", "flat2.png"):
        Image.new("RGB", (50, 50 + len(name) % 2), (9, 9, 9) if name == "flat1.png" else (10, 9, 9)).save(
            tmp_path / name
        )
    names = ["a.png", *copies, "other.png", "flat1.png", "flat2.png"]
    pairs = alike([fingerprint(tmp_path / name) for name in names])
    found = {(names[pair.first], names[pair.second]): (pair.exact, pair.turned) for pair in pairs}
    assert found.pop(("a.png", "same.png")) == (True, False)
    assert found.pop(("a.png", "small.jpg")) == (False, False)
    assert found.pop(("a.png", "turned.png")) == (False, True)
    assert found.pop(("a.png", "mirrored.png")) == (False, True)
    assert not [pair for pair in found if "other.png" in pair or "flat1.png" in pair or "flat2.png" in pair]


def test_rows_that_belong_together(photo, tmp_path):
    a, b, c, other = (tmp_path / f"{name}.png" for name in ("a", "b", "c", "other"))
    photo.save(a)
    photo.resize((80, 60)).save(b)
    photo.transpose(Image.Transpose.ROTATE_180).save(c)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)).save(other)
    rows = [row(0, [a]), row(1, [other]), row(2, [b]), row(3, [c]), row(4, group="g"), row(5, group="g", text="r")]
    rows += [row(6, text="Same  Text"), row(7, text="same text"), row(8, [a, other]), row(9, [b, Path(c)])]
    prints = fingerprints(key for one in rows for key in keys_of(one))
    assert cluster_rows(rows, prints) == [0, 1, 0, 0, 4, 4, 6, 6, 8, 9]
    assert cluster_rows(rows, None, groups=False) == list(range(10))
    twice = [row(0, [a, other]), row(1, [b, other]), row(2, [other, c])]
    assert cluster_rows(twice, prints) == [0, 0, 0]
    more = [tmp_path / f"more{number}.png" for number in range(2)]
    for number, path in enumerate(more, 1):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (60, 60, 3), np.uint8)).save(path)
    prints = prints | fingerprints((path, None) for path in more)
    # Two shared pictures are all that the one has, but half of what the other has, or two of its three.
    assert cluster_rows([row(0, [a, other]), row(1, [a, other, *more])], prints) == [0, 1]
    assert cluster_rows([row(0, [a, other, more[0]]), row(1, [other, a])], prints) == [0, 0]


def test_rows_of_text_are_the_same_where_they_say_the_same_in_all_turns():
    said = lambda *texts: tuple(Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(texts))
    texts = [
        ("a", "b", "so?", "yes"),
        ("c", "b", "so?", "yes"),
        ("A", " b", "SO?", "no"),
        ("a", "c", "so?", "yes"),
        ("so?", "x"),
    ]
    rows = [Example(str(n), (), said(*some), f"x:{n}") for n, some in enumerate(texts)]
    assert cluster_rows(rows, {}) == [0, 1, 0, 3, 4]  # whatever the answer is


def test_rows_are_counted_by_answer_on_both_sides():
    assert one_sided(["a", "b", "a", "b"], {"train": [0, 1], "valid": [2, 3]}) == []
    lonely, alone = one_sided(["a", "b", "a", "c", "a", "a"], {"train": [0, 1], "valid": [2, 3], "test": [4, 5]})
    assert lonely == "'c' (1): not in train, and so cannot be learnt, though valid and test asks for it"
    assert alone == "'b' (1): in train alone, so that nothing tells whether it was learnt"
    folds = {"fold0/train": [0, 1], "fold0/valid": [2, 3], "fold1/train": [2, 3], "fold1/valid": [0, 1]}
    assert [text.partition(":")[0] for text in one_sided(list("abaa"), folds)] == ["fold0", "fold1"]
    assert one_sided(list("abcdef"), {"train": [0, 1, 2], "valid": [3, 4, 5]}) == []  # free text


@pytest.mark.parametrize(
    ("text", "rows", "amount"),
    [
        ("10", 5, (10, True)),
        ("20%", 96, (19, False)),
        ("0.2", 10, (2, False)),
        (".5", 5, (3, False)),
        ("12.5%", 8, (1, False)),
    ],
)
def test_an_amount_is_a_number_or_a_share(text, rows, amount):
    assert parse_amount(text, rows) == amount
    for bad in ("100%", "1.0", "-1", "x", "", "%", "1.5"):
        with pytest.raises(UserError, match="no number of rows"):
            parse_amount(bad, 10)
