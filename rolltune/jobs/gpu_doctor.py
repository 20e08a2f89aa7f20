"""What is wrong with the GPU of this machine, or with what stands between it and JAX: facts, then what they mean.

Facts are gathered once (`gather`); what they mean (`findings`) is a pure function of them.
"""

import importlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from rolltune.data.findings import ERROR, NOTE, WARNING, Finding
from rolltune.device import cache_folder
from rolltune.free_memory import gib

DRIVERS = {"cuda12": 525, "cuda13": 580}  # the oldest that each plugin's CUDA runs on
CAPABILITIES = {"cuda12": 5.2, "cuda13": 7.5}
LARGE = 4 * 2**30 + 2**28  # bytes of one array: a 3B model has such, and some versions fail just above 4 GiB
BLOCK = 2**28  # bytes
SLOW = 5.0  # a block that is passed over so many times slower than others does not lie on the card
SLOW_DISK = 50e6  # bytes a second
SMALL_SHARED = 2**28
BF16_FROM = 8.0  # compute capability


@dataclass(frozen=True)
class Gpu:
    """One card as the driver lists it."""

    name: str
    total: int  # bytes
    used: int  # by all programs; the desktop's share, before this one takes anything
    driver: str
    capability: float | None


@dataclass(frozen=True)
class Cache:
    """A folder that things are kept in. `problem` is why it can't be written."""

    path: Path
    problem: str = ""
    speed: float = 0.0  # bytes a second, written and brought to the disk


@dataclass(frozen=True)
class Facts:
    jax: str
    plugin: str = ""  # cuda12 or cuda13, as installed; empty: JAX for the CPU
    plugin_version: str = ""
    backend: str = "cpu"  # what JAX computes on
    backend_error: str = ""
    gpus: tuple[Gpu, ...] = ()
    wsl: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)  # of the environment, as the person made them
    large: int = 0  # bytes of the one array that was tried; 0: none was
    large_error: str = ""
    blocks: tuple[float, ...] = ()  # seconds to pass over each block of nearly all that is free
    caches: tuple[Cache, ...] = ()
    shared: int | None = None  # bytes of /dev/shm


def version(text: str) -> tuple[int, ...]:
    """ "0.11.1" is (0, 11, 1); what is no number ends it."""
    found = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)


