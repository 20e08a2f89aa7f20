"""The tests of planned_over_cards.py and saved_over_cards.py, in processes of four virtual devices: JAX counts its
devices once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

QUICK = "--xla_backend_optimization_level=0"  # programs that run once are not worth LLVM's time


@pytest.mark.parametrize("name", ["planned_over_cards.py", "saved_over_cards.py"])
def test_over_four_virtual_cards(name):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 {QUICK}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent / name)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
