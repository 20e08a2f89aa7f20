"""Fixtures: where the optional folder of real data sets, tokenizers and reference outputs is. And the time budget."""

import gc
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import checked
import pytest
from pair import PATIENT

COPIES = Path(__file__).parent / "oracle"
SHARED = Path(os.environ.get("ROLLTUNE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
STARTED = time.monotonic()

if metadata.version("jax").startswith("0.10."):  # XLA ends at a flag it does not know
    # Tests compile many small programs and run each a few times: without optimisation that is seven times faster.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

checked.install()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What tests keep for the next start is no person's, and no earlier run's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROLLTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


MAPPED = 10_000  # of a process; each program that XLA compiled for a CPU has some


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Lets go of the programs of files before, where a process has very many of them: they take gigabytes, and such a
    process once died while XLA wrote a program down."""
    yield
    mapped = Path("/proc/self/maps")
    if "jax" in sys.modules and mapped.exists() and mapped.read_bytes().count(b"\n") > MAPPED:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture
def shared():
    """`shared("data/hotdog")` is that path; the test is skipped, saying so, where the folder is absent."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"the folder of real data has no {relative} (set ROLLTUNE_SHARED to its place)")
        return path

    return find


@pytest.fixture(scope="session")
def drawn_ads(tmp_path_factory):
    """A folder with the sample ads, which take seconds to draw: to be copied."""
    from rolltune.tiny.ads import write_sample_ads

    return write_sample_ads(tmp_path_factory.mktemp("ads"), seed=0).parent


@pytest.fixture
def on_four_cards():
    """`on_four_cards(path, flags)` runs a file of tests in a process of four virtual devices: JAX counts them once."""

    def run(path: Path, flags: str = "") -> None:
        flags = f"{os.environ.get('XLA_FLAGS', '')} {PATIENT} --xla_force_host_platform_device_count=4 {flags}"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

    return run


@pytest.fixture
def oracle(shared):
    """`oracle("paligemma1/bv_f32.npz")`: the copy in the repository first, then the one in the folder of real data."""
    return lambda relative: COPIES / relative if (COPIES / relative).exists() else shared(f"oracle/{relative}")


def over_budget() -> str:
    """Empty, or how far the run is over the seconds that ROLLTUNE_TEST_BUDGET allows."""
    took, budget = time.monotonic() - STARTED, float(os.environ.get("ROLLTUNE_TEST_BUDGET", "inf"))
    return f"the tests took {took:.0f} s, over their budget of {budget:.0f} s" if took > budget else ""


def pytest_terminal_summary(terminalreporter) -> None:
    if "ROLLTUNE_TEST_BUDGET" in os.environ:
        took, budget = time.monotonic() - STARTED, os.environ["ROLLTUNE_TEST_BUDGET"]
        terminalreporter.write_line(
            f"warning: {over_budget()}" if over_budget() else f"time: {took:.0f} s of a budget of {budget} s"
        )
