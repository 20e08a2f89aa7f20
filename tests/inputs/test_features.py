"""Image features on the disk: the same as worked out anew, never of another picture or model, never half a file."""

import dataclasses
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from small_model import CONFIG

from rolltune.data.batches import evaluation_batches
from rolltune.errors import UserError
from rolltune.families import paligemma
from rolltune.inputs import disk, features
from rolltune.training import inputs


def kept_files(folder):
    return sorted(file for file in (folder / "cache/features").rglob("*") if file.is_file() and file.suffix != ".json")


def run_counted(monkeypatch) -> list[int]:
    """Grows by the number of pictures worked out, each time that some are."""
    counts, real = [], features.work_out

    def counting(model, pictures, count):
        counts.append(count)
        return real(model, pictures, count)

    monkeypatch.setattr(features, "work_out", counting)
    return counts


def log_probs(model, images, examples, without_tower=False):
    rows = inputs.make_rows(model, images, examples, answers=("yes", "no"))
    params = {k: v for k, v in model.params.items() if not (without_tower and k in ("vision", "projector"))}
    run = jax.jit(lambda batch: paligemma.log_probs(model.config, params, batch, images.table))
    found = {}
    for places, batch in evaluation_batches(rows, 2, rows.shapes()):
        found |= dict(zip(places.tolist(), np.asarray(run(batch)), strict=False))
    return [found[place] for place in range(len(rows))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stored_features_equal_those_of_the_table_and_of_pixels(make_model, examples, monkeypatch, dtype):
    model = make_model(dtype=dtype)
    slack = dict(rtol=1e-5, atol=1e-5) if dtype == "float32" else dict(rtol=0.05, atol=0.05)
    table = log_probs(model, inputs.prepare_images(model, examples, False, 1.0), examples)
    counts = run_counted(monkeypatch)
    images = inputs.prepare_images(model, examples, False, 0.0)
    assert images.table is None and images.opened and counts == [4]
    first = log_probs(model, images, examples, without_tower=True)
    again = log_probs(model, inputs.prepare_images(model, examples, False, 0.0), examples, without_tower=True)
    assert counts == [4]  # the second time, all of them are read
    pixels = log_probs(model, inputs.Images({}), examples)
    for one, other, whole, anew in zip(first, again, table, pixels, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, whole, **slack)
        np.testing.assert_allclose(one, anew, **slack)


def test_another_picture_or_setting_never_meets_an_older_entry(make_model, examples, tmp_path, monkeypatch):
    counts = run_counted(monkeypatch)
    prepare = lambda **changes: inputs.prepare_images(make_model(**changes), examples, False, 0.0)
    prepare()
    assert counts == [4] and len(kept_files(tmp_path)) == 4
    other_sizes = dataclasses.replace(CONFIG.vision, image_size=42)
    for changes in ({"hash": "others"}, {"resize": "bicubic"}, {"dtype": "bfloat16"}):
        prepare(**changes)
        assert counts[-1] == 4, changes
    assert len({features.frame_name("x", frame) for frame in (None, 0, 1, -4)}) == 4
    made_by = features.made_by(make_model())
    assert features.made_by(make_model(vision=other_sizes)) != made_by
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())  # now what a.png is
    before = list(counts)
    images = prepare()
    assert counts == before
    a, b = (np.asarray(images.stored[tmp_path / name, None]) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(a, b)
    Image.new("RGB", (20, 30)).save(tmp_path / "b.png")
    assert not np.array_equal(np.asarray(prepare().stored[tmp_path / "b.png", None]), a) and counts[-1] == 1


def test_a_torn_file_is_made_again_and_a_deleted_one_is_said(make_model, examples, tmp_path, monkeypatch):
    model = make_model()
    images = inputs.prepare_images(model, examples, False, 0.0)
    whole = {file: file.read_bytes() for file in kept_files(tmp_path)}
    torn = kept_files(tmp_path)[0]
    torn.write_bytes(whole[torn][:-4])
    with pytest.raises(UserError, match="deleted or changed during the run"):
        [np.asarray(one) for one in images.stored.values()]
    counts = run_counted(monkeypatch)
    images = inputs.prepare_images(model, examples, False, 0.0)
    assert counts == [1] and {file: file.read_bytes() for file in kept_files(tmp_path)} == whole
    torn.unlink()
    with pytest.raises(UserError, match=torn.name):
        [np.asarray(one) for one in images.stored.values()]

    def fails(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.atomic, "write_bytes", fails)
    with pytest.raises(UserError, match="ROLLTUNE_CACHE"):
        inputs.prepare_images(model, examples, False, 0.0)


def test_without_room_on_the_disk_rows_bring_pixels_and_it_is_said(make_model, examples, tmp_path, monkeypatch, capsys):
    model = make_model()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=disk.SPARE + 100))
    images = inputs.prepare_images(model, examples, False, 0.0)
    assert not images.opened and not kept_files(tmp_path)
    said = capsys.readouterr().err
    assert "4 files" in said and "ROLLTUNE_CACHE" in said
    assert not inputs.prepare_images(model, examples, True, 0.0).opened  # a tower that is trained sees pixels
    assert capsys.readouterr().err == ""
