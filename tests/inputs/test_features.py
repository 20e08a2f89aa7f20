"""Image features on the disk: the same as computed anew, never of another picture or model, never half a file."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from small_families import PALIGEMMA, Small, score_all
from small_model import CONFIG

from rolltune import trees
from rolltune.data.views import views
from rolltune.errors import UserError
from rolltune.evaluation.tasks import CHOOSE, Task
from rolltune.inputs import features, rows
from rolltune.inputs.feeds import DiskFeed, TableFeed, TileFeed
from rolltune.inputs.pictures import Key, read_pictures, with_views
from rolltune.inputs.rows import Asking
from rolltune.models.family import Tiles
from rolltune.models.forward import Network
from rolltune.weights.roll_file import Base

ASKING = Asking(Task(CHOOSE, ("no", "yes")))


def model_of(small: Small, hash="weights", **changes):
    """(the model, its parameters) with another hash, resize, dtype, ..."""
    config = dataclasses.replace(small.config, **changes)
    params = jax.tree.map(lambda leaf: leaf.astype(config.dtype), small.params)
    return dataclasses.replace(small.model, config=config, base=Base(small.name, hash)), params


def feed_of(model, params, examples, limit, projected=False, in_step=False):
    pictures = read_pictures(model.family, model.config, examples)
    return features.feed(model, params, pictures, projected, in_step, limit)


def scored(model, params, examples, feed, projected=False):
    pictures = read_pictures(model.family, model.config, examples)
    encoded, _ = rows.encode_rows(model, pictures, examples, ASKING, rows.SCORE)
    params = trees.arrange(trees.unflatten(trees.flatten(params)), model.stacks)
    return score_all(Network(model.family, model.config, projected), params, encoded, feed)


@pytest.fixture
def counts(monkeypatch) -> list[int]:
    """Grows by the number of pictures computed, each time that some are."""
    counts, real = [], features.compute

    def counting(model, params, pictures, keys, projected):
        counts.append(len(keys))
        return real(model, params, pictures, keys, projected)

    monkeypatch.setattr(features, "compute", counting)
    return counts


@pytest.mark.parametrize(("dtype", "projected"), [("float32", False), ("float32", True), ("bfloat16", False)])
def test_features_on_the_disk_equal_those_of_the_table_and_of_tiles(small, examples, counts, dtype, projected):
    model, params = model_of(small, dtype=dtype)
    without = {
        k: v
        for k, v in params.items()
        if k not in (*small.family.towers, *(["projector"] if projected and not small.family.learned_count else []))
    }
    slack = dict(rtol=1e-5, atol=1e-5) if dtype == "float32" else dict(rtol=0.05, atol=0.05)
    feeds = [feed_of(model, params, examples, limit, projected) for limit in (1.0, 0.0)]
    assert isinstance(feeds[0], TableFeed) and isinstance(feeds[1], DiskFeed) and counts == [4, 4]
    table, first = (scored(model, without, examples, feed, projected) for feed in feeds)
    again = scored(model, without, examples, feed_of(model, params, examples, 0.0, projected), projected)
    assert counts == [4, 4, 0]  # the second time, all of them are read
    tiles = scored(
        model,
        params,
        examples,
        TileFeed(small.family.learned_count, read_pictures(small.family, model.config, examples)),
    )
    for one, other, whole, anew in zip(first, again, table, tiles, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, whole, **slack)
        np.testing.assert_allclose(one, anew, **slack)
    assert len({row.tobytes() for row in first}) == 6


@pytest.fixture
def paligemma(tmp_path, monkeypatch):
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    return PALIGEMMA


@pytest.mark.parametrize(
    ("dtype", "projected", "size"), [("float32", False, 1024), ("bfloat16", False, 512), ("float32", True, 2048)]
)
def test_the_table_holds_as_many_bytes_as_it_may(paligemma, examples, dtype, projected, size):
    """Four pictures of four rows, 16 numbers wide, or 32 past the projector."""
    model, params = model_of(paligemma, dtype=dtype)
    feeds = [feed_of(model, params, examples, limit / 2**30, projected) for limit in (size, size - 1)]
    assert isinstance(feeds[0], TableFeed) and isinstance(feeds[1], DiskFeed)
    shown = feeds[0].source.rows[:16]  # behind them it is filled up
    assert shown.nbytes == size and len(feeds[0].source.rows) == features.TABLE_MULTIPLE


def test_another_picture_or_setting_never_meets_an_older_entry(paligemma, examples, tmp_path, counts, kept_files):
    on_disk = lambda projected=False, **changes: (
        feed_of(*model_of(paligemma, **changes), examples, 0.0, projected).files
    )
    on_disk()
    assert counts == [4] and len(kept_files("features")) == 4
    for changes in ({"hash": "others"}, {"resize": "bicubic"}, {"dtype": "bfloat16"}, {"projected": True}):
        on_disk(**changes)
        assert counts[-1] == 4, changes
    assert len({features.shown_name("x", frame) for frame in (None, 0, 1, -4)}) == 4
    model = model_of(paligemma)[0]
    made_by = features.made_by(model, False)
    other_sizes = dataclasses.replace(CONFIG.vision, image_size=42)
    assert features.made_by(model_of(paligemma, vision=other_sizes)[0], False) != made_by
    assert features.made_by(dataclasses.replace(model, exact="below bfloat16"), False) != made_by
    packed = lambda path: features.made_by(dataclasses.replace(model, quantized={path: "nf4"}), False)
    assert packed("vision/layers/mlp/up/kernel") != made_by == packed("text/layers/mlp/up/kernel")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())  # now what a.png is
    files = on_disk()
    assert counts[-1] == 0
    a, b = (files.read(Key(tmp_path / name)) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(a, b)
    Image.new("RGB", (30, 20)).save(tmp_path / "b.png")
    assert not np.array_equal(on_disk().read(Key(tmp_path / "b.png")), a) and counts[-1] == 1


def test_a_damaged_file_is_computed_again_and_said_where_it_is_met(paligemma, examples, counts, kept_files, capsys):
    feed = feed_of(*model_of(paligemma), examples, 0.0)
    whole = {file: file.read_bytes() for file in kept_files("features")}
    torn = kept_files("features")[0]
    torn.write_bytes(bytes([whole[torn][0] ^ 1]) + whole[torn][1:])
    model, params = model_of(paligemma)
    with pytest.raises(UserError, match=f"{torn.name}.*deleted or damaged during the run"):
        scored(model, params, examples, feed)
    capsys.readouterr()
    feed_of(model, params, examples, 0.0)
    assert counts[-1] == 1 and {file: file.read_bytes() for file in kept_files("features")} == whole
    assert "1 files of image features are damaged" in capsys.readouterr().err


def test_without_room_on_the_disk_rows_bring_tiles_and_it_is_said(paligemma, examples, kept_files, monkeypatch, capsys):
    monkeypatch.setattr(features.disk, "SPARE", 2**60)
    assert isinstance(feed_of(*model_of(paligemma), examples, 0.0), TileFeed) and not kept_files("features")
    said = capsys.readouterr().err
    assert "4 files" in said and "ROLLTUNE_CACHE" in said
    assert isinstance(feed_of(*model_of(paligemma), examples, 0.0, in_step=True), TileFeed)  # a tower that is trained
    assert capsys.readouterr().err == ""


def test_views_of_a_picture_stand_beside_it_by_every_way_and_under_names_of_their_own(small, examples, kept_files):
    model, params = model_of(small)
    plain = read_pictures(model.family, model.config, examples)
    encoded, _ = rows.encode_rows(model, plain, examples, ASKING, rows.TRAIN)
    changed = views(("crop", "flip", "colour"), 3)
    shown = rows.in_views(encoded, [0, 1, 2, 4], changed)
    assert [row.tokens.tolist() for row in shown] == [row.tokens.tolist() for row in encoded] * 3
    stays = [place for place in range(6) if shown[6 + place] is encoded[place]]
    assert stays == [2, 3, 5]  # without a picture, and those that are not asked for
    keys = dict.fromkeys(key for row in shown[:2] + shown[4:5] for key in row.pictures)
    pictures = with_views(plain, keys, changed[1:])
    assert len(pictures.places) == 4 + 2 * 3
    ready = trees.arrange(trees.unflatten(trees.flatten(params)), model.stacks)
    found = []
    for limit, in_step in ((1.0, False), (0.0, False), (1.0, True)):
        feed = features.feed(model, params, pictures, False, in_step, limit)
        found.append(score_all(Network(model.family, model.config), ready, shown, feed))
    for near, far, tiles in zip(*found, strict=True):
        np.testing.assert_allclose(near, far, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(near, tiles, rtol=1e-5, atol=1e-5)
    assert len({row.tobytes() for row in found[0]}) == 6 + 2 * 3
    untouched = features.content(list(plain.places))
    assert {file.name for file in kept_files("features")} > set(untouched.values())  # as without views
    assert len(kept_files("features")) == 10
    assert features.bytes_of(model, pictures, False) == 10 * features.bytes_of(model, plain, False) // 4


def test_text_alone_needs_no_tower(paligemma, examples, counts):
    feed = feed_of(*model_of(paligemma), [examples[2]], 0.0)
    assert isinstance(feed, TableFeed) and not feed.source.rows.shape[0] and not counts


def test_pictures_of_different_numbers_of_tiles_are_computed_each_with_its_like(paligemma, tmp_path):
    """A family that cuts wide pictures in two; of each tile's four rows, it reads the first three."""
    halves = lambda size: 2 if size[1] > size[0] else 1

    def picture(config, image):
        one = PALIGEMMA.family.picture(config, image).pixels
        return Tiles(np.concatenate([one + n for n in range(halves((image.height, image.width)))]))

    slots = lambda config, size: np.concatenate([4 * n + np.arange(3, dtype=np.int32) for n in range(halves(size))])
    family = dataclasses.replace(
        PALIGEMMA.family, picture=picture, tiles=lambda config, size: halves(size), slots=slots
    )
    small = Small("halves", family, CONFIG, lambda: PALIGEMMA.params, sizes=((28, 28), (20, 30)))
    assert [len(small.pictures.places[key].used) for key in range(2)] == [3, 6]
    some = [small.row("a b", "cd", shown=shown) for shown in ([0], [1], [1, 2], [], [3, 0, 5])]
    tiles = score_all(small.net, small.ready, some, small.tiles)
    table = score_all(small.net, small.ready, some, features.table(small.model, small.params, small.pictures, False))
    for one, other in zip(tiles, table, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert len({row[0] for row in tiles}) == 5


def test_pictures_of_as_many_tiles_go_together_each_with_its_own_aspect(monkeypatch):
    """Eight tiles at a time: of two, four pictures, the last ones filled up; each has the rows that are used."""
    batches = []

    def run(params, tiles, aspect):
        batches.append((sorted(params), tiles.shape[:2], aspect[:, 0].tolist()))
        return np.stack([np.arange(5)[:, None] + 10 * number for number in aspect[:, 0]])

    keys = list(range(7))
    pictures = SimpleNamespace(
        tiles=lambda key: 1 if key == 3 else 2,
        open=lambda key: Tiles(np.zeros((1 if key == 3 else 2, 4, 4, 3), np.uint8), key),
        places={key: SimpleNamespace(used=np.array([key % 5, 4])) for key in keys},
    )
    monkeypatch.setattr(features, "program", lambda *given: run)
    found = dict(features.compute(None, {"text": 0, "vision": 1, "projector": 2}, pictures, keys, False))
    assert {key: rows[:, 0].tolist() for key, rows in found.items()} == {
        key: [10 * key + key % 5, 10 * key + 4] for key in keys
    }
    names = ["projector", "vision"]
    assert batches == [(names, (4, 2), [0, 1, 2, 4]), (names, (4, 2), [5, 6, 6, 6]), (names, (8, 1), [3] * 8)]


def test_at_least_one_picture_goes_at_a_time():
    assert [features.at_once(tiles) for tiles in (1, 2, 3, 8, 9, 40)] == [8, 4, 2, 1, 1, 1]
