"""Start a command on one of several hosts, and say in plain words what ended it.

    python3 -m rolltune.launch ./03-do_learn.py -d set1 -w best-set1 --rolls 16

The launch examples in docker/launch run this line on every host. It hands the host's number on, gives what hosts other
than the first write their name, and watches: JAX ends a process whose partner is gone, from within and without advice.
"""

import argparse
import collections
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO

from rolltune.errors import UserError
from rolltune.hosts import Place, find_place, seconds
from rolltune.jobs.outputs import Outputs
from rolltune.training import savings

GONE = 5  # exit status: another host went away
KEPT = 200  # lines of what was written to standard error, in which JAX names who is gone
UNHEALTHY = re.compile(r"stopped sending heartbeats\):\s*(\d+)|[Tt]ask:? (\d+) heartbeat timeout")
NO_LEADER = "Failed to send RPC to coordination service"
NEVER_CAME = "RegisterTask"


def launch(command: list[str], place: Place, environment: Mapping[str, str]) -> int:
    """Runs the command as that host; its exit status, or GONE."""
    handed = {"ROLLTUNE_HOSTS": str(place.hosts), "ROLLTUNE_HOST": str(place.host)}
    first, began = place.host == 0, time.time()
    piped = not (first and sys.stderr.isatty())  # a progress bar needs the terminal itself
    with starting(command[0]):
        process = subprocess.Popen(
            command,
            env={**environment, **handed},
            stdout=None if first else subprocess.DEVNULL,
            stderr=subprocess.PIPE if piped else None,
            text=True,
            errors="backslashreplace",
        )
    # A scheduler stops who it started: that is handed on. A terminal's Ctrl-C comes to all that run in it.
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    for number in LEFT_TO_THE_COMMAND:
        signal.signal(number, signal.SIG_IGN)
    lines: collections.deque[str] = collections.deque(maxlen=KEPT)
    name = "" if first else f"host {place.host}: "
    if process.stderr is not None:
        copy(process.stderr, lines, name)
    status = process.wait()
    if status == -signal.SIGABRT:
        print(f"{name}error: {advice(lines, left_by(command, began))}", file=sys.stderr, flush=True)
        return GONE
    if status < 0:
        print(f"{name}error: ended by signal {-status}{HINTS.get(-status, '')}", file=sys.stderr, flush=True)
    return status if status >= 0 else 128 - status


# Windows knows neither SIGHUP nor SIGKILL, which is 9 wherever there is one.
LEFT_TO_THE_COMMAND = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
HINTS: Mapping[int, str] = {9: ": by a person, the scheduler, or for want of the host's memory"}


@contextlib.contextmanager
def starting(name: str) -> Iterator[None]:
    """Raises UserError where a command of this name cannot be started, and says what is missing: the command, or, of a
    script, the program that is to run it."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        why = f"({error.strerror}): is it there, and may it be run?"
        if shutil.which(name):  # then the system means another file
            why = f"({error.strerror}): it is there; is the program that its first line (#!) names?"
        raise UserError(f"{name}: cannot be started {why}") from error


def copy(stream: IO[str], lines: collections.deque[str], name: str) -> None:
    for line in stream:
        lines.append(line)
        sys.stderr.write(name + line)  # in one piece: several hosts may write into one pipe
        sys.stderr.flush()


def advice(lines: Iterable[str], left: str) -> str:
    """What to do after JAX ended the process, by what it wrote, and by what the run has left."""
    text = "".join(lines)
    if NEVER_CAME in text:
        return (
            f"not all hosts came within {seconds('ROLLTUNE_JOIN_SECONDS')} s. Each must be started with the same "
            "ROLLTUNE_HOSTS and its own ROLLTUNE_HOST, and reach host 0 at JAX_COORDINATOR_ADDRESS: look for a host "
            "that did not start, a firewall, a name that only one of them knows, variables of a proxy"
        )
    found = UNHEALTHY.search(text)
    gone = next(filter(None, found.groups())) if found else "0" if NO_LEADER in text else None
    who = "another host" if gone is None else f"host {gone}"
    return f"{who} went away, or lost the network (its own last lines say more). {left}"


def left_by(command: Sequence[str], began: float) -> str:
    """What a training that began then (seconds since 1970) has left in ./checkpoints, and what can be done with it.

    Its state goes only after its rolls and report are written, and a roll of before is no roll of this run.
    """
    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument("-w", "--write")
    name = asked.parse_known_args(command)[0].write
    if name and savings.exists(Outputs(name).state):
        return "What was saved is whole: the same command with --resume, on all hosts, goes on from there"
    if name and (roll := Outputs(name).roll).is_file() and roll.stat().st_mtime >= began:
        return f"The rolls of this run are saved ({roll.as_posix()}, and its report): nothing is left to do"
    return "Nothing was saved yet that could be gone on with: start the same command again, on all hosts"


def main(argv: list[str]) -> int:
    if argv in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if not argv:
        raise UserError("name the command to run: python3 -m rolltune.launch ./03-do_learn.py -d set1 -w best-set1")
    place = find_place(os.environ)
    if place.hosts > 1:
        return launch(argv, place, os.environ)
    with starting(argv[0]):
        if os.name != "posix":  # what stands in for another process there is waited for by nobody
            return subprocess.call(argv)
        os.execvp(argv[0], argv)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
