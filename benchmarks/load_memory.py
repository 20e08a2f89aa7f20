"""What it costs to load a real-size PaliGemma npz to bfloat16 on the host: memory beside the file's size, and time.

    python benchmarks/load_memory.py                        # float32 (11.7 GB), then bfloat16 (5.8 GB)
    python benchmarks/load_memory.py --dtypes bfloat16 --folder /mnt/big
    python benchmarks/load_memory.py --layers 2             # a smaller decoder and tower, for a quick look

Random weights are written (and deleted at the end), then a fresh process loads them. Two figures of memory are taken:
`VmHWM`, the peak of all resident memory, mapped file pages included, and the peak of `RssAnon`, what the process itself
allocated. The system's file cache is neither's. The limit is 1.2 times the file's size, on the larger of the two.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rolltune.families.paligemma_names import npz_rows, rows_for, sizes_from_npz
from rolltune.weights.identity import TreeDigest
from rolltune.weights.names import CHUNK, DTYPES, Pieces, Shape, TensorMap, stream
from rolltune.weights.npz import read_npz, write_npz

LIMIT = 1.2
VISION = {"image_size": 224, "patch": 14, "width": 1152, "layers": 27, "heads": 16, "mlp": 4304}
TEXT = {"vocab": 257152, "width": 2048, "layers": 18, "heads": 8, "kv_heads": 1, "head_dim": 256, "mlp": 16384}


def random_file(path: Path, dtype: str, layers: int | None) -> None:
    vision, text = dict(VISION), {**TEXT, "post_norms": False}
    if layers:
        vision["layers"] = text["layers"] = layers
    table = npz_rows(SimpleNamespace(vision=SimpleNamespace(**vision), text=SimpleNamespace(**text)))
    kind = DTYPES[dtype]
    block = np.random.default_rng(0).standard_normal(CHUNK, np.float32).astype(kind)

    def pieces(shape: Shape) -> Pieces:
        size = math.prod(shape)
        return Pieces(shape, kind, lambda: (block[: min(CHUNK, size - at)] for at in range(0, size, CHUNK)))

    shapes = {name: shape for row in table for name, shape in row.in_file().items()}
    write_npz(path, {name: pieces(shape) for name, shape in shapes.items()}, prefix="params/")


def memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system's /proc has no {field}: run the benchmark on Linux")


def watch(peak: list[int], stop: threading.Event) -> None:
    while not stop.wait(0.01):
        peak[0] = max(peak[0], memory("RssAnon"))


def load(path: Path, hashed: bool) -> dict:
    """In a process of its own: loads the file, returns the peaks. The whole tree is held at the end."""
    before, peak, stop = memory("VmHWM"), [0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, stop))
    watcher.start()
    start = time.perf_counter()
    lazy = read_npz(path)
    sizes = sizes_from_npz({name: tensor.shape for name, tensor in lazy.items()})
    table: list[TensorMap] = rows_for(lazy, SimpleNamespace(**{k: SimpleNamespace(**v) for k, v in sizes.items()}))
    digest, tree = TreeDigest(), {}
    for name, array in stream(lazy, table, DTYPES["bfloat16"]):
        tree[name] = array
        if hashed:
            digest.add(name, array)
    if hashed:
        digest.hexdigest()
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    held = sum(array.nbytes for array in tree.values())
    return {"seconds": seconds, "resident": memory("VmHWM"), "anonymous": peak[0], "tree": held, "before": before}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("cache"), help="where the random file goes (deleted after)")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--layers", type=int, help="layers of each half instead of 27 and 18")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--hash", action="store_true", help="take the base's digest while loading")
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.load, args.hash)))
        return 0
    failed = False
    args.folder.mkdir(parents=True, exist_ok=True)
    for dtype in args.dtypes:
        needed = 2_923_335_408 * DTYPES[dtype].itemsize
        free = shutil.disk_usage(args.folder).free
        if not args.layers and free < needed * 1.1:
            print(f"{dtype}: not run, {args.folder} has {free / 1e9:.1f} GB free of {needed * 1.1 / 1e9:.1f} needed")
            failed = True
            continue
        path = args.folder / f"random-{dtype}.npz"
        try:
            random_file(path, dtype, args.layers)
            size = path.stat().st_size
            command = [sys.executable, __file__, "--load", str(path), *(["--hash"] if args.hash else [])]
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                print(f"{dtype}: loading ended with status {ended.returncode}\n{ended.stderr}")
                failed = True
                continue
            found = json.loads(ended.stdout)
        finally:
            path.unlink(missing_ok=True)
        ratio = max(found["resident"], found["anonymous"]) / size
        failed |= ratio > LIMIT
        print(
            f"{dtype}: file {size / 1e9:.2f} GB, tree in bfloat16 {found['tree'] / 1e9:.2f} GB, "
            f"peak resident {found['resident'] / 1e9:.2f} GB, peak anonymous {found['anonymous'] / 1e9:.2f} GB, "
            f"before loading {found['before'] / 1e9:.2f} GB, {found['seconds']:.1f} s: "
            f"{ratio:.2f} times the file ({'within' if ratio <= LIMIT else 'OVER'} {LIMIT})"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
