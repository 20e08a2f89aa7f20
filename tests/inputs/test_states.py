"""States below the first trained layer: on the device, on the disk and computed anew they are the same."""

import dataclasses
import gc
import shutil
import weakref
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_families import PALIGEMMA, score_encoded

from rolltune import trees
from rolltune.data.batches import Encoded
from rolltune.errors import UserError
from rolltune.evaluation.tasks import CHOOSE, Task
from rolltune.inputs import disk, features, rows, states
from rolltune.inputs.feeds import DiskFeed, TableFeed
from rolltune.inputs.pictures import read_pictures
from rolltune.inputs.rows import Asking
from rolltune.models.forward import Network
from rolltune.weights.roll_file import Base

FIRST = 2
ASKING = Asking(Task(CHOOSE, ("no way", "yes")))


@dataclasses.dataclass(frozen=True)
class Made:
    network: Network
    base: dict
    encoded: object  # as it is without
    kept: object  # rows that point at states, or None

    @property
    def upper(self) -> tuple[Network, dict]:
        """What training runs: neither tower nor the layers below."""
        text = {name: part for name, part in self.base["text"].items() if name != "lower"}
        rest = {name: part for name, part in self.base.items() if name not in self.network.family.towers}
        return dataclasses.replace(self.network, first=self.first, projected=True), rest | {"text": text}

    @property
    def first(self) -> int:
        lower = self.base["text"]["lower"]
        return len(lower) if isinstance(lower, list) else len(jax.tree.leaves(lower)[0])


@pytest.fixture
def keep(tmp_path, monkeypatch, examples):
    """`keep(small, limit)`: rows of the examples, states kept below FIRST, by the limit on the device or the disk."""
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))

    def run(small, limit, feed_limit=1.0, some=examples, first=FIRST, listed=False, dtype="float32", **of_model):
        config = dataclasses.replace(small.config, dtype=dtype)
        model = dataclasses.replace(small.model, **{"config": config, "base": Base(small.name, "weights")} | of_model)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), small.params)
        pictures = read_pictures(model.family, config, some)
        feed = features.feed(model, params, pictures, True, False, feed_limit)
        made = rows.encoded(rows.encode_rows(model, pictures, some, ASKING, rows.SCORE)[0], feed, some)
        base = trees.arrange(params, model.stacks, first, listed)
        network = Network(model.family, config, projected=True)
        return Made(network, base, made, states.keep(model, network, base, made, first, 2, limit))

    return run


def test_as_much_as_the_limit_stays_on_the_device_and_a_row_counts_once():
    model, made = PALIGEMMA.model, [PALIGEMMA.row("is it?", "yes" * n, shown=[n]) for n in range(3)]
    size = sum(len(row.tokens) for row in made) * model.config.text.width * 4
    twice = Encoded(made * 2, None, (), [])
    for limit, fits in ((size, True), (size - 1, False)):
        assert states.placing(model, twice, FIRST, limit / 2**30) == (False, fits)
    pictures = PALIGEMMA.pictures
    for projected, width in ((False, model.config.vision.width), (True, model.config.text.width)):
        size = sum(len(places.used) for places in pictures.places.values()) * width * 4
        assert features.bytes_of(model, pictures, projected) == size
        for limit, fits in ((size, True), (size - 1, False)):
            assert features.in_table(model, pictures, projected, limit / 2**30) == fits


