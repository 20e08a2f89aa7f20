"""Ctrl-C and its kin: a run stops after its step and saves, whatever it is at, in the time that it is left."""

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# A closed terminal and a host that shuts down ask for the same as Ctrl-C. Windows knows no SIGHUP.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
GRACE = 30.0  # seconds from SIGTERM until a program is killed, where nothing else is said: those of Kubernetes
PATIENCE = 1 / 3  # of these, after which what can be done again is left off: an evaluation, loading a model
TRAINING, EVALUATING = "training", "evaluating"


class Interrupts:
    """The first signal asks the run to stop; a second one ends the program at once, but never while it saves.

    Who sends SIGTERM kills after a time, `grace` in seconds. So a part of it later what does not ask by itself, as the
    training does after every step, is ended as by a second Ctrl-C.
    """

    def __init__(self, say: Callable[[str], None], grace: float = GRACE):
        self.say = say  # whoever holds the terminal at the time
        self.grace = grace
        self._asked = threading.Event()
        self._doing = "getting ready"
        self._saving = False
        self._killed_at = float("inf")
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "Interrupts":
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        first = not self._asked.is_set()
        self._asked.set()
        if number == signal.SIGTERM and self._timer is None:
            self._killed_at = time.monotonic() + self.grace
            # Called by a thread, the handler still runs in the main one, and can end what that is at.
            self._timer = threading.Timer(self.grace * PATIENCE, _thread.interrupt_main, [signal.SIGTERM])
            self._timer.daemon = True
            self._timer.start()
        if self._saving:
            self.say("saving; this takes a moment ...")
        elif first:
            self.say(f"{self._doing}: stopping as soon as that can be ... (again to quit at once)")
        elif number != signal.SIGTERM or self._doing != TRAINING:  # a host may send several; Ctrl-C twice is a person
            raise KeyboardInterrupt

    def asked(self) -> bool:
        return self._asked.is_set()

    def left(self) -> float:
        """Seconds until the program is killed."""
        return self._killed_at - time.monotonic()

    def doing(self, what: str) -> None:
        """What a person is told that the run is at. Raises KeyboardInterrupt where a stop was asked for already."""
        self._doing = what
        if self.asked():
            raise KeyboardInterrupt

    @contextmanager
    def at(self, what: str) -> Iterator[None]:
        """As `doing`, for a part of it; a stop that was asked for does not end it at its beginning."""
        before, self._doing = self._doing, what
        try:
            yield
        finally:
            self._doing = before

    @contextmanager
    def saving(self) -> Iterator[None]:
        self._saving = True
        try:
            yield
        finally:
            self._saving = False
