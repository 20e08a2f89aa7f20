"""Start the same command on several hosts: check that they find each other, then run it on each.

The launch examples in docker/launch set what is read here. `jax.distributed.initialize` itself reads the
coordinator's address (JAX_COORDINATOR_ADDRESS), the cards to use (JAX_LOCAL_DEVICE_IDS), and under Slurm how many
processes there are and which one this is; elsewhere those two come from ROLLTUNE_HOSTS and ROLLTUNE_HOST.

    python3 -m rolltune.hosts ./03-do_learn.py -d set1 -w 'best-set1-host{host}' --rolls 8
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from rolltune.errors import UserError


@dataclass(frozen=True)
class Place:
    """Which of how many hosts this is, counted from 0, and by whom JAX learns it."""

    host: int
    hosts: int
    by_slurm: bool = False


def find_place(environment: Mapping[str, str]) -> Place:
    """Read this host's number; one host alone is number 0 of 1. A UserError names what is missing or wrong."""
    if "ROLLTUNE_HOSTS" in environment:
        hosts, host = number("ROLLTUNE_HOSTS", environment), number("ROLLTUNE_HOST", environment)
        if not 0 <= host < hosts:
            raise UserError(f"ROLLTUNE_HOST={host} is not from 0 to {hosts - 1}, as ROLLTUNE_HOSTS={hosts} asks")
        if hosts > 1 and ":" not in environment.get("JAX_COORDINATOR_ADDRESS", ""):
            raise UserError("set JAX_COORDINATOR_ADDRESS to HOST:PORT of host 0, the same on all hosts")
        return Place(host, hosts)
    if "SLURM_PROCID" in environment:
        return Place(number("SLURM_PROCID", environment), number("SLURM_NTASKS", environment), by_slurm=True)
    return Place(0, 1)


def number(name: str, environment: Mapping[str, str]) -> int:
    """The whole number in that variable."""
    value = environment.get(name, "")
    if not value.isdecimal():
        raise UserError(f"the variable {name} must be a whole number, not {value!r}")
    return int(value)


def join(place: Place) -> None:
    """Connect this process with those of the other hosts; needs to come before any other use of JAX's devices."""
    import jax

    if place.hosts == 1:
        return
    if place.by_slurm:
        jax.distributed.initialize(cluster_detection_method="slurm")
    else:
        jax.distributed.initialize(
            num_processes=place.hosts, process_id=place.host, cluster_detection_method="deactivate"
        )


def main(argv: list[str]) -> int:
    """Say which host this is and what all of them have; then become the command, with {host} replaced in it."""
    import jax

    place = find_place(os.environ)
    join(place)
    # In one piece: all hosts may write into one pipe, and unbuffered, print gives the end of the line apart.
    sys.stdout.write(
        f"host {place.host} of {place.hosts}: {jax.local_device_count()} {jax.default_backend()} devices, "
        f"{jax.device_count()} in all\n"
    )
    sys.stdout.flush()
    if place.hosts > 1:
        jax.distributed.shutdown()
    if argv:
        command = [word.replace("{host}", str(place.host)) for word in argv]
        os.execvp(command[0], command)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
