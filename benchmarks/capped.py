"""A card with less memory than it has: another process holds the rest."""

import os
import subprocess
import sys
from collections.abc import Mapping

CONTEXT_MIB = 500  # what the other process's CUDA context takes beside its allocation


def query(what: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The command that says so, in MiB, of the first card that programs see."""
    card = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]  # nvidia-smi itself tells of all of them
    return ["nvidia-smi", f"--id={card}", f"--query-gpu={what}", "--format=csv,noheader,nounits"]


def hold_all_but(gib: float, environment: Mapping[str, str] = os.environ) -> subprocess.Popen:
    """Starts another process that takes the device's memory but for so much, which no allocator can ignore. End it."""
    asked = query("memory.free,memory.total", environment)
    printed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    free, total = map(float, printed.splitlines()[0].split(","))
    share = (free - CONTEXT_MIB - gib * 1024) / total
    variables = dict(environment) | {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
        "XLA_PYTHON_CLIENT_ALLOCATOR": "default",  # CUDA's own pool may give back what it took at the start
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.5f}",
    }
    program = "import jax, time; jax.numpy.zeros(1).block_until_ready(); print(flush=True); time.sleep(3600)"
    process = subprocess.Popen([sys.executable, "-c", program], env=variables, stdout=subprocess.PIPE, text=True)
    if not process.stdout.readline():
        raise SystemExit(f"the process that was to take all but {gib} GiB ended with status {process.wait()}")
    left = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(",")[0]
    print(f"left on the device: {float(left) / 1024:.2f} GiB", file=sys.stderr, flush=True)
    return process
