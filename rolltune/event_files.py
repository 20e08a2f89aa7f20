"""TensorBoard's event files: scalars as it reads them, nothing else.

tensorboardX, whose SummaryWriter does the same, was tried and left out: on a full disk its writing thread dies and the
training then waits for it for ever; it imports torch where there is one, and starts a thread and a pipe for each run.

The format: records as TensorFlow frames them (tensorflow/core/lib/io/record_writer.h), each an Event
(tensorflow/core/util/event.proto) in protobuf's encoding.
"""

import struct
import time
from collections.abc import Mapping
from pathlib import Path

VERSION = b"brain.Event:2"
# CRC-32C: the polynomial of Castagnoli, reflected (RFC 3720). zlib's crc32 has another one.
POLYNOMIAL = 0x82F63B78


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """The bytes as a file of records holds them: length, its checksum, data, theirs. All numbers little-endian."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    """The checksum, changed so that a record of records has others inside and outside."""
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def scalars_event(wall_time: float, step: int, values: Mapping[str, float]) -> bytes:
    """An Event with a scalar for each name. `wall_time` in seconds since 1970."""
    summary = b"".join(
        _block(1, _block(1, name.encode("utf-8")) + b"\x15" + struct.pack("<f", value))  # tag, simple_value
        for name, value in values.items()
    )
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + _block(5, summary)


def version_event(wall_time: float) -> bytes:
    """What an event file begins with."""
    return b"\x09" + struct.pack("<d", wall_time) + _block(3, VERSION)


def _block(field: int, data: bytes) -> bytes:
    """A protobuf field of bytes, text or another message."""
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """A whole number from 0, seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def append_scalars(folder: Path, wall_time: float, step: int, values: Mapping[str, float]) -> None:
    """Adds scalars to the event file of a folder; makes both where they are not there yet.

    The file is closed again: many runs need no many open files, and a killed training leaves what it logged.
    """
    there = next(event_files(folder), None)
    made = b"" if there else record(version_event(wall_time))
    folder.mkdir(parents=True, exist_ok=True)
    # TensorBoard sorts the files of a folder by name, which begins with the time; another one would be read as well.
    path = there or folder / f"events.out.tfevents.{int(time.time()):010d}.rolltune"
    with path.open("ab") as file:
        file.write(made + record(scalars_event(wall_time, step, values)))


def event_files(folder: Path):
    return folder.glob("events.out.tfevents.*.rolltune")


def clear(folder: Path) -> None:
    """Deletes the event files in a folder and in those directly below it, and these where nothing else is in them."""
    for one in [*(path for path in folder.glob("*") if path.is_dir()), folder]:
        ours = list(event_files(one))
        for path in ours:
            path.unlink()
        if ours and not any(one.iterdir()):
            one.rmdir()
