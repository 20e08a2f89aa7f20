"""The device that programs run on: its memory, its compiler, its dtype, and where compiled programs are kept."""

import contextlib
import contextvars
import os
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    return Path(os.environ.get("ROLLTUNE_CACHE") or Path.home() / ".cache" / "rolltune")


def share_memory(environment: MutableMapping[str, str]) -> None:
    """Says how JAX takes a card's memory, where the person has not: as it is needed, and given back when it is not."""
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # CUDA's own allocator joins what is free in pieces. JAX's usual one can't: loading leaves it holes, in which the
    # few GiB that a step needs in one piece find no place, though there is room enough in all. Nor does CUDA's keep
    # to three quarters of the card, JAX's usual limit: 9 of 12 GiB are less than four rolls take.
    environment.setdefault("XLA_PYTHON_CLIENT_ALLOCATOR", "cuda_async")


def set_up_jax() -> None:
    """Leaves the desktop some memory of its card, and keeps compiled programs from one start to the next."""
    share_memory(os.environ)
    import jax

    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # JAX adds its options when imported
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    # All of them: the many that take a tenth of a second each are as long to wait for as the few long ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


Capability = tuple[int, int]  # of an NVIDIA card to compute: its generation
_DESCRIBED: contextvars.ContextVar[Capability | None] = contextvars.ContextVar("described", default=None)


@contextlib.contextmanager
def described_gpu(capability: Capability) -> Iterator[None]:
    """What is traced inside is traced for such a GPU, which need not be there: to compile it, never to run it."""
    token = _DESCRIBED.set(capability)
    try:
        yield
    finally:
        _DESCRIBED.reset(token)


def is_gpu() -> bool:
    """Whether programs are for a GPU: the one that is here, or one that is only described."""
    import jax

    return _DESCRIBED.get() is not None or jax.default_backend() == "gpu"


def multiplies_float8() -> bool:
    """Whether programs are for a GPU that multiplies in eight bits."""
    import jax

    return (_DESCRIBED.get() or capability(jax.devices()[0]) or (0, 0)) >= FLOAT8_FROM


def choose_dtype(dtype: str) -> str:
    """Of the frozen base and the activations: `auto` is bfloat16 on an accelerator, float32 on a CPU.

    A GPU from before Ampere has no bfloat16: there it is "float16", which is of the frozen base alone. Activations are
    float32 with it, as in big_vision's demo: they pass 65,504, which weights do not.
    """
    import jax

    if dtype != "auto":
        return dtype
    if jax.default_backend() == "cpu" and not is_gpu():
        return "float32"
    found = capability(jax.devices()[0])
    return "float16" if found is not None and found < BFLOAT16_FROM else "bfloat16"


BFLOAT16_FROM = (8, 0)  # compute capability: Ampere; Volta and Turing imitate it, slowly
FLOAT8_FROM = (8, 9)  # products of eight bits: Ada and Hopper


def capability(device: Any) -> Capability | None:
    """An NVIDIA card's compute capability; None of another device."""
    found = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    return None if found is None else (int(found[1]), int(found[2]))


def compiler_options() -> dict[str, Any] | None:
    """On a GPU, what XLA leaves alone. None elsewhere: other backends know no such options.

    cuBLAS makes every product: Triton's kernels keep the adapter's addition out of the wide products. And products of
    one input are not merged: XLA would put an adapter's few columns beside its weight, by a copy of both at every step
    (7 of 33 GB that one roll of PaliGemma-3B moves, with JAX 0.10).
    """
    if not is_gpu():
        return None
    return GPU_OPTIONS | UNTRIED if _DESCRIBED.get() is not None else GPU_OPTIONS


def options_of_loops() -> dict[str, Any] | None:
    """The same for a program that is a loop of short steps. They are one CUDA graph with the question whether another
    one comes, else the host asks after each; where CUDA knows no such graphs, XLA leaves the loop as it is. XLA tries
    Triton's products, too, which of so few rows are often the faster (benchmarks/README.md)."""
    options = compiler_options()
    if options is None:
        return None
    graphs = {"xla_gpu_enable_command_buffer": ",".join((*GRAPHS, "WHILE"))}
    return {name: value for name, value in options.items() if name != "xla_gpu_enable_triton_gemm"} | graphs


GRAPHS = ("FUSION", "CUBLAS", "CUBLASLT", "CUSTOM_CALL", "CUDNN")  # XLA's own choice, but for slices of what is stacked
GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0}
UNTRIED = {"xla_gpu_autotune_level": 0}  # kernels are chosen by trial on the card, and there is none
