"""What saving a run's state costs a loop, and what kill -9 costs a run that saves: the built-in model, on a CPU.

    python benchmarks/saving.py cost --folder /tmp/saving                 # saved aside, saved on the spot, not saved
    python benchmarks/saving.py kill --folder /tmp/saving --kills 20      # and each time gone on with; the seed is said
    python benchmarks/saving.py term --folder /tmp/saving --kills 3       # SIGTERM instead: how long until it ends

`kill` forks its runs from one process in which nothing of JAX has begun but its import, so that a kill costs seconds.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from rolltune.__main__ import main as rolltune
from rolltune.tiny.ads import write_sample_ads
from rolltune.training.saves import Saves

RUN = ("--config.log_every=1", "--config.stall=0", "--config.evaluate_batch=16")


def set_up(folder: Path) -> None:
    """The sample ads as a set of 24 rows to train on and 12 to evaluate on, in the working directory."""
    os.environ["ROLLTUNE_CACHE"] = str(folder.resolve() / "cache")
    if not (folder / "dataset" / "set1").exists():
        write_sample_ads(folder / "dataset" / "set1")
        rows = (folder / "dataset" / "set1" / "data.jsonl").read_text().splitlines()
        (folder / "dataset" / "set1" / "train.jsonl").write_text("\n".join(rows[:24]) + "\n")
        (folder / "dataset" / "set1" / "valid.jsonl").write_text("\n".join(rows[24:36]) + "\n")
    os.chdir(folder)


def learn(name: str, *arguments: str) -> int:
    return rolltune(["learn", "-d", "set1", "-w", name, "--overwrite", *RUN, *arguments])


def cost(megabytes: int, every: int, rounds: int) -> None:
    """Milliseconds for which a loop of donated steps stands still at a saving, and until the saving is whole.

    The state is one roll of three arrays, as weights and AdamW's states are; each step reads and writes all of it.
    """
    import jax
    import jax.numpy as jnp

    from rolltune.training.loop import Slot, State
    from rolltune.training.rolls import Draw
    from rolltune.training.step import Roll

    size = megabytes * 250_000 // 3
    drawn = lambda seed: jax.random.normal(jax.random.key(seed), (1, size))
    step = jax.jit(lambda rolls: jax.tree.map(lambda leaf: leaf * 0.999 + 1e-3, rolls), donate_argnums=0)
    taken: dict[str, list[tuple[float, float, float]]] = {"aside": [], "on the spot": [], "none": []}
    for number in range(rounds + 1):  # the first one compiles
        for kind in taken:
            three = {"trainable": {"w": drawn(0)}, "optimizer": {"m": drawn(1), "v": drawn(2)}}
            rolls = Roll(**{name: three.get(name, jnp.zeros(1)) for name in Roll._fields})
            state = State(rolls, [Slot(Draw(0, 0, 0.1, 8.0, 0.0))], 1)
            stood, whole = [], []
            with Saves(Path(f"cost-{kind.replace(' ', '-')}"), {}, lambda judged: judged) as saves:
                began = time.perf_counter()
                for _ in range(4 * every):
                    state.rolls, state.step = step(state.rolls), state.step + 1
                    jax.block_until_ready(state.rolls)
                    if kind != "none" and state.step % every == 0:
                        saves.settle()  # the one before is not this one's to wait for
                        whole.append(saves.seconds)
                        asked = time.perf_counter()
                        saves.begin(state)
                        if kind == "on the spot":
                            saves.settle()
                        stood.append(time.perf_counter() - asked)
                loop = time.perf_counter() - began
            if number:
                taken[kind].append((statistics.median(stood or [0]), statistics.median(whole[1:] or [0]), loop))
    for kind, each in taken.items():
        stood, whole, loop = (statistics.median(values) for values in zip(*each, strict=True))
        told = {"saved": kind, "MB": megabytes, "steps": 4 * every, "savings": 0 if kind == "none" else 4}
        print(
            json.dumps(
                told | {"loop s": round(loop, 2), "stands ms": round(1e3 * stood), "whole ms": round(1e3 * whole)}
            )
        )


def run(job: Callable[[], int]) -> NoReturn:
    """In a fork: it ends here, whatever happens."""
    status = 1
    try:
        status = job()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def forked(sent: int | None, seconds: float, *arguments: str) -> tuple[int, int, int, float]:
    """(step gone on from, last logged step, exit status, seconds from the signal to the end) of a run that is sent a
    signal so many seconds after its first step."""
    reading, telling = os.pipe()
    if not (child := os.fork()):
        os.dup2(telling, 1)
        os.dup2(telling, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)  # the ones before took it for a file
        run(lambda: learn("cut", "--resume", "auto", *arguments))
    os.close(telling)
    first, last, at, due, text, said = 0, 0, None, None, b"", b""
    os.set_blocking(reading, False)
    while True:
        try:
            got = os.read(reading, 1 << 16)
        except BlockingIOError:
            got = None
        if got == b"":
            break
        text, said = text + (got or b""), (said + (got or b""))[-4000:]
        *lines, text = text.split(b"\n")
        for line in lines:
            if found := re.search(rb"going on from step (\d+)", line):
                first = int(found[1])
            if found := re.search(rb"step: (\d+)/", line):
                last = int(found[1])
                due = due or time.perf_counter() + seconds
        if sent is not None and due and at is None and time.perf_counter() > due:
            at = time.perf_counter()
            os.kill(child, sent)
        time.sleep(0.001)
    _, status = os.waitpid(child, 0)
    if at is None and status:
        raise SystemExit(f"a run ended by itself, with {os.waitstatus_to_exitcode(status)}:\n{said.decode()}")
    return first, max(first, last), status, time.perf_counter() - (at or time.perf_counter())


def kill(sent: int, kills: int, seed: int, steps: int, every: int, seconds: float) -> None:
    shape = (f"--config.steps={steps}", "--state-every", str(every))
    shutil.rmtree("checkpoints", ignore_errors=True)
    print(json.dumps({"seed": seed}), flush=True)
    if not (child := os.fork()):
        run(lambda: learn("whole", *shape))
    assert os.waitpid(child, 0)[1] == 0
    draw, lost, half, ends, statuses = random.Random(seed), [], 0, [], set()
    last, arrays, equal = None, 0, []
    while len(ends) < kills or last is not None:  # a run that ends before its kill is compared; the next one begins
        first, now, status, took = forked(sent if len(ends) < kills else None, draw.uniform(0, seconds), *shape)
        if last is not None:
            lost.append(last - first)
        last = now if status else None
        if not status:
            one, other = (np.load(f"checkpoints/{name}.npz", allow_pickle=False) for name in ("whole", "cut"))
            names = [name for name in one.files if one[name].dtype.kind == "f"]
            equal.append(all(np.array_equal(one[name], other[name]) for name in names))
            arrays = len(names)
            continue
        half += any(not (path / "rolltune.json").exists() for path in Path("checkpoints/cut.state").glob("*"))
        ends.append(round(took, 2))
        statuses.add(os.waitstatus_to_exitcode(status))
        print(json.dumps({"kill": len(ends), "from": first, "at": now}), flush=True)
    told = {"kills": kills, "statuses": sorted(statuses), "while saving": half, "lost": lost, "most": max(lost)}
    told |= {"runs": len(equal), "arrays": arrays, "equal": all(equal)}
    print(json.dumps(told | ({"seconds to end": ends} if sent == signal.SIGTERM else {})))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "kill", "term"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=10, help="steps between two savings")
    parser.add_argument("--rounds", type=int, default=3, help="of cost")
    parser.add_argument("--megabytes", type=int, default=60, help="of cost: the state's size")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="after its first step a run is killed within these")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    set_up(args.folder)
    if args.what == "cost":
        cost(args.megabytes, args.every, args.rounds)
    else:
        sent = signal.SIGKILL if args.what == "kill" else signal.SIGTERM
        kill(sent, args.kills, args.seed, args.steps, args.every, args.seconds)


if __name__ == "__main__":
    main()
