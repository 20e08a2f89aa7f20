"""What memory a card has free, by its allocator or its driver; sizes with their units."""

import re
import subprocess

from rolltune import sharding
from rolltune.errors import UserError

HEADROOM = 0.92  # of the free memory: the allocator's own rounding, and what else the desktop opens
CONTEXT = 0.5 * 2**30  # what CUDA and its libraries take of a card beside all arrays; no allocator counts it


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_size(text: str, name: str) -> int:
    """Bytes of "12GiB", "0.8 GiB", "800MB". Raises UserError, which names the flag, for what is no size above 0."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].lower() not in UNITS or not match[2]:
        raise UserError(f"{name} {text!r}: expected a size with its unit, such as 12GiB or 800MiB")
    size = round(float(match[1]) * UNITS[match[2].lower()])
    if not size:
        raise UserError(f"{name} {text!r}: expected more than nothing, such as 12GiB")
    return size


def free_bytes() -> int | None:
    """What the device has left, of several the fullest one; None where nobody says (a CPU)."""
    stats = [one.memory_stats() for one in sharding.cards_here()]
    if not all(stats):
        return None
    if all(one.get("bytes_limit") for one in stats):
        return min(one["bytes_limit"] - one["bytes_in_use"] for one in stats)
    return free_on_card()  # CUDA's own allocator states no limit, and gives back what was freed


def free_on_card() -> int | None:
    """What no process has taken, by the driver; of several cards, the fullest one's. None without an answer."""
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return min((int(line) << 20 for line in printed.split() if line.isdecimal()), default=None)
