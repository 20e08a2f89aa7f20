"""Graphics cards by what the compiler asks of one, so that a program can be compiled for a card that is not there."""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from rolltune.device import BFLOAT16_FROM, FLOAT8_FROM
from rolltune.errors import UserError


@dataclass(frozen=True)
class Card:
    """Figures of NVIDIA's own data sheets. What a program needs in memory hangs on few of them, and hardly."""

    name: str
    gib: float  # that the driver reports, all in all
    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    bandwidth: int  # bytes a second
    cache: int  # of level 2, bytes
    shared: int  # memory that a core's threads share, bytes
    threads: int = 2048  # a core, at most
    clock: float = 1.5  # GHz

    @property
    def dtype(self) -> str:
        """What `auto` takes on it: see `device.choose_dtype`."""
        return "bfloat16" if self.capability >= BFLOAT16_FROM else "float16"

    @property
    def float8(self) -> bool:
        """Whether it multiplies in eight bits."""
        return self.capability >= FLOAT8_FROM

    def described(self) -> str:
        """XLA's GpuTargetConfigProto as text."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared} threads_per_core_limit: {self.threads} core_count: {self.cores}
  fpus_per_core: {64 if self.capability in ((7, 0), (7, 5), (8, 0)) else 128} block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {self.bandwidth} l2_cache_size: {self.cache}
  clock_rate_ghz: {self.clock} device_memory_size: {round(self.gib * 2**30)}
  shared_memory_per_block_optin: {self.shared - (1024 if major >= 8 else 0)}
  cuda_compute_capability {{
    major: {major} minor: {minor} {"feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""}
  }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{self.name}"
"""


MIB = 2**20
CARDS = {
    "h100": Card("NVIDIA H100 80GB HBM3", 79.1, (9, 0), 132, 3_352_320_000_000, 50 * MIB, 233472, clock=1.98),
    "h200": Card("NVIDIA H200", 139.8, (9, 0), 132, 4_800_000_000_000, 50 * MIB, 233472, clock=1.98),
    "a100": Card("NVIDIA A100-SXM4-40GB", 39.5, (8, 0), 108, 1_555_000_000_000, 40 * MIB, 167936, clock=1.41),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", 23.6, (8, 9), 128, 1_008_000_000_000, 72 * MIB, 102400, 1536, 2.52),
    "rtx4070": Card("NVIDIA GeForce RTX 4070", 12.0, (8, 9), 46, 504_200_000_000, 36 * MIB, 102400, 1536, 2.475),
    "rtx3060": Card("NVIDIA GeForce RTX 3060", 12.0, (8, 6), 28, 360_000_000_000, 9 * MIB // 4, 102400, 1536, 1.777),
    "t4": Card("Tesla T4", 15.0, (7, 5), 40, 320_000_000_000, 4 * MIB, 65536, 1024, 1.59),
    "v100": Card("Tesla V100-SXM2-16GB", 16.0, (7, 0), 80, 897_000_000_000, 6 * MIB, 98304, clock=1.53),
}


def find(name: str) -> Card:
    """The card of that name. Raises UserError, which lists those that there are."""
    found = CARDS.get(name.lower().replace(" ", "").replace("-", ""))
    if found is None:
        raise UserError(f"--card {name!r}: expected one of {', '.join(CARDS)}; --budget says how much memory it has")
    return found


def compiler_here() -> bool:
    """Whether JAX's plugin for CUDA is installed: the compiler comes with it, whether or not there is a card."""
    return any(importlib.util.find_spec(name) for name in ("jax_cuda12_plugin", "jax_cuda13_plugin"))


def allow_absent_card() -> None:
    """To be called before JAX is imported: its plugin asks the driver for versions, and there is no driver."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")


def described(card: Card, count: int) -> list[Any]:
    """So many cards of one host that are only described: programs of arrays that lie there are compiled for them."""
    from jax.experimental import topologies

    topology = f"1x1x{count}"
    target = dict(platform="cuda", topology_name=card.name, topology=topology, target_config=card.described())
    return list(topologies.get_topology_desc(**target).devices)
