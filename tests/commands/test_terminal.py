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


def test_a_table_of_texts_that_the_console_cannot_write_ends_no_command(tmp_path):
    script = (
        "from rich.table import Table; from rolltune import __main__ as rolltune, tracking\n"
        "rolltune.run = lambda *_: tracking.print_table(Table('caf\\u00e9 \\uff1f'))\n"
        "rolltune.main(['validate'])"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and r"caf\xe9 \uff1f" in run.stdout
