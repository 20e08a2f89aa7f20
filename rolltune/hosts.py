"""One run on several hosts: which one this is, how they join, and how they come to take the same steps.

A host is a process with cards of its own. All run the same command; whatever hangs on a clock, a signal or a disk is
decided by one for all, so that each calls the same programs in the same order. Host 0 alone prints and writes. What
they tell each other goes through the store of JAX's coordinator, on host 0; numbers on cards through `sharding`.

`jax.distributed.initialize` itself reads the coordinator's address (JAX_COORDINATOR_ADDRESS), the cards to use
(JAX_LOCAL_DEVICE_IDS), and under Slurm how many processes there are and which one this is.
"""

import contextlib
import dataclasses
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, TypeVar

from rolltune.errors import UserError

# What a person may set: seconds that hosts wait for each other at the start, and of silence until one counts as gone.
SECONDS = {"ROLLTUNE_JOIN_SECONDS": "300", "ROLLTUNE_HEARTBEAT_SECONDS": "30"}
LEAVE_SECONDS = 30  # that a host waits for the others at its end
TIDIED = 1000  # agreements, after which the store forgets them
PATIENCE = 1000  # milliseconds of waiting, between two looks at whether another host has ended
VERDICT_SECONDS = 10  # within which JAX ends a process after it said that another one is gone
BROKEN = re.compile("gloo|nccl|coordination service", re.IGNORECASE)  # of errors over a connection, of any type
SAID = "said/"
STOP, END = f"{SAID}stop/", f"{SAID}end/"
MET, FAILED = "met/", "failed/"
INSTALL = "install the same on all hosts"
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Place:
    """Which of how many hosts this is, counted from 0, and by whom JAX learns it."""

    host: int
    hosts: int
    by_slurm: bool = False


ALONE = Place(0, 1)


def find_place(environment: Mapping[str, str]) -> Place:
    """Read this host's number; one host alone is number 0 of 1. A UserError names what is missing or wrong."""
    slurm = "SLURM_PROCID" in environment
    if "ROLLTUNE_HOSTS" in environment:
        hosts, host = number("ROLLTUNE_HOSTS", environment), number("ROLLTUNE_HOST", environment)
        if not 0 <= host < hosts:
            raise UserError(f"ROLLTUNE_HOST={host} is not from 0 to {hosts - 1}, as ROLLTUNE_HOSTS={hosts} asks")
        stated = "JAX_COORDINATOR_ADDRESS" in environment
        if hosts > 1 and not (slurm and not stated) and ":" not in environment.get("JAX_COORDINATOR_ADDRESS", ""):
            raise UserError("set JAX_COORDINATOR_ADDRESS to HOST:PORT of host 0, the same on all hosts")
        return Place(host, hosts, by_slurm=slurm and not stated)
    if slurm:
        return Place(number("SLURM_PROCID", environment), number("SLURM_NTASKS", environment), by_slurm=True)
    return ALONE


def number(name: str, environment: Mapping[str, str]) -> int:
    """The whole number in that variable."""
    value = environment.get(name, "")
    if not value.isdecimal():
        raise UserError(f"the variable {name} must be a whole number, not {value!r}")
    return int(value)


def launched(environment: Mapping[str, str]) -> Place:
    """The place that `rolltune.launch` gave this process. Slurm's own variables are there in any shell of a job, too:
    a command that nobody launched on several hosts stays alone."""
    return find_place(environment) if "ROLLTUNE_HOSTS" in environment else ALONE


