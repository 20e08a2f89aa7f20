"""Start a command on one of several hosts, and say in plain words what ended it.

    python3 -m rolltune.launch ./03-do_learn.py -d set1 -w best-set1 --rolls 16

The launch examples in docker/launch run this line on every host. It hands the host's number on, gives what hosts other
than the first write their name, and watches: JAX ends a process whose partner is gone, from within and without advice.
"""

import collections
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import IO

from rolltune.errors import UserError
from rolltune.hosts import Place, find_place

GONE = 5  # exit status: another host went away
KEPT = 200  # lines of what was written to standard error, in which JAX names who is gone
UNHEALTHY = re.compile(r"stopped sending heartbeats\):\s*(\d+)|[Tt]ask:? (\d+) heartbeat timeout")
NO_LEADER = "Failed to send RPC to coordination service"


def launch(command: list[str], place: Place, environment: Mapping[str, str]) -> int:
    """Runs the command as that host; its exit status, or GONE."""
    handed = {"ROLLTUNE_HOSTS": str(place.hosts), "ROLLTUNE_HOST": str(place.host)}
    first = place.host == 0
    piped = not (first and sys.stderr.isatty())  # a progress bar needs the terminal itself
    process = subprocess.Popen(
        command,
        env={**environment, **handed},
        stdout=None if first else subprocess.DEVNULL,
        stderr=subprocess.PIPE if piped else None,
        text=True,
        errors="backslashreplace",
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    lines: collections.deque[str] = collections.deque(maxlen=KEPT)
    if process.stderr is not None:
        copying = threading.Thread(target=copy, args=(process.stderr, lines, "" if first else f"host {place.host}: "))
        copying.start()
        copying.join()
    status = process.wait()
    if status == -signal.SIGABRT:
        print(f"error: host {place.host}: {advice(lines)}", file=sys.stderr, flush=True)
        return GONE
    if status < 0:
        print(f"error: host {place.host}: ended by signal {-status}{HINTS.get(-status, '')}", file=sys.stderr)
    return status if status >= 0 else 128 - status


HINTS = {signal.SIGKILL: ": by a person, the scheduler, or for want of the host's memory"}


def copy(stream: IO[str], lines: collections.deque[str], name: str) -> None:
    for line in stream:
        lines.append(line)
        sys.stderr.write(name + line)  # in one piece: several hosts may write into one pipe
        sys.stderr.flush()


def advice(lines: Iterable[str]) -> str:
    """What to do after JAX ended the process, by what it wrote."""
    text = "".join(lines)
    found = UNHEALTHY.search(text)
    gone = next(filter(None, found.groups())) if found else "0" if NO_LEADER in text else None
    who = "another host" if gone is None else f"host {gone}"
    return (
        f"{who} went away, or lost the network (its own last lines say more). What was saved is whole: the same "
        "command with --resume, on all hosts, goes on from there"
    )


def main(argv: list[str]) -> int:
    if not argv:
        raise UserError("name the command to run: python3 -m rolltune.launch ./03-do_learn.py -d set1 -w best-set1")
    place = find_place(os.environ)
    if place.hosts == 1:
        os.execvp(argv[0], argv)
    return launch(argv, place, os.environ)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
