"""The sample advertisements: counts, formats, the law, and that no shortcut answers it."""

import json
from collections import Counter

import numpy as np
from PIL import Image

from rolltune.tiny import ads


def test_the_set_is_what_it_says(tmp_path):
    path = ads.write_sample_ads(tmp_path / "set")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 96 and {r["prefix"] for r in rows} == {ads.PROMPT}
    assert Counter(r["suffix"] for r in rows) == {"yes": 54, "no": 42}
    assert all(r["image"].startswith("images/OK_image" if r["suffix"] == "yes" else "images/NG_image") for r in rows)
    assert Counter(r["image"].split(".")[-1] for r in rows) == {"png": 45, "jpg": 45, "gif": 6}
    assert not list(path.parent.glob("**/*.part"))
    for row in rows:
        with Image.open(path.parent / row["image"]) as image:
            image.load()
            assert min(image.size) >= 300
            assert getattr(image, "n_frames", 1) == (4 if row["image"].endswith("gif") else 1)


def test_the_same_seed_draws_the_same_and_another_seed_other_ads():
    first, again, other = ads.samples(0), ads.samples(0), ads.samples(1)
    assert first == again and first != other
    assert ads.picture(first[5], 5) == ads.picture(first[5], 5) != ads.picture(first[5], 6)


def test_nothing_but_the_law_gives_the_answer():
    samples = ads.samples(0)
    assert all(s.lawful == ads.complies(s.ad) for s in samples)
    texts = Counter((s.ad.badge.text, s.ad.note is not None) for s in samples if s.ad.badge is not None)
    assert {text for text, _ in texts} == {*ads.CLAIMS, *ads.OFFERS}
    for words in (ads.CLAIMS, ads.OFFERS):
        for note in (True, False):  # each text as often, with small print and without
            counts = [texts[word, note] for word in words]
            assert max(counts) - min(counts) <= 1
    lawful = np.array([s.lawful for s in samples])
    has_note = np.array([s.ad.note is not None for s in samples])
    has_claim = np.array([s.ad.badge is not None and s.ad.badge.text in ads.CLAIMS for s in samples])
    assert max(lawful.mean(), (has_note == lawful).mean(), (has_claim != lawful).mean()) < 0.8
    for trait in (lambda s: s.format == "png", lambda s: s.ad.price is None, lambda s: s.ad.button is None):
        values = np.array([trait(s) for s in samples])
        assert abs(values[lawful].mean() - values[~lawful].mean()) < 0.25
