"""What a command shows while others write to the same terminal."""

import os
import subprocess
import sys

import pytest

NOISY = """
import os
from rolltune.commands.terminal import quiet_decoders
from rolltune.tracking import progress
with quiet_decoders():
    for _ in progress(iter("ab"), "looking at images", 2):
        os.write(2, b"libtiff is worried")
os.write(2, b"and afterwards it is heard")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal of one's own")
def test_decoders_are_silent_and_the_progress_is_not():
    ours, its = os.openpty()
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", NOISY], stderr=its, env=environment, check=True)
    os.close(its)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "looking at images" in shown and "2/2" in shown
    assert "worried" not in shown and "and afterwards it is heard" in shown
