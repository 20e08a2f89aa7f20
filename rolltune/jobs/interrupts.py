"""Ctrl-C and its kin: a run stops after its step and saves, whatever it is at."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# A closed terminal and a host that shuts down ask for the same as Ctrl-C. Windows knows no SIGHUP.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupts:
    """The first signal asks the run to stop; a second one ends the program at once, but never while it saves."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say  # whoever holds the terminal at the time
        self._asked = threading.Event()
        self._doing = "getting ready"
        self._saving = False

    def __enter__(self) -> "Interrupts":
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked.is_set() and not self._saving:
            raise KeyboardInterrupt
        first = not self._asked.is_set()
        self._asked.set()
        if self._saving:
            self.say("saving; this takes a moment ...")
        elif first:
            self.say(f"{self._doing}: stopping as soon as that can be ... (again to quit at once)")

    def asked(self) -> bool:
        return self._asked.is_set()

    def doing(self, what: str) -> None:
        """What a person is told that the run is at. Raises KeyboardInterrupt where a stop was asked for already."""
        self._doing = what
        if self.asked():
            raise KeyboardInterrupt

    def at(self, what: str) -> None:
        """As `doing`, where a stop does not end what follows."""
        self._doing = what

    @contextmanager
    def saving(self) -> Iterator[None]:
        self._saving = True
        try:
            yield
        finally:
            self._saving = False
