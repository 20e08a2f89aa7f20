"""What a step will need, from the compiled program, and how many rolls that leaves room for."""

import subprocess

import jax

from rolltune.data.batches import joint_batch
from rolltune.training.loop import Run, new_state

HEADROOM = 0.92  # of the free memory: the allocator's own rounding, and what else the desktop opens


def step_bytes(run: Run, slots: int) -> int:
    """Peak bytes of one step of `slots` rolls on the device, beside the base and the tables: states and temporaries."""
    state = jax.eval_shape(lambda: new_state(run, slots).rolls)
    loaders = [run.loader(run.lottery.draw(number, fold=None if run.folds is None else number % run.folds))
               for number in range(slots)]  # fmt: skip
    batch, source = joint_batch(loaders, [0] * slots, run.accumulate)
    compiled = run.step.lower(run.base, source, state, batch).compile()  # type: ignore[attr-defined]  # jitted
    analysis = compiled.memory_analysis()
    rolls = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return analysis.temp_size_in_bytes + rolls


def free_bytes() -> int | None:
    """What the device has left, None where nobody says (a CPU)."""
    stats = jax.devices()[0].memory_stats()
    if not stats:
        return None
    if stats.get("bytes_limit"):
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return free_on_card()  # CUDA's own allocator states no limit, and gives back what was freed


def free_on_card() -> int | None:
    """What no process has taken, by the driver; of several cards, the fullest one's. None without an answer."""
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return min((int(line) << 20 for line in printed.split() if line.isdecimal()), default=None)


def fit_rolls(run: Run, most: int = 64) -> tuple[int, str]:
    """(how many rolls fit, in words why). Two compiled programs, of one roll and of two, give the cost of a roll."""
    free = free_bytes()
    if free is None:
        return 4, "rolls: 4, since this device does not say how much memory it has"
    one, two = step_bytes(run, 1), step_bytes(run, 2)
    each = max(two - one, 1)
    count = max(1, min(most, 1 + int((free * HEADROOM - one) // each)))
    gib = lambda size: f"{size / 2**30:.2f} GiB"
    return count, f"rolls: {count}: {gib(free)} are free, the first takes {gib(one)}, each further one {gib(each)}"
