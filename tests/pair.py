"""A command as the two hosts of a run: two processes with two virtual cards each."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A busy machine may keep one card of four waiting for longer than the 40 s after which XLA takes it for stuck.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=200"


def surroundings(cards: int, cache: Path) -> dict[str, str]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} {PATIENT} --xla_force_host_platform_device_count={cards}"
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    own = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "ROLLTUNE_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    return kept | own | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONFAULTHANDLER": "1"}  # where an abort came from is said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pair:
    """The same command as hosts 0 and 1 of two. What each says goes to a file."""

    def __init__(self, folder: Path, command: list[str], folders: tuple[Path, Path], hosts=(0, 1), **settings: str):
        at = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "ROLLTUNE_HOSTS": "2"}
        at |= {"ROLLTUNE_HEARTBEAT_SECONDS": "100"} | settings  # alike: who is only slow is not gone
        self.processes, self.said = [], [folder / f"said{host}" for host in hosts]
        for host, said in zip(hosts, self.said, strict=True):
            own = surroundings(2, folder / f"cache{host}") | at | {"ROLLTUNE_HOST": str(host)}
            with said.open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "rolltune.launch", sys.executable, *command],
                        cwd=folders[host],
                        env=own,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait_for(self, word: str) -> None:
        for _ in range(1200):
            if word in self.said[0].read_text() or self.processes[0].poll() is not None:
                return
            time.sleep(0.1)

    def ended(self, *expected: int) -> list[str]:
        """What was said. All of it is shown where the exit statuses are not the expected ones."""
        statuses = [process.wait(timeout=240) for process in self.processes]
        said = [said.read_text() for said in self.said]
        assert statuses == list(expected), "\n=====\n".join([str(statuses), *said])
        return said
