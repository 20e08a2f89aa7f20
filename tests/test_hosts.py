"""One run on two hosts, as two processes with two virtual cards each: the same as on one host with four cards."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pair import Pair, surroundings
from PIL import Image
from store import Store

from rolltune.errors import UserError
from rolltune.hosts import Hosts, Place
from rolltune.launch import left_by

RECIPE = ["--config.steps=24", "--config.log_every=2", "--config.batch=2", "--config.redraws=1", "--config.rank=2"]
# Features on the disk: each step brings the rows of its own rolls. At the rung two of four rolls stop.
LEARN = ["learn", "-d", "data", "-w", "best", "--rolls", "4", "--keep", "all", "--config.rungs=(0.5,)", *RECIPE]
# Saved all the time: the thread that ends a save must not be in the way of what the loop asks of all cards.
LEARN += ["--config.table_gib=0", "--state-every", "2"]
JOIN = """
import os, sys, time
from rolltune.hosts import joined, launched
with joined(launched(os.environ)) as hosts:
    print("joined", flush=True)
    while not hosts.stop(False):
        time.sleep(0.1)
"""
# The second host goes away while the first one waits for its numbers.
GATHER = """
import os, signal
import numpy as np
from jax.experimental import multihost_utils
from rolltune.hosts import joined, launched
with joined(launched(os.environ)) as hosts:
    for times in range(2):
        if times and hosts.place.host == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        multihost_utils.process_allgather(np.ones(3))
