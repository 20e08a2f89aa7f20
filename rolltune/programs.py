"""What compiled programs set aside while they run, by the compiler's own analysis."""

import contextvars
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax


class Program(NamedTuple):
    """What a compiled program sets aside while it runs, beside its inputs. Bytes."""

    temporary: int  # of all kinds but workspace
    workspace: int  # that cuBLAS asks for
    output: int  # beside what replaces an input
    activations: int = 0  # of the temporaries, what every layer keeps; known where two depths were compiled

    @property
    def total(self) -> int:
        return sum(self)


def measure(jitted: Any, args: tuple, place: Any = None, known: dict[bytes, Program] | None = None) -> Program:
    """Compiles a program for arguments that may be shapes: for the device that is here, or where they lie, or where
    `place` says of those that lie nowhere yet. Of a program for several cards it is what each sets aside.

    Of several choices' programs many are the same: those in `known`, by their text, are not compiled again.
    """
    if place is not None:
        lies = lambda leaf: getattr(leaf, "sharding", None) or place
        args = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=lies(leaf)), args)
    lowered, known = jitted.lower(*args), {} if known is None else known
    name = hashlib.sha256(lowered.as_text().encode()).digest()
    if name not in known:
        known[name] = _analysis(lowered.compile(), place)
    return known[name]


def _analysis(compiled: Any, place: Any) -> Program:
    found = compiled.memory_analysis()
    output = found.output_size_in_bytes - found.alias_size_in_bytes
    on_gpu = place is not None or jax.default_backend() == "gpu"
    workspace = min(workspace_of(compiled.as_text()) if on_gpu else 0, found.temp_size_in_bytes)
    return Program(found.temp_size_in_bytes - workspace, workspace, output)


def workspace_of(program: str) -> int:
    """The largest workspace of a product: the one the others use again. Bytes."""
    return max((int(size) for size in re.findall(r"[su]8\[(\d+)\]\S* custom-call", program)), default=0)


def deepened(short: Program, long: Program, depths: tuple[int, int], depth: int) -> Program:
    """The program of `depth` layers by those of two smaller (or one smaller, one equal) numbers of layers."""
    each = (long.temporary - short.temporary) / (depths[1] - depths[0])
    whole = round(long.temporary + each * (depth - depths[1]))
    activations = min(max(round(each * depth), 0), whole)
    grow = lambda a, b: round(b + (b - a) / (depths[1] - depths[0]) * (depth - depths[1]))
    output = grow(short.output, long.output)
    return Program(whole - activations, long.workspace, output, activations)


def at_once(jobs: Sequence[Callable[[], Program]]) -> list[Program]:
    """Compiles on a few threads: XLA works outside Python's lock."""
    with _few_threads() as pool:
        # Each in a copy of the context, which says whether the card is only described.
        found = [pool.submit(contextvars.copy_context().run, job) for job in jobs]
        return [future.result() for future in found]


def _few_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 1) // 2)), "compiling")


class Ahead:
    """Programs that are compiled beside other work, to be there when they are called: in the process, where it is the
    same jitted function that is called, else in the compiler's cache.

    At the end of the `with` what has not begun is left off. What has can't be stopped, as anywhere.
    """

    def __enter__(self) -> "Ahead":
        self._pool, self._begun = _few_threads(), list[tuple[str, Future]]()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, jobs: Iterable[tuple[str, Callable[[], object]]]) -> None:
        """(part of the run, what compiles a program of it), in the order in which they are needed. Nothing is done
        where it would be lost for want of a cache; nor with several processes, which have to compile in step."""
        if jax.process_count() == 1 and jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
            self._begun += [(part, self._pool.submit(contextvars.copy_context().run, job)) for part, job in jobs]

    def wait(self, stop: Callable[[], bool], but: str = "") -> None:
        """Until all are done, or those of all parts but one; `stop()` leaves off. What is called while it is still
        being compiled here would be compiled twice.

        What failed is not told: its call compiles it again, and fails with a message of its own, from where a person
        expects it; or does not, where only several at once were too much for the card, which tries kernels out.
        """
        left = {future for part, future in self._begun if part != but}
        while left and not stop():
            left = futures.wait(left, timeout=0.2).not_done
