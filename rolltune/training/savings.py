"""The folder of a run's savings, as files: which of them are whole, which undamaged, and which go.

Each is a folder with a number for its name, which orbax writes aside and renames. The list of its files' sizes and
checksums comes last, and a saving without it is not one: a kill at any moment leaves those that were whole.
"""

import contextlib
import json
import shutil
import zlib
from pathlib import Path

from rolltune import atomic

KEPT = 2  # savings: where the last one is damaged, the one before is gone on from
HALF = ".orbax-checkpoint-tmp"  # how the name of a saving ends until it is written
CHECKS = "rolltune.json"  # in the folder of a saving, written last: size and CRC-32 of each of its files


def mark_whole(place: Path) -> None:
    """The last file of a saving: with it, it is one."""
    atomic.write_text(place / CHECKS, json.dumps(_checks_of(place)))


def drop_old(folder: Path, keep: int) -> None:
    """Removes all but the last `keep` that are whole."""
    last = [number for number in _numbers(folder) if _is_whole(folder / str(number))][-keep:]
    for number in _numbers(folder):
        if number not in last:
            (folder / str(number) / CHECKS).unlink(missing_ok=True)  # first: what is half removed is none
            shutil.rmtree(folder / str(number), ignore_errors=True)


def drop_halves(folder: Path) -> None:
    """Removes what a kill left half written."""
    for part in folder.glob(f"*{HALF}"):
        shutil.rmtree(part, ignore_errors=True)


def drop(folder: Path, number: int) -> None:
    """Removes one of them, whole or half written."""
    for part in (folder / f"{number}{HALF}", folder / str(number)):
        shutil.rmtree(part, ignore_errors=True)


def try_folder(folder: Path) -> None:
    """Raises OSError where no folder can be made: once the others write, they would wait for it, for minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f"probe{HALF}"
    probe.mkdir(exist_ok=True)
    probe.rmdir()


def _checks_of(folder: Path) -> dict[str, list[int]]:
    made = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKS):
        crc = 0
        with path.open("rb") as file:
            while part := file.read(1 << 24):
                crc = zlib.crc32(part, crc)
        made[path.relative_to(folder).as_posix()] = [path.stat().st_size, crc]
    return made


def _check_files(place: Path) -> None:
    """Raises ValueError for files that are not as they were saved.

    Orbax would notice, too, but over damaged arrays it leaves reads behind that print tracebacks at the end.
    """
    then, now = json.loads((place / CHECKS).read_text()), _checks_of(place)
    if odd := sorted(name for name in {**then, **now} if then.get(name) != now.get(name)):
        raise ValueError(f"{odd[0]} is not as it was saved")


def _numbers(folder: Path) -> list[int]:
    """Of the savings in a folder, oldest first, those included that were never marked as whole."""
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdecimal()) if folder.is_dir() else []


def _is_whole(place: Path) -> bool:
    return (place / CHECKS).is_file()


def last_number(folder: Path) -> int:
    """Of the latest saving, whole or not; 0 where none is. The next one takes the next: none is ever written over."""
    return max(_numbers(folder), default=0)


def exists(folder: Path) -> bool:
    """Whether a run was left there, damaged afterwards or not."""
    return any(_is_whole(folder / str(number)) for number in _numbers(folder))


def undamaged(folder: Path) -> tuple[int, str]:
    """(the latest saving whose files are as they were saved, or 0; what is wrong with the last one that is whole).

    Those passed over lose their mark, so that the next saving drops them and not the one that was gone on from.
    """
    wrong: list[str] = []
    whole = [number for number in reversed(_numbers(folder)) if _is_whole(folder / str(number))]
    for number in whole:
        try:
            _check_files(folder / str(number))
        except (OSError, ValueError, AttributeError, TypeError) as error:  # the list itself may be what is damaged
            wrong.append(str(error))
            continue
        for other in whole[: len(wrong)]:
            with contextlib.suppress(OSError):
                (folder / str(other) / CHECKS).unlink()
        return number, wrong[0] if wrong else ""
    return 0, wrong[0]


def remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
