"""Opens awkward and mutated image files, each measured in a process of its own: outcomes, peak memory, slowest.

    python benchmarks/image_robustness.py ../shared/data/robustness            # every file against its manifest
    python benchmarks/image_robustness.py ../shared/data/robustness --fuzz 2000 # and seeded mutations of good files

A file passes when it is opened whole as RGB, or refused with an error that names it. Anything else - another
exception, a crash, more than the limits of memory and time - is printed and makes the exit status 1. Workers are
forked with every module loaded, each opens a batch of files, and a worker that dies is known by the file it was at.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import imagehash
from PIL import Image

from rolltune.data.fingerprints import fingerprint
from rolltune.data.images import open_image
from rolltune.errors import UserError

SECONDS = 30
MEMORY = 2 * 2**30  # address space above what the process had; the limit below which nothing may run away


def look(path: Path) -> str:
    """ "opened", "refused", or what else happened: opens the middle frame, then every frame for a fingerprint."""
    outcomes = []
    for work in (open_image, fingerprint):
        try:
            work(path)
            outcomes.append("opened")
        except UserError as error:
            outcomes.append("refused" if str(path) in str(error) else f"error without the file's name: {error}")
        except Exception as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    strange = [outcome for outcome in outcomes if outcome not in ("opened", "refused")]
    return strange[0] if strange else "refused" if "refused" in outcomes else "opened"


def peak_kib() -> int:
    """The most memory this process had resident since `clear_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def clear_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def work(paths: list[Path], pipe) -> None:
    warnings.simplefilter("ignore")
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff reports every oddity there
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for path in paths:
        pipe.send(("at", path, 0.0, 0))
        clear_peak()
        before, start = peak_kib(), time.perf_counter()
        outcome = look(path)
        pipe.send((outcome, path, time.perf_counter() - start, peak_kib() - before))
    pipe.send(("done", None, 0.0, 0))


def measured(paths: list[Path]) -> list[tuple[str, Path, float, int]]:
    """(outcome, path, seconds, KiB of memory above the process's own) of each file."""
    results, waiting = [], list(paths)
    context = multiprocessing.get_context("fork")
    while waiting:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(waiting, theirs))
        process.start()
        theirs.close()
        at = waiting[0]
        while True:
            try:
                message = ours.recv() if ours.poll(SECONDS) else ("hung", at, SECONDS, 0)
            except EOFError:
                message = ("crashed", at, 0.0, 0)
            if message[0] == "at":
                at = message[1]
                continue
            if message[0] != "done":
                results.append(message)
                waiting = waiting[waiting.index(message[1]) + 1 :]
            if message[0] in ("done", "hung", "crashed"):
                process.kill()
                process.join()
                break
    return results


def mutations(files: list[Path], count: int, folder: Path, seed: int) -> list[Path]:
    """`count` damaged copies: bytes changed, runs of zeros, cut short, pieces of two files, lengths blown up."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        source = rng.choice(files)
        data = bytearray(source.read_bytes())
        kind = rng.randrange(5)
        if kind == 0:
            for _ in range(rng.randrange(1, 20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 1:
            start = rng.randrange(len(data))
            data[start : start + rng.randrange(1, 64)] = bytes(rng.randrange(1, 64))
        elif kind == 2:
            del data[rng.randrange(1, len(data)) :]
        elif kind == 3:
            other = rng.choice(files).read_bytes()
            data = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
        else:  # the first bytes hold sizes, offsets and counts
            for _ in range(rng.randrange(1, 4)):
                place = rng.randrange(min(64, len(data)))
                data[place : place + 4] = rng.choice((b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\xff\xff"))
        path = folder / f"{number}{source.suffix}"
        path.write_bytes(data)
        made.append(path)
    return made


def report(title: str, results: list[tuple[str, Path, float, int]]) -> list[tuple[str, Path, float, int]]:
    outcomes = Counter(outcome for outcome, *_ in results)
    strange = [result for result in results if result[0] not in ("opened", "refused")]
    slowest = max(results, key=lambda result: result[2])
    largest = max(results, key=lambda result: result[3])
    print(f"{title}: {len(results)} files, " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    print(f"  slowest: {slowest[2]:.2f} s ({slowest[1].name}); all: {sum(result[2] for result in results):.1f} s")
    print(f"  most memory above the process's own: {largest[3] / 1024:.0f} MiB ({largest[1].name})")
    for outcome, path, seconds, _ in strange:
        print(f"  NOT IN ORDER: {path}: {outcome} ({seconds:.1f} s)")
    return strange


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with manifest.jsonl and the files it names")
    parser.add_argument("--fuzz", type=int, default=0, metavar="N", help="also N seeded mutations of its good files")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    imagehash.phash(Image.new("L", (32, 32)))  # loads SciPy, which would count as the first file's time
    entries = [json.loads(line) for line in (options.folder / "manifest.jsonl").read_text().splitlines()]
    results = measured([options.folder / entry["image"] for entry in entries])
    bad = report("manifest", results)
    loads = {options.folder / entry["image"]: entry.get("load") == "ok" for entry in entries}
    refused = [path.name for outcome, path, *_ in results if outcome == "refused" and loads[path]]
    more = [path.name for outcome, path, *_ in results if outcome == "opened" and not loads[path]]
    print(f"  Pillow loads {sum(loads.values())} whole; of these refused by us: {len(refused)} {refused or ''}")
    print(f"  opened by us though Pillow does not load them whole: {len(more)} {more or ''}")
    if options.fuzz:
        good = [path for path, whole in loads.items() if whole and path.stat().st_size < 200_000]
        with tempfile.TemporaryDirectory() as folder:
            paths = mutations(good, options.fuzz, Path(folder), options.seed)
            bad += report(f"mutations (seed {options.seed})", measured(paths))
    return 1 if bad or refused else 0


if __name__ == "__main__":
    sys.exit(main())
