"""A quantized base is packed once: then what was kept is read, unless it is damaged or made of something else."""

import os
import time

import jax
import numpy as np
import pytest

from rolltune import base
from rolltune.weights import packed

RULES = [("text/layers/mlp/.*", "int8"), ("text/layers/attn/o/.*", "float8"), (".*", "keep")]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`load(listed)`: the built-in model; whether its own file was read is in `load.streamed`."""
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    stream = base.stream_packed

    def counted(*args):
        load.streamed += 1
        return stream(*args)

    monkeypatch.setattr(base, "stream_packed", counted)

    def load(listed=False, rules=RULES):
        load.streamed = 0
        return base.load("tiny", dtype="float32", quantize=rules, listed=listed)

    return load


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_the_second_start_reads_what_was_kept_stacked_or_in_lists(load):
    model, params = load()
    assert load.streamed == 1
    again, kept = load()
    assert load.streamed == 0 and same(params, kept)
    assert (again.base, again.exact, again.config) == (model.base, model.exact, model.config)
    _, listed = load(listed=True)
    assert load.streamed == 0
    matrix = listed["text"]["layers"]["mlp"]["up"]["kernel"]
    assert isinstance(matrix, list) and same(matrix[1], params["text"]["layers"]["mlp"]["up"]["kernel"][1])
    load(rules=[("text/layers/attn/.*", "int8"), (".*", "keep")])
    assert load.streamed == 1


def test_what_was_loaded_in_lists_is_kept_as_well(load):
    _, params = load(listed=True)
    _, kept = load(listed=True)
    assert load.streamed == 0 and same(params, kept)


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "about", "gone"])
def test_what_is_damaged_is_made_again_and_said(load, tmp_path, capsys, damage):
    _, params = load()
    (folder,) = (tmp_path / "cache/packed").iterdir()
    weights, about = folder / packed.WEIGHTS, folder / packed.ABOUT
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "flip": lambda: weights.write_bytes(data),
        "cut": lambda: weights.write_bytes(data[:-9]),
        "longer": lambda: weights.write_bytes(weights.read_bytes() + b"x"),
        "about": lambda: about.write_text('{"digests": {"hash": 5, "exact": ""}}'),
        "gone": weights.unlink,
    }[damage]()
    _, again = load()
    assert load.streamed == 1 and same(params, again)
    assert ("damaged" in capsys.readouterr().err) == (damage != "gone")
    load()
    assert load.streamed == 0


def test_other_files_and_a_full_disk_leave_nothing_behind(load, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as full:
        full.setattr(packed.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**30})())
        _, made = load()
    assert "packed anew at each start" in capsys.readouterr().err
    assert not list((tmp_path / "cache/packed").iterdir())
    assert same(made, load()[1]) and load.streamed == 1  # what is read from the file is what was made
    copy = tmp_path / "copy.npz"
    copy.write_bytes((base.TINY / "paligemma-tiny.npz").read_bytes())
    first = packed.made_of(copy, {}, {})
    copy.write_bytes(copy.read_bytes())
    assert packed.made_of(copy, {}, {}) != first


def after_keeping(monkeypatch, happens):
    """What happens to the folder between writing and reading it back."""

    def kept(said, *args, keep=packed.keep):
        done = keep(said, *args)
        happens(packed.folder_of(said))
        return done

    monkeypatch.setattr(packed, "keep", kept)


def test_a_disk_that_gives_back_other_bytes_is_told_of_and_gone_without(load, monkeypatch, capsys):
    def wear(folder):
        weights = folder / packed.WEIGHTS
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff\xff")

    after_keeping(monkeypatch, wear)
    model, made = load()
    assert load.streamed == 2 and "damaged" in capsys.readouterr().err
    monkeypatch.undo()
    plain, expected = base.load("tiny", dtype="float32", quantize=RULES)
    assert same(made, expected) and model.base == plain.base


def test_a_start_goes_on_while_another_one_puts_its_own_in_the_place(load, monkeypatch):
    """No file system swaps two folders in one step: for a moment there is none."""
    away = lambda folder: folder.with_name("moved")
    after_keeping(monkeypatch, lambda folder: folder.rename(away(folder)))

    def read(said, *args, read=packed.read):
        found = read(said, *args)
        if away(folder := packed.folder_of(said)).exists():
            away(folder).rename(folder)
        return found

    monkeypatch.setattr(packed, "read", read)
    _, made = load()
    assert load.streamed == 1 and made


def test_what_a_killed_start_left_is_removed_when_it_is_a_day_old(load, tmp_path):
    folder = tmp_path / "cache/packed"
    for name, age in ((".a.1f.part", 2), (".b.2f.part.old", 2), (".c.3f.part", 0)):
        (folder / name).mkdir(parents=True)
        (folder / name / packed.WEIGHTS).write_bytes(b"half")
        for path in (folder / name / packed.WEIGHTS, folder / name):
            os.utime(path, (time.time() - age * packed.ABANDONED,) * 2)
    load()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".c.3f.part"]
