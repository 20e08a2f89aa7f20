"""Whoever reads the output may leave, at any line: the work goes on."""

import subprocess
import sys

import pytest

WORK = """
import sys
from rich.table import Table
from rolltune import tracking
from rolltune.commands.common import say

say("begun")
sys.stdin.readline()
with tracking.LiveRolls(2, [0, 1]) as live:
    for step in range(3):
        {line}
tracking.print_table(Table("figures"))
open({done!r}, "w").write("done")
"""


@pytest.mark.parametrize("line", ["live.show(step, [0.5, 0.4], [0.1, 0.1])", "live.say('aside')", "say('aside')"])
def test_a_reader_who_leaves_ends_no_work(tmp_path, line):
    done = tmp_path / "done"
    script = WORK.format(line=line, done=str(done))
    run = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "begun\n"
    run.stdout.close()
    run.communicate("go on\n")
    assert run.returncode == 0 and done.read_text() == "done"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="has no /dev/full")
def test_a_full_disk_under_the_output_ends_no_work(tmp_path):
    done = tmp_path / "done"
    with open("/dev/full", "w") as full:
        script = WORK.format(line="live.say('aside')", done=str(done))
        run = subprocess.run([sys.executable, "-c", script], stdin=subprocess.DEVNULL, stdout=full)
    assert run.returncode == 0 and done.read_text() == "done"