def spilled(seconds: Sequence[float]) -> int:
    """How many blocks are passed over so much slower than most that they must lie in the machine's own memory."""
    if len(seconds) < 4:
        return 0
    usual = sorted(seconds)[len(seconds) // 4]
    return sum(one > SLOW * usual for one in seconds)


def findings(facts: Facts) -> list[Finding]:
    """What to put right, most urgent first."""
    found = [*_without_gpu(facts), *_versions(facts), *_memory(facts), *_settings(facts), *_machine(facts)]
    order = {ERROR: 0, WARNING: 1, NOTE: 2}
    return sorted(found, key=lambda one: order[one.level])


def _without_gpu(facts: Facts) -> list[Finding]:
    if facts.backend == "gpu":
        return []
    here = "this machine"
    if facts.backend_error:
        return [
            Finding(
                ERROR, "JAX does not start", here, facts.backend_error, "docs/troubleshooting.md, The GPU is not found"
            )
        ]
    if facts.gpus and not facts.plugin:
        advice = "./bin/quickstart.sh --install-only --with cuda12, or ./bin/docker-build.sh cuda12"
        return [
            Finding(
                ERROR, "JAX for the CPU", facts.gpus[0].name, "a card is there, but JAX computes on the CPU", advice
            )
        ]
    if facts.gpus:
        advice = "look at the versions below; JAX_PLATFORMS must not say cpu"
        return [
            Finding(
                ERROR,
                "GPU not used",
                facts.gpus[0].name,
                "a card and JAX's plugin are there, and JAX computes on the CPU",
                advice,
            )
        ]
    wsl = (
        "on WSL2 the driver is Windows' own: update it there. "
        if facts.wsl
        else "install NVIDIA's driver (nvidia-smi -L lists the card then). "
    )
    what = "no GPU: nvidia-smi lists none" + (", though JAX's plugin for one is installed" if facts.plugin else "")
    advice = f"{wsl}Without one the built-in model trains on the CPU; 09-plan_memory.py --card plans for another card"
    return [Finding(ERROR, "no GPU", here, what, advice)]


def _versions(facts: Facts) -> list[Finding]:
    found, jax = [], version(facts.jax)
    if facts.plugin and version(facts.plugin_version) != jax:
        text = f"jax is {facts.jax}, its plugin for {facts.plugin} {facts.plugin_version}"
        found.append(Finding(ERROR, "versions differ", "jax", text, f"pip install 'jax[{facts.plugin}]=={facts.jax}'"))
    if jax >= (0, 11) and facts.wsl:
        text = f"JAX {facts.jax} on WSL2 cannot allocate a single array of 4 GiB or more on some cards"
        found.append(
            Finding(ERROR, "known-bad version", "jax", text, f"pip install 'jax[{facts.plugin or 'cuda12'}]==0.10.1'")
        )
    elif jax >= (0, 11):
        text = f"JAX {facts.jax}; what comes with rolltune was tried with 0.10.1"
        found.append(Finding(NOTE, "untried version", "jax", text, ""))
    for gpu in facts.gpus:
        needed, able = DRIVERS.get(facts.plugin, 0), CAPABILITIES.get(facts.plugin, 0.0)
        if version(gpu.driver)[:1] < (needed,):
            text = f"driver {gpu.driver} is too old for {facts.plugin}, which needs {needed}"
            advice = "update the driver" + ("; or JAX for older ones: cuda12" if facts.plugin == "cuda13" else "")
            found.append(Finding(ERROR, "old driver", gpu.name, text, advice))
        if gpu.capability is not None and gpu.capability < able:
            text = f"compute capability {gpu.capability:g} is too old for {facts.plugin}, which needs {able:g}"
            found.append(Finding(ERROR, "old card", gpu.name, text, "take cuda12, or compute on the CPU"))
        elif gpu.capability is not None and gpu.capability < BF16_FROM:
            text = (
                f"compute capability {gpu.capability:g} has no bfloat16: weights lie there in float16, math is float32"
            )
            found.append(Finding(WARNING, "no bfloat16", gpu.name, text, "training works; expect little speed"))
    return found


def _memory(facts: Facts) -> list[Finding]:
    found = []
    for gpu in facts.gpus:
        share = gpu.used / max(gpu.total, 1)
        text = f"{gib(gpu.used)} of {gib(gpu.total)} are held by the desktop and other programs"
        if share > 0.25:
            advice = "close what holds it (nvidia-smi lists it): browsers and games take gigabytes"
            found.append(Finding(WARNING, "memory in use", gpu.name, text, advice))
        else:
            advice = f"plan with 09-plan_memory.py --desktop {max(gpu.used / 2**30, 0.1):.1f}GiB"
            found.append(Finding(NOTE, "memory in use", gpu.name, text, advice))
    if facts.large_error:
        text = f"one array of {gib(facts.large)} could not be made: {facts.large_error}"
        advice = "close other programs; XLA_PYTHON_CLIENT_ALLOCATOR=cuda_async; JAX 0.10.1"
        found.append(Finding(ERROR, "large allocation", "GPU", text, advice))
    if count := spilled(facts.blocks):
        text = (
            f"{count} of {len(facts.blocks)} blocks of {gib(BLOCK)} are {SLOW:g} times slower or worse: the driver has "
            "put them into the machine's own memory, without an error"
        )
        advice = (
            "NVIDIA control panel, Manage 3D settings, CUDA - Sysmem Fallback Policy: Prefer No Sysmem Fallback; until "
            "then keep well below the card's memory (09-plan_memory.py)"
        )
        found.append(Finding(WARNING, "memory spills over", "GPU", text, advice))
    return found


def _settings(facts: Facts) -> list[Finding]:
    found, said = [], facts.settings
    allocator = said.get("XLA_PYTHON_CLIENT_ALLOCATOR", "cuda_async")
    if allocator not in ("cuda_async",):
        text = f"XLA_PYTHON_CLIENT_ALLOCATOR={allocator}: room in pieces serves no large array with it"
        found.append(Finding(WARNING, "allocator", "environment", text, "unset XLA_PYTHON_CLIENT_ALLOCATOR"))
    if said.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false").lower() in ("1", "true"):
        text = "XLA_PYTHON_CLIENT_PREALLOCATE is on: JAX takes three quarters of the card at once, the desktop's too"
        found.append(Finding(WARNING, "allocator", "environment", text, "unset XLA_PYTHON_CLIENT_PREALLOCATE"))
    if said.get("TF_GPU_ALLOCATOR"):
        text = "TF_GPU_ALLOCATOR does nothing for JAX"
        found.append(Finding(NOTE, "allocator", "environment", text, "unset TF_GPU_ALLOCATOR"))
    if said.get("JAX_PLATFORMS", "").lower() == "cpu" and facts.gpus:
        text = "JAX_PLATFORMS=cpu keeps JAX off the card"
        found.append(Finding(ERROR, "GPU not used", "environment", text, "unset JAX_PLATFORMS"))
    return found


def _machine(facts: Facts) -> list[Finding]:
    found = []
    for cache in facts.caches:
        if cache.problem:
            advice = "make it writable (chown), or name another folder: ROLLTUNE_CACHE=/path"
            found.append(Finding(ERROR, "cache folder", str(cache.path), f"can't be written: {cache.problem}", advice))
        elif cache.speed < SLOW_DISK:
            text = f"written at {cache.speed / 1e6:.0f} MB/s, which every start waits for"
            advice = (
                "a Windows drive under WSL2 (/mnt/c) is slow: keep it in Linux's own file system, ROLLTUNE_CACHE=/path"
            )
            found.append(Finding(WARNING, "slow cache folder", str(cache.path), text, advice))
    if facts.shared is not None and facts.shared < SMALL_SHARED:
        text = f"{facts.shared / 2**20:.0f} MiB: programs that share memory between processes fail with so little"
        found.append(
            Finding(WARNING, "shared memory", "/dev/shm", text, "docker run --shm-size=1g (bin/docker-run.sh does)")
        )
    return found


# What follows asks the machine.


def gather(share_memory: Callable[[MutableMapping[str, str]], None]) -> Facts:
    """Asks the driver, JAX, the disks. Nearly all of the card's memory is taken for a moment.

    `share_memory` sets what the commands set before JAX is imported; what the person set is read before.
    """
    settings = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(("XLA_", "JAX_", "TF_GPU_"))}
    share_memory(os.environ)
    gpus = listed_gpus()  # before JAX takes any memory
    plugin, plugin_version = installed_plugin()
    backend, problem = started_backend()
    large, large_error, blocks = 0, "", ()
    if backend == "gpu":
        free = min((gpu.total - gpu.used for gpu in gpus), default=0)
        large = min(LARGE, free // 2)
        large_error = allocation_error(large)
        if not large_error:
            blocks = tuple(block_times(int(free * 0.9)))
    return Facts(
        metadata.version("jax"), plugin, plugin_version, backend, problem, gpus, on_wsl(), settings, large, large_error,
        blocks, tuple(map(tried, (cache_folder(), cache_folder() / "xla", Path("checkpoints")))), shared_memory(),
    )  # fmt: skip


def on_wsl(file: Path = Path("/proc/version")) -> bool:
    try:
        return "microsoft" in file.read_text().lower()
    except OSError:
        return False


def listed_gpus() -> tuple[Gpu, ...]:
    query = "--query-gpu=name,memory.total,memory.used,driver_version,compute_cap"
    try:
        printed = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return read_gpus(printed)


def read_gpus(printed: str) -> tuple[Gpu, ...]:
    """The lines that nvidia-smi prints; what a driver does not know is left out."""
    found = []
    for line in printed.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 5 and parts[1].isdecimal() and parts[2].isdecimal():
            try:
                capability: float | None = float(parts[4])
            except ValueError:
                capability = None
            found.append(Gpu(parts[0], int(parts[1]) << 20, int(parts[2]) << 20, parts[3], capability))
    return tuple(found)


def installed_plugin() -> tuple[str, str]:
    for name in ("cuda12", "cuda13"):
        try:
            return name, metadata.version(f"jax-{name}-plugin")
        except metadata.PackageNotFoundError:
            continue
    return "", ""


def started_backend() -> tuple[str, str]:
    """(what JAX computes on, the error that it ends with)."""
    try:
        jax = importlib.import_module("jax")
        return jax.default_backend(), ""
    except Exception as error:  # whatever a plugin raises is what the person has to see
        return "", str(error).splitlines()[0][:300]


def allocation_error(size: int) -> str:
    import jax.numpy as jnp

    try:
        jnp.zeros(size, jnp.uint8).block_until_ready()
        return ""
    except Exception as error:  # XLA raises several kinds
        return str(error).splitlines()[0][:200]


def block_times(size: int) -> list[float]:
    """Seconds to pass over each block of an area of that size, all of them held at a time; fewer where no more come."""
    import jax
    import jax.numpy as jnp

    total = jax.jit(lambda x: jnp.sum(x))
    held: list[jax.Array] = []
    try:
        for _ in range(max(size // BLOCK, 0)):
            held.append(jnp.ones(BLOCK // 4, jnp.float32).block_until_ready())
    except Exception:  # full before its time: what came is looked at
        held = held[:-1]
    if held:
        total(held[0]).block_until_ready()
    return [_best_of(lambda block=block: total(block).block_until_ready()) for block in held]  # type: ignore[misc]


def _best_of(run: Callable[[], object], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)


def tried(folder: Path, size: int = 16 * 2**20) -> Cache:
    """Writes a file there, brings it to the disk, takes it away. A folder that is not there yet is left as it was."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    file = place / f".rolltune-doctor-{os.getpid()}"
    try:
        began = time.perf_counter()
        with open(file, "wb") as out:
            out.write(os.urandom(size))
            out.flush()
            os.fsync(out.fileno())
        return Cache(folder, "", size / (time.perf_counter() - began))
    except OSError as error:
        return Cache(folder, str(error.strerror))
    finally:
        file.unlink(missing_ok=True)


def shared_memory(path: Path = Path("/dev/shm")) -> int | None:
    return shutil.disk_usage(path).total if path.is_dir() else None


def told(facts: Facts) -> list[str]:
    """The facts in a few lines."""
    kind = f"with {facts.plugin} {facts.plugin_version}" if facts.plugin else "for the CPU"
    lines = [f"JAX {facts.jax} {kind}, computing on {facts.backend or 'nothing'}"]
    lines += [
        f"{gpu.name}: {gib(gpu.total)}, {gib(gpu.used)} in use, driver {gpu.driver}"
        + (f", compute capability {gpu.capability:g}" if gpu.capability else "")
        for gpu in facts.gpus
    ]
    if facts.large and not facts.large_error:
        lines.append(f"one array of {gib(facts.large)}: made")
    if facts.blocks:
        usual = sorted(facts.blocks)[len(facts.blocks) // 2]
        lines.append(f"{gib(len(facts.blocks) * BLOCK)} filled and read, at {BLOCK / usual / 1e9:.0f} GB/s")
    lines += [f"{cache.path}: {cache.speed / 1e6:.0f} MB/s" for cache in facts.caches if not cache.problem]
    if facts.shared is not None:
        lines.append(f"/dev/shm: {gib(facts.shared)}")
    lines += [f"{name}={value}" for name, value in facts.settings.items()]
    return lines
