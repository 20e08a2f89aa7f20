"""Event files as TensorBoard itself reads them."""

import math
import struct

import pytest
from event_scalars import scalars

from rolltune import event_files


def test_the_checksum_is_castagnolis():
    assert event_files.crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert event_files.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_tensorboard_reads_what_was_written(tmp_path):
    run = tmp_path / "roll0"
    event_files.append_scalars(run, 1000.5, 1, {"loss": 0.5, "valid/F 値": 0.25})
    event_files.append_scalars(run, 1001.5, 300, {"loss": -1e-3})
    event_files.append_scalars(run, 1002.5, 2**40, {"loss": math.inf, "odd": math.nan})
    found = scalars(run)
    assert found["loss"] == [(1, 0.5), (300, pytest.approx(-1e-3)), (2**40, math.inf)]
    assert found["valid/F 値"] == [(1, 0.25)] and math.isnan(found["odd"][0][1])
    assert len(list(run.iterdir())) == 1


def test_every_record_has_its_length_and_both_checksums(tmp_path):
    """A record that was torn or changed is not read: TensorBoard stops at it, as it should."""
    event_files.append_scalars(tmp_path, 1.0, 1, {"loss": 0.5})
    event_files.append_scalars(tmp_path, 2.0, 2, {"loss": 0.25})
    (path,) = tmp_path.iterdir()
    data, sizes = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        sizes.append(length)
        data = data[8 + 4 + length + 4 :]
    assert len(sizes) == 3
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert scalars(tmp_path)["loss"] == [(1, 0.5)]


def test_clearing_takes_event_files_and_nothing_of_anybody_else(tmp_path):
    folder = tmp_path / "ads.tensorboard"
    for run in ("", "roll0", "roll1"):
        event_files.append_scalars(folder / run, 1.0, 1, {"loss": 0.5})
    mine = folder / "roll1/notes.txt"
    mine.write_text("mine")
    event_files.clear(folder)
    assert [path for path in folder.rglob("*") if path.is_file()] == [mine] and not (folder / "roll0").exists()
    mine.unlink()
    mine.parent.rmdir()
    event_files.append_scalars(folder, 1.0, 1, {"loss": 0.5})
    event_files.clear(folder)
    event_files.clear(folder)
    assert not folder.exists()