"""


@pytest.fixture
def place(tmp_path):
    """`place(name, rows)` is a folder with a data set of so many pictures, dark and bright, in `data`."""

    def make(name: str, rows: int = 8) -> Path:
        data = tmp_path / name / "data"
        data.mkdir(parents=True)
        lines = []
        for number in range(rows):
            Image.new("RGB", (32, 32), (255 * (number % 2), 20 * number, 90)).save(data / f"{number}.png")
            answer = "yes" if number % 2 else "no"
            lines.append(json.dumps({"prefix": "bright?", "suffix": answer, "image": f"{number}.png"}) + "\n")
        (data / "train.jsonl").write_text("".join(lines))
        return tmp_path / name

    return make


def test_two_hosts_stopped_and_resumed_equal_one(place, tmp_path):
    """SIGTERM comes to the second host alone: both stop at the same step, and save what goes on later."""
    alone, together = place("alone"), place("together")
    command = ["-m", "rolltune", *LEARN]
    with (tmp_path / "alone.txt").open("wb") as file:
        own = surroundings(4, tmp_path / "cache")
        one = subprocess.Popen([sys.executable, *command], cwd=alone, env=own, stdout=file, stderr=subprocess.STDOUT)
    pair = Pair(tmp_path, command, (together, together))
    pair.wait_for("step: 2/")
    pair.processes[1].send_signal(signal.SIGTERM)
    said = pair.ended(130, 130)
    assert "cards: 4 of 4 on 2 hosts, 1 roll on each" in said[0] and "--resume" in said[0]
    said = Pair(tmp_path, [*command, "--resume"], (together, together)).ended(0, 0)
    assert said[1] == "" and "saved roll" in said[0]
    assert one.wait(timeout=240) == 0, (tmp_path / "alone.txt").read_text()
    boards = [json.loads((folder / "reports/best.leaderboard.json").read_text()) for folder in (alone, together)]
    assert same_but_rounding(*boards)
    rolls = sorted(path.name for path in (alone / "checkpoints").glob("*.npz"))
    assert rolls == sorted(path.name for path in (together / "checkpoints").glob("*.npz")) and rolls
    for name in rolls:
        expected, found = (np.load(folder / "checkpoints" / name) for folder in (alone, together))
        for key in expected.files:
            if expected[key].dtype != np.uint8:  # that is the card
                np.testing.assert_allclose(found[key], expected[key], rtol=1e-3, atol=1e-5)
    steps = [json.loads(line)["step"] for line in (together / "reports/best.metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert all((tmp_path / f"cache{host}/features").is_dir() for host in (0, 1))


def same_but_rounding(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_but_rounding(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_but_rounding, one, other))
    return one == pytest.approx(other, rel=1e-3, abs=1e-5) if isinstance(one, float) else one == other


def test_other_rows_on_one_host_are_refused_on_both_before_anything_is_loaded(place, tmp_path):
    pair = Pair(tmp_path, ["-m", "rolltune", *LEARN], (place("first"), place("second", rows=6)))
    said = pair.ended(2, 2)
    for text in said:
        assert "error: host 1 has ./data/train.jsonl 6 rows" in text and "host 0 has 8 rows" in text


def test_a_host_that_goes_away_ends_the_other_with_advice(tmp_path):
    pair = Pair(tmp_path, ["-c", JOIN], (tmp_path, tmp_path), ROLLTUNE_HEARTBEAT_SECONDS="4")
    pair.wait_for("joined")
    began = time.monotonic()
    inner = subprocess.check_output(["ps", "--ppid", str(pair.processes[1].pid), "-o", "pid="], text=True)
    os.kill(int(inner), signal.SIGKILL)
    said = pair.ended(5, 137)
    assert time.monotonic() - began < 20
    assert "error: host 1 went away" in said[0] and "start the same command again, on all hosts" in said[0]
    assert said[1].startswith("host 1: error: ended by signal 9")


def test_what_a_host_that_went_away_leaves_is_looked_for(tmp_path, monkeypatch):
    """The others may have ended while host 0 saved the rolls: then there is nothing to resume."""
    monkeypatch.chdir(tmp_path)
    command, began = ["./03-do_learn.py", "-d", "set1", "-w", "mine", "-2", "--rolls", "8"], time.time() - 60
    assert "Nothing was saved yet" in left_by(command, began)
    roll, whole = Path("checkpoints/mine.npz"), Path("checkpoints/mine.state/3/rolltune.json")
    roll.parent.mkdir()
    roll.touch()
    assert "are saved (checkpoints/mine.npz" in left_by(command, began)
    os.utime(roll, (began - 60, began - 60))  # of an earlier run, which this one was to overwrite
    assert "Nothing was saved yet" in left_by(command, began)
    whole.parent.mkdir(parents=True)
    assert "Nothing was saved yet" in left_by(command, began)  # half a saving is none
    whole.touch()
    os.utime(roll)
    assert "with --resume, on all hosts" in left_by(command, began)
    assert "Nothing was saved yet" in left_by(["./03-do_learn.py", "--write=other"], began)


def test_a_broken_connection_is_no_traceback_but_advice(tmp_path):
    said = Pair(tmp_path, ["-c", GATHER], (tmp_path,) * 2, ROLLTUNE_HEARTBEAT_SECONDS="4").ended(5, 137)
    assert "error: host 1 went away" in said[0] and "Traceback" not in said[0]


def test_a_host_that_never_comes_is_said(tmp_path):
    waiting = [Pair(tmp_path, ["-c", JOIN], (tmp_path,) * 2, (host,), ROLLTUNE_JOIN_SECONDS="1") for host in (0, 1)]
    for one in waiting:
        (said,) = one.ended(5)
        assert "error: not all hosts came within 1 s" in said


def on_three(work, store: Store | None = None) -> list:
    """What `work(hosts)` gives, or raises, on each of three hosts."""
    store = store or Store()
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(work, Hosts(Place(host, 3), store)) for host in range(3)]
        return [one.exception() or one.result() for one in done]


def test_the_first_decides_for_all():
    assert (
        on_three(lambda hosts: (hosts.first(hosts.place.host), hosts.gather(hosts.place.host))) == [(0, [0, 1, 2])] * 3
    )


def test_a_stop_that_is_asked_for_on_one_host_comes_at_the_same_step_on_all():
    def work(hosts):
        step = 0
        while not hosts.stop(hosts.place.host == 2 and step >= 3):
            step += 1
            time.sleep(0.01)
        return step

    steps = on_three(work)
    assert len(set(steps)) == 1 and steps[0] >= 3


def test_the_store_forgets_what_all_have_read(monkeypatch):
    monkeypatch.setattr("rolltune.hosts.TIDIED", 10)
    store = Store()
    on_three(lambda hosts: [hosts.first(number) for number in range(95)], store)
    assert len([key for key in store.kept if key.startswith("first/")]) <= 10


def test_what_differs_is_named_with_both_values_on_all_hosts():
    def work(hosts):
        hosts.check({"Python": "3.11", "jax": "0.10.0" if hosts.place.host == 1 else "0.10.1"}, "install the same")

    told = on_three(work)
    assert [str(one) for one in told] == ["host 1 has jax 0.10.0, host 0 has 0.10.1: install the same"] * 3
    assert {type(one) for one in told} == {UserError}


def test_threads_meet_in_any_order_and_forget():
    def work(hosts):
        with ThreadPoolExecutor(2) as pool:  # one waits for the other's topic to come up on another host
            order = (1, 2) if hosts.place.host else (2, 1)
            for done in [pool.submit(hosts.meet, topic, "written") for topic in order]:
                done.result()
        hosts.meet(3, "begun")
        hosts.forget(2)
        return hosts.gather(0)

    store = Store()
    assert on_three(work, store) == [[0, 0, 0]] * 3
    assert not [key for key in store.kept if key.startswith("met/2/")]


@pytest.mark.parametrize("fails", [0, 2])
def test_what_fails_on_one_host_fails_on_all_and_the_next_time_does_not(fails, monkeypatch):
    monkeypatch.setattr("rolltune.hosts.PATIENCE", 50)

    def work(hosts):
        if hosts.place.host == fails:
            hosts.fail(4, OSError("no room\nand more"))
        else:
            with pytest.raises(OSError, match=f"^host {fails}: no room$"):
                hosts.meet(4, "written")
        hosts.meet(5, "written")
        return True

    assert on_three(work) == [True] * 3


@pytest.mark.parametrize("ends", [0, 1])
def test_a_host_that_ends_is_named_to_those_that_wait_for_it(ends, monkeypatch):
    monkeypatch.setattr("rolltune.hosts.PATIENCE", 50)

    def work(hosts):
        if hosts.place.host == ends:
            hosts.end(UserError("data/train.jsonl: no such file"))
            return None
        return hosts.gather(1)

    told = on_three(work)
    assert told.pop(ends) is None
    assert {str(one) for one in told} == {f"host {ends} ended: data/train.jsonl: no such file"}