@pytest.mark.parametrize("feed_limit", [1.0, 0.0])  # features out of the table, and from the disk
@pytest.mark.parametrize("first", [1, 2])
def test_states_from_the_device_and_the_disk_equal_the_whole_way(small, keep, feed_limit, first):
    beside = small.family.keys is not None  # then states and pictures lie in one table, or in files alike
    near = keep(small, 1.0, 1.0 if beside else feed_limit, first=first, listed=first == 2)
    far = keep(small, 0.0, 0.0 if beside else feed_limit, first=first)
    if beside:
        assert keep(small, feed_limit, 1.0 - feed_limit, first=first).kept is None
    assert isinstance(near.kept.feed, TableFeed) and isinstance(far.kept.feed, DiskFeed)
    whole = score_encoded(near.network, near.base, near.encoded)
    assert len({row.tobytes() for row in whole}) == 6
    for made in (near, far):
        for one, other in zip(score_encoded(*made.upper, made.kept), whole, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_table_holds_as_many_bytes_as_it_may(keep):
    size = keep(PALIGEMMA, 1.0).kept.feed.source.rows.nbytes
    feeds = [keep(PALIGEMMA, limit / 2**30).kept.feed for limit in (size, size - 1)]
    assert isinstance(feeds[0], TableFeed) and isinstance(feeds[1], DiskFeed)


def test_rows_of_states_keep_no_image_features_alive(keep):
    made = keep(PALIGEMMA, 1.0)
    table, kept = weakref.ref(made.encoded.feed.source.rows), made.kept
    del made
    gc.collect()
    assert table() is None and [len(row.pictures) for row in kept.rows] == [1] * 6


def test_a_row_that_stands_in_several_views_is_kept_once(keep):
    made = keep(PALIGEMMA, 1.0)
    first, *others = made.encoded.rows
    twice = dataclasses.replace(made.encoded, rows=[first, *others, first._replace(), *others], views=2)
    kept = states.keep(PALIGEMMA.model, made.network, made.base, twice, FIRST, 2, 1.0)
    held = lambda encoded: encoded.feed.source.rows.shape[0]
    assert held(kept) == held(made.kept) + len(first.tokens) and kept.views == 2
    scores = score_encoded(*made.upper, kept)
    for one, other in zip(scores[:6], scores[6:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_row_finds_its_own_states_and_no_others(keep, examples, tmp_path, kept_files):
    keep(PALIGEMMA, 0.0)
    first = kept_files("states")
    assert len(first) == len(examples)
    times = {file: file.stat().st_mtime_ns for file in first}
    keep(PALIGEMMA, 0.0)
    assert {file: file.stat().st_mtime_ns for file in kept_files("states")} == times  # read, not made again
    asked = [
        dataclasses.replace(one, turns=(dataclasses.replace(one.turns[0], text="or so?"), one.turns[1]))
        for one in examples
    ]
    packed = {"text/layers/mlp/up/kernel": "nf4"}
    changes = (dict(some=asked), dict(first=1), dict(base=Base("others", "others")), dict(dtype="bfloat16"))
    changes += (dict(quantized=packed),)
    for number, change in enumerate(changes, 2):
        keep(PALIGEMMA, 0.0, **change)
        assert len(kept_files("states")) == number * len(examples), change
    (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes())
    keep(PALIGEMMA, 0.0)
    assert len(kept_files("states")) == 6 * len(examples) + 1  # b, b is new; b alone is known


def test_without_room_the_layers_stay_and_it_is_said(keep, monkeypatch, capsys, kept_files):
    made = keep(PALIGEMMA, 0.0)
    kept_files("states")[0].unlink()
    with pytest.raises(UserError, match="deleted or damaged during the run"):
        score_encoded(*made.upper, made.kept)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=disk.SPARE))
    assert keep(PALIGEMMA, 0.0).kept is None
    assert "states of lower layers take" in capsys.readouterr().err


def test_rows_with_one_text_and_other_answers_have_names_of_their_own(keep, examples):
    made = keep(PALIGEMMA, 1.0)
    row = made.encoded.rows[0]
    changed = [
        row,
        row._replace(tokens=row.tokens + 1),
        row._replace(segments=row.segments * 2),
        row._replace(blocks=row.blocks + 1),
        row._replace(positions=row.positions + 1),
        row._replace(slots=np.roll(row.slots, 1)),
        row._replace(seen=row.seen + 1),
        row._replace(pictures=made.encoded.rows[3].pictures),
    ]
    names = states.row_names(changed)
    assert len(set(names)) == len(changed) and states.row_names([row]) == names[:1]


def test_a_row_points_at_its_states_and_its_keys_after_them():
    row = PALIGEMMA.row("a b", "c")._replace(keys=np.array([2, 3], np.int32))
    length = len(row.tokens)
    alone = states.pointing_at_states(row, "name", 2, False)
    assert alone.slots.tolist() == list(range(2, 2 + length)) and not len(alone.keys)
    assert (alone.pictures, alone.counts) == (("name",), (length,))
    crossing = states.pointing_at_states(row, "name", 2, True)
    assert crossing.keys.tolist() == [2 + length, 3 + length]
    assert (crossing.pictures, crossing.counts) == (("name", *row.pictures), (length, *row.counts))