class Hosts:
    """What the hosts of a run say to each other. Each calls the same of these, in the same order."""

    def __init__(self, place: Place = ALONE, client: Any = None):
        self.place = place
        self._client = client  # of JAX's coordinator: None for one host alone
        self._count = 0  # of what was agreed on so far
        self._told = False

    @property
    def writes(self) -> bool:
        """Whether this is the host that prints, and writes what is no part of a joint save."""
        return self.place.host == 0

    def first(self, value: Value) -> Value:
        """What host 0 has, which must be plain JSON."""
        if self._client is None:
            return value
        if self._count % TIDIED == 0:
            self.gather(None)
        self._count += 1
        if self.writes:
            self._client.key_value_set(f"first/{self._count}", json.dumps(value))
            return value
        return json.loads(self._wait(f"first/{self._count}"))

    def gather(self, value: Value) -> list[Value]:
        """What each has, in the order of the hosts."""
        if self._client is None:
            return [value]
        self._count += 1
        self._client.key_value_set(f"each/{self._count}/{self.place.host}", json.dumps(value))
        found = [json.loads(self._wait(f"each/{self._count}/{host}")) for host in range(self.place.hosts)]
        if self.writes:
            self._client.key_value_delete("first/")  # all have come here: nobody asks for what was before
        return found

    def stop(self, asked: bool) -> bool:
        """Whether a stop is asked for on any host: in the same step on all of them."""
        if self._client is None:
            return asked
        if self.writes:
            asked = asked or any(key.startswith(STOP) for key in self._heard())
        elif asked and not self._told:
            self._told = True
            self._client.key_value_set(f"{STOP}{self.place.host}", "")
        return self.first(asked)

    def check(self, facts: Mapping[str, Any], advice: str) -> None:
        """Raises the same UserError on all hosts where one has another value than host 0: (name in words -> value)."""
        mine, *others = self.gather({name: str(value) for name, value in facts.items()})
        for host, theirs in enumerate(others, 1):
            for name in {**mine, **theirs}:
                here, there = mine.get(name, "none"), theirs.get(name, "none")
                if here != there:
                    raise UserError(f"host {host} has {name} {there}, host 0 has {here}: {advice}")

    def meet(self, topic: int, stage: str) -> None:
        """Waits until all have come to this stage of a topic. Raises OSError where one of them failed at the topic.

        For threads beside the loop: they come here in another order on each host, which collectives on the cards,
        `first` and `gather` do not bear.
        """
        if self._client is None:
            return
        check = lambda: self.look(topic)
        self._client.key_value_set(f"{MET}{topic}/{stage}/{self.place.host}", "")
        for host in range(self.place.hosts):
            self._wait(f"{MET}{topic}/{stage}/{host}", check)
        check()

    def look(self, topic: int) -> None:
        """Raises OSError where a host failed at the topic, UserError where one has ended."""
        if self._client is None:
            return
        self._heard()
        for key, why in self._client.key_value_dir_get(f"{FAILED}{topic}/"):
            raise OSError(f"host {key.rpartition('/')[2]}: {why}")

    def fail(self, topic: int, error: BaseException) -> None:
        """Tells those who meet over a topic, or will, that this host failed at it, and why."""
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{FAILED}{topic}/{self.place.host}", first_line(error))

    def forget(self, topic: int) -> None:
        """Of a topic that no host comes back to."""
        if self._client is not None and self.writes:
            for kind in (MET, FAILED):
                self._client.key_value_delete(f"{kind}{topic}/")

    def end(self, error: BaseException) -> None:
        """Tells the others, who end at what they agree on next, that this host ends before its time, and why."""
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{END}{self.place.host}", first_line(error))

    def await_verdict(self) -> None:
        """After a broken connection: JAX ends this process, naming who is gone, as soon as it is sure of it. Raises
        UserError where another host said itself that it ends."""
        import jax

        try:
            self._heard()
            self._client.wait_at_barrier("verdict", 2000 * seconds("ROLLTUNE_HEARTBEAT_SECONDS"))
        except jax.errors.JaxRuntimeError:
            time.sleep(VERDICT_SECONDS)

    def _wait(self, key: str, look: Callable[[], object] | None = None) -> str:
        """What another host will say. Nobody who is there is hurried: JAX itself ends this process if one is gone."""
        import jax

        while True:
            try:
                return self._client.blocking_key_value_get(key, PATIENCE)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            (look or self._heard)()

    def _heard(self) -> dict[str, str]:
        """What hosts said unasked. Raises UserError where one of the others has ended."""
        said = dict(self._client.key_value_dir_get(SAID))
        for key, why in said.items():
            if key.startswith(END) and key != f"{END}{self.place.host}":
                raise UserError(f"host {key.removeprefix(END)} ended: {why}")
        return said


ONE = Hosts()  # that is alone


def first_line(error: BaseException) -> str:
    return (str(error).splitlines()[:1] or [type(error).__name__])[0]


@contextlib.contextmanager
def joined(place: Place) -> Iterator[Hosts]:
    """Joins this process with those of the other hosts; to be called before any other use of JAX's devices.

    An error inside is told to the others. Raises UserError where a host has other versions or cards. Where one does
    not come, or goes away, JAX ends this process: `rolltune.launch` says then what to do.
    """
    if place.hosts == 1:
        yield Hosts()
        return
    hosts = Hosts(place, _connect(place))
    try:
        hosts.check(versions() | {"cards": cards()}, INSTALL)
        yield hosts
    except BaseException as error:
        hosts.end(error)
        if BROKEN.search(str(error)):
            hosts.await_verdict()
        raise


def seconds(name: str) -> int:
    return number(name, SECONDS | os.environ)


def _connect(place: Place) -> Any:
    """The client of JAX's coordinator. There is no public name for it (orbax takes it from here, too)."""
    import jax
    from jax._src import distributed

    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    # Hosts would share the trying out of kernels, and wait for ever for one that has the program in its cache.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_shard_autotuning=false"
    own: dict[str, Any] = {"cluster_detection_method": "slurm"}
    if not place.by_slurm:
        own = {
            "num_processes": place.hosts,
            "process_id": place.host,
            "cluster_detection_method": "deactivate",
        }
    jax.distributed.initialize(
        initialization_timeout=seconds("ROLLTUNE_JOIN_SECONDS"),
        heartbeat_timeout_seconds=seconds("ROLLTUNE_HEARTBEAT_SECONDS"),
        shutdown_timeout_seconds=LEAVE_SECONDS,
        **own,
    )
    return distributed.global_state.client


def versions() -> dict[str, str]:
    """What computes: other versions make other programs, and other numbers."""
    found = {name: metadata.version(name) for name in ("jax", "jaxlib", "orbax-checkpoint")}
    return {"Python": ".".join(platform.python_version_tuple()[:2]), "rolltune": rolltune_version()} | found


def rolltune_version() -> str:
    from rolltune import __version__

    return __version__


def cards() -> str:
    import jax

    kinds = [one.device_kind for one in jax.local_devices()]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
