"""Numbers on the disk: whole or computed again, never changed in place, never another's."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from rolltune.errors import UserError
from rolltune.inputs import disk

VALUES = {key: np.random.default_rng(n).standard_normal((n + 1, 4)).astype(np.float32) for n, key in enumerate("abc")}


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """`keep(weights="x")`: (the files, which keys were computed for them)."""
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path))

    def run(**made_by):
        computed = []

        def compute(missing):
            for key in reversed(missing):  # in any order
                computed.append(key)
                yield key, VALUES[key]

        about = disk.About("kind", "some numbers", "small", made_by)
        names = {key: f"{key}.name" for key in VALUES}
        lengths = {key: len(value) for key, value in VALUES.items()}
        return disk.keep(about, names, lengths, 4, np.dtype(np.float32), compute), sorted(computed)

    return run


def files_in(folder):
    return sorted(folder.rglob("*.name"))


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_what_is_there_is_read_and_what_is_missing_computed(keep, tmp_path):
    files, computed = keep()
    assert computed == ["a", "b", "c"]
    for key, value in VALUES.items():
        np.testing.assert_array_equal(files.read(key), value)
    files_in(tmp_path)[1].unlink()
    assert keep()[1] == ["b"] and keep()[1] == []
    assert keep(weights="others")[1] == ["a", "b", "c"] and len(files_in(tmp_path)) == 6  # another folder
    about = (tmp_path / "kind").glob("*/about.json")
    assert {'"weights": "others"' in path.read_text() for path in about} == {True, False}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: flip(data, 0),
        lambda data: flip(data, len(data) // 2),
        lambda data: flip(data, len(data) - 1),  # of the checksum itself
        lambda data: data[:16] + bytes(len(data) - 16),  # a hole where a machine lost its power
        lambda data: bytes(len(data) - 1) + b"\1",
        lambda data: data[:-4],
        lambda data: data + b"\0",
        lambda data: b"",
    ],
)
def test_a_damaged_file_is_said_and_computed_again(keep, tmp_path, capsys, damage):
    files, _ = keep()
    whole = {file: file.read_bytes() for file in files_in(tmp_path)}
    torn = files_in(tmp_path)[2]
    torn.write_bytes(damage(whole[torn]))
    with pytest.raises(UserError, match=f"{torn.name}: it was deleted or damaged during the run"):
        files.read("c")
    np.testing.assert_array_equal(files.read("a"), VALUES["a"])
    capsys.readouterr()
    again, computed = keep()
    assert (
        computed == ["c"] and "1 files of some numbers are damaged; they are computed again" in capsys.readouterr().err
    )
    assert {file: file.read_bytes() for file in files_in(tmp_path)} == whole
    np.testing.assert_array_equal(again.read("c"), VALUES["c"])


def test_another_numbers_file_of_the_same_size_is_damaged_too(keep, tmp_path, monkeypatch):
    monkeypatch.setitem(VALUES, "b", VALUES["a"] + 1)
    keep()
    first, second, _ = files_in(tmp_path)
    shutil.copy(first, second)
    files, computed = keep()
    assert computed == ["b"]
    np.testing.assert_array_equal(files.read("b"), VALUES["b"])


def test_another_model_s_file_of_the_same_name_is_damaged_too(keep, tmp_path):
    keep(weights="one")
    first = files_in(tmp_path)
    keep(weights="other")
    (there,) = {file.parent for file in files_in(tmp_path)} - {file.parent for file in first}
    shutil.copy(first[0], there)
    assert keep(weights="other")[1] == ["a"] and keep(weights="one")[1] == []


def test_zeros_alone_are_damaged_too(keep, tmp_path):
    """The checksum of zeros is not zero, but for no bytes at all: a file of zeros can't pass."""
    keep()
    for file in files_in(tmp_path):
        file.write_bytes(bytes(file.stat().st_size))
    assert keep()[1] == ["a", "b", "c"]


def test_without_room_nothing_is_written_and_it_is_said(keep, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=disk.SPARE + 100))
    assert keep() == (None, []) and not files_in(tmp_path)
    said = capsys.readouterr().err
    assert "some numbers take" in said and "3 files" in said and "ROLLTUNE_CACHE" in said
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=disk.SPARE + 200))
    assert keep()[1] == ["a", "b", "c"]


def test_a_disk_that_takes_nothing_is_advice(keep, monkeypatch):
    def fails(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.atomic, "write_bytes", fails)
    with pytest.raises(UserError, match=r"some numbers cannot be kept there.*ROLLTUNE_CACHE"):
        keep()
