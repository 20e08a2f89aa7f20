"""States below the first trained layer: on the device, on the disk and worked out anew they are the same."""

import dataclasses
import gc
import shutil
import weakref
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rolltune import adapters
from rolltune.data.batches import evaluation_batches
from rolltune.errors import UserError
from rolltune.families import paligemma
from rolltune.inputs import disk
from rolltune.training import inputs

FIRST = 2


def log_probs(model, params, table, rows, shapes):
    run = jax.jit(lambda batch: paligemma.log_probs(model.config, params, batch, table))
    found = {}
    for places, batch in evaluation_batches(rows, 2, shapes):
        found |= dict(zip(places.tolist(), np.asarray(run(batch)), strict=False))
    return [found[place] for place in range(len(rows))]


@pytest.fixture
def prepare(make_model, examples):
    """`prepare(limit)`: (the model, its tree split at FIRST, rows, shapes, what `keep_states` gives)."""

    def run(limit, images_limit=1.0, examples=examples, first=FIRST, **changes):
        model = make_model(**changes)
        images = inputs.prepare_images(model, examples, False, images_limit)
        rows = inputs.make_rows(model, images, examples, answers=("yes", "no way"))
        shapes = rows.shapes()
        params = adapters.split_layers(model.params, first)
        kept = inputs.keep_states(model, params, images, rows, shapes, first_layer=first, batch=2, limit_gib=limit)
        return model, params, images, rows, shapes, kept

    return run


def upper_of(params):
    text = {name: part for name, part in params["text"].items() if name != "lower"}
    return {"text": text}  # neither tower nor projector nor the layers below


@pytest.mark.parametrize("images_limit", [1.0, 0.0])  # features out of the table, and from the disk
def test_states_from_the_device_and_the_disk_equal_the_whole_way(prepare, images_limit):
    model, params, images, rows, shapes, on_device = prepare(1.0, images_limit)
    anew = log_probs(model, params, images.table, rows, shapes)
    table, pointing = on_device
    assert table.values is not None
    near = log_probs(model, upper_of(params), table, pointing, shapes)
    table, pointing = prepare(0.0, images_limit)[-1]
    assert table.values is None and isinstance(pointing[0].pixels, disk.Stored)
    far = log_probs(model, upper_of(params), table, pointing, shapes)
    for one, other, whole in zip(near, far, anew, strict=True):
        np.testing.assert_allclose(one, whole, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other, whole, rtol=1e-5, atol=1e-5)


def test_rows_of_states_keep_no_image_features_alive(prepare):
    pointing = (found := prepare(1.0))[-1][1]
    features = weakref.ref(found[2].table.values)
    del found
    gc.collect()
    assert features() is None and len(pointing[0].pixels) == 1


def test_a_row_finds_its_own_states_and_no_others(prepare, examples, tmp_path):
    files = lambda: {
        file for file in (tmp_path / "cache/states").rglob("*") if file.suffix != ".json" and file.is_file()
    }
    prepare(0.0)
    first = files()
    assert len(first) == len(examples)
    times = {file: file.stat().st_mtime_ns for file in first}
    prepare(0.0)
    assert {file: file.stat().st_mtime_ns for file in files()} == times  # read, not made again
    asked = [
        dataclasses.replace(one, turns=(dataclasses.replace(one.turns[0], text="or so?"), one.turns[1]))
        for one in examples
    ]
    for number, change in enumerate(
        (dict(examples=asked), dict(first=1), dict(hash="others"), dict(dtype="bfloat16")), 2
    ):
        prepare(0.0, **change)
        assert len(files()) == number * len(examples), change
    (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes())
    prepare(0.0)
    assert len(files()) == 5 * len(examples) + 1  # b, b is new; b alone is known


def test_without_room_the_layers_stay_and_it_is_said(prepare, monkeypatch, capsys, tmp_path):
    _, pointing = prepare(0.0)[-1]
    pointing[0].pixels.paths[0].unlink()
    with pytest.raises(UserError, match="deleted or changed during the run"):
        np.asarray(pointing[0].pixels)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=disk.SPARE))
    assert prepare(0.0)[-1] is None
    assert "states of lower layers take" in capsys.readouterr().err
