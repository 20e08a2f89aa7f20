"""A run that saves as it goes, killed (-9) again and again, in its own process: `python killed.py FOLDER KILLS SEED`.

A few donated steps over arrays that are cut along two axes stand for a training. JAX and orbax are imported once; every
run is a fork that starts its own devices, so that a kill costs a second and not ten.
"""

import json
import os
import random
import signal
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

os.environ |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rolltune.training import checkpoints, savings
from rolltune.training.loop import Slot, State
from rolltune.training.rolls import Draw
from rolltune.training.saves import Pace, Saves
from rolltune.training.step import Roll

EVERY, STEPS, PAUSE = 3, 60, 0.01
same = lambda judged: judged


def begin() -> State:
    """Two rolls, of arrays that are cut by rolls and, the large ones, by columns, too."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("rolls", "columns"))
    lay = lambda leaf, *axes: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("rolls", *axes)))
    large = lambda seed: lay(jax.random.normal(jax.random.key(seed), (2, 64, 1024)), None, "columns")
    arrays = {"trainable": {"w": large(0)}, "optimizer": {"m": large(1)}, "key": lay(jnp.zeros((2, 2), jnp.uint32))}
    rolls = Roll(**{name: arrays.get(name, lay(jnp.zeros(2))) for name in Roll._fields})
    return State(rolls, [Slot(Draw(n, n, 0.1, 8.0, 0.0)) for n in range(2)], 2)


@partial(jax.jit, donate_argnums=0)
def step(rolls: Roll) -> Roll:
    w, m = rolls.trainable["w"], rolls.optimizer["m"]
    m = 0.9 * m + jnp.sin(w) / (1 + rolls.step[:, None, None])
    return rolls._replace(trainable={"w": w - 0.1 * m}, optimizer={"m": m}, step=rolls.step + 1)


def run(folder: Path, end: Path, told: int) -> None:
    """Begins, or goes on, and writes to `told` where from, and each step."""
    state, there = begin(), None
    if savings.exists(folder):
        state = there = checkpoints.load(folder, {}, state, same)
    assert all(np.asarray(state.rolls.step) == state.step), "a saving that is not of the step that it says"
    compiled = step.lower(state.rolls).compile()
    os.write(told, f"{state.step}\n".encode())
    with Saves(folder, {}, same, pace=Pace(steps=EVERY), there=there) as saves:
        while state.step < STEPS:
            state.rolls, state.step = compiled(state.rolls), state.step + 1
            os.write(told, f"{state.step}\n".encode())
            saves.settle(wait=False)
            if saves.due(state.step):
                saves.begin(state)
            time.sleep(PAUSE)
    np.savez(
        end, **{name: np.asarray(leaf) for name, leaf in {**state.rolls.trainable, **state.rolls.optimizer}.items()}
    )


def forked(folder: Path, end: Path, more: int | None, seconds: float = 0.0) -> list[int]:
    """The steps that a run told of, the first one where it began; killed so many seconds after so many more of them."""
    reading, telling = os.pipe()
    if not (child := os.fork()):
        status = 1
        try:
            run(folder, end, telling)
            status = 0
        finally:
            os._exit(status)
    os.close(telling)
    with os.fdopen(reading) as lines:
        steps = [int(lines.readline())]
        if more is not None:
            steps += map(int, islice(lines, more))
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        steps += map(int, lines)
    _, status = os.waitpid(child, 0)
    assert status in ((0,) if more is None else (0, signal.SIGKILL)), status  # on a busy machine it may be done by then
    return steps


def main(folder: Path, kills: int, seed: int) -> None:
    draw, lost, half, last = random.Random(seed), [], 0, 0
    forked(folder / "whole", folder / "whole.npz", None)
    for number in range(kills + 1):
        more = draw.randint(1, STEPS // (kills + 1)) if number < kills else None
        steps = forked(folder / "cut", folder / "cut.npz", more, draw.uniform(0, EVERY * PAUSE))
        if number:
            lost.append(last - steps[0])
        last = steps[-1]
        there = [path for path in (folder / "cut").glob("*") if not (path / savings.CHECKS).exists()]
        half += bool(there) and number < kills
    one, other = (np.load(folder / f"{name}.npz") for name in ("whole", "cut"))
    equal = all(np.array_equal(one[name], other[name]) for name in one.files)
    print(json.dumps({"seed": seed, "kills": kills, "while saving": half, "lost": lost, "equal": equal}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
