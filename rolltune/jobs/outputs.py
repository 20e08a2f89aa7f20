"""Where a run leaves what; that its name is free, and held by one run at a time; that there is room."""

import contextlib
import glob
import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from rolltune import atomic
from rolltune.data.files import safe_name
from rolltune.data.sets import shown
from rolltune.errors import UserError

RANKED = re.compile(r"(\.roll\d+)?\.(rank|step)\d+$")  # of the files of one run, all but the best roll's
WHOLE = ".whole.npz"  # ends the name of a whole model (`weights.whole`, which this file must not wait for)
SPARE = 2**28  # bytes of the disk that are left to others


class Outputs:
    """Where a run of this name leaves what: ./checkpoints for rolls, ./reports for what people read."""

    def __init__(self, name: str):
        taken = RANKED.search(name) or name.endswith((".whole", ".state"))
        if not name or safe_name(name) != name or name.startswith(".") or taken:
            raise UserError(
                f"-w {name!r}: expected a plain name, such as trained-set1 (names that end in .rank2, .step100, .whole "
                "or .state are those of other files of a run)"
            )
        self.name = name
        self.roll = Path("checkpoints") / f"{name}.npz"
        self.whole = Path("checkpoints") / f"{name}{WHOLE}"
        self.state = Path("checkpoints") / f"{name}.state"
        reports = Path("reports")
        self.report, self.board = reports / f"{name}.html", reports / f"{name}.leaderboard.json"
        self.metrics, self.folds = reports / f"{name}.metrics.jsonl", reports / f"{name}.out-of-fold.jsonl"
        self.doubtful = reports / f"{name}.doubtful.jsonl"
        self.stale: list[Path] = []  # of an earlier run, which goes when this one is saved
        self.tensorboard, self.wandb = reports / f"{name}.tensorboard", reports / f"{name}.wandb"

    def kept(self, rank: int) -> Path:
        """The roll of this rank: the best has the bare name."""
        return self.roll if rank == 1 else self.roll.with_name(f"{self.name}.rank{rank}.npz")

    def at_step(self, step: int, roll: int | None = None) -> Path:
        """A roll's state on its way; `roll` where there are several."""
        return self.roll.with_name(f"{self.name}{'' if roll is None else f'.roll{roll}'}.step{step}.npz")

    def drop_steps(self, keep: int, roll: int | None = None) -> None:
        """Deletes all but the latest `keep` of a roll's states on its way."""
        step_of = lambda path: int(path.stem.rpartition(".step")[2])
        pattern = self.at_step(0, roll).name.replace(".step0.", ".step*.")
        for path in sorted(self.roll.parent.glob(pattern), key=step_of)[:-keep]:
            path.unlink()

    @property
    def others(self) -> list[Path]:
        """The further rolls of a run of this name that are there: of lower ranks, and of earlier steps."""
        found = self.roll.parent.glob(f"{self.name}.*.npz")
        return sorted(path for path in found if RANKED.search(path.stem) and RANKED.sub("", path.stem) == self.name)

    def check_free(self) -> None:
        """Raises UserError where a roll of this name is there: what was trained is never replaced unasked."""
        there = [path for path in (self.roll, self.whole, *self.others) if path.exists()]
        if not there:
            return
        made = datetime.fromtimestamp(there[0].stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        more = f" and {len(there) - 1} more of that run" if len(there) > 1 else ""
        raise UserError(
            f"{shown(there[0])} is there already, of {made}{more}. Take another name, such as -w {self.next_name()}, "
            "which keeps both; --overwrite replaces it"
        )

    def next_name(self) -> str:
        """The first free name of the kind NAME-v2, NAME-v3, ..."""
        stem, number = self.name, 2
        if match := re.fullmatch(r"(.+)-v(\d+)", self.name):
            stem, number = match[1], int(match[2]) + 1
        while (self.roll.parent / f"{stem}-v{number}.npz").exists():
            number += 1
        return f"{stem}-v{number}"

    def check_room(self, needed: int) -> None:
        """Raises UserError where the disk has no room for what this run will save: before hours of work, not after."""
        for folder in (self.roll.parent, self.report.parent):
            atomic.check_folder(folder)
        free = shutil.disk_usage(self.roll.parent).free
        if needed + SPARE > free:
            raise UserError(
                f"{shown(self.roll.parent)}: {free / 1e9:.2f} GB are free, and this run saves up to "
                f"{needed / 1e9:.2f} GB (its rolls, and its state on the way): make room there first"
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """One run of a name at a time. The lock goes with the process, however it ends."""
        atomic.check_folder(self.roll.parent)
        lock = FileLock(self.roll.parent / f".{self.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"-w {self.name}: another run of this name is going on; take another name") from error
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody waits for it
            lock.release()


def named_roll(named: str, folder: Path = Path("checkpoints")) -> Path:
    """A path as it is, or that of the one npz in the folder; a bare name is that of a roll in ./checkpoints. Raises
    UserError, with the names there are."""
    path = exported(Path(named)) or Path(named)
    inside = folder / f"{named}.npz"
    if path.is_file() or not inside.is_file():
        if not path.exists() and path.name == named:
            there = ", ".join(sorted(one.stem for one in folder.glob("*.npz"))[:20]) or "none"
            raise UserError(f"{named}: no such roll; in ./checkpoints there are: {there}")
        return path
    return inside


def exported(folder: Path) -> Path | None:
    """The whole model in a folder as 08-export.py writes it (--to npz), which has no other; None elsewhere."""
    found = list(folder.glob("*.npz"))
    return found[0] if len(found) == 1 and found[0].name.endswith(WHOLE) else None


def names_roll(text: str) -> bool:
    """Whether a word names a roll, or what was fine-tuned elsewhere, and no data."""
    folder = Path(text)
    foreign = any((folder / name).is_file() for name in ("adapter_config.json", "config.json"))
    return text.endswith(".npz") or Path("checkpoints", f"{text}.npz").is_file() or foreign or bool(exported(folder))


def named_rolls(patterns: Sequence[str]) -> list[Path]:
    """Every roll that the names and patterns mean, once, in order; whole models only where one is named itself."""
    paths: list[Path] = []
    for pattern in patterns:
        if glob.has_magic(pattern) and not Path(pattern).is_file():
            some = [path for path in sorted(glob.glob(pattern)) if not path.endswith(WHOLE)]
            if not some:
                raise UserError(f"{pattern!r}: no roll has such a name")
            paths += map(Path, some)
        else:
            paths.append(named_roll(pattern))
    return list(dict.fromkeys(paths))
