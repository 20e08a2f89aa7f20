"""Ctrl-C and its kin: a run stops after its step and saves."""

import signal
import threading
from typing import Any


class Interrupts:
    """Ctrl-C and SIGTERM ask the loop to stop after its step; a second Ctrl-C ends the program at once."""

    def __init__(self, say: Any):
        self._asked, self._say = threading.Event(), say

    def __enter__(self) -> "Interrupts":
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked.is_set():
            raise KeyboardInterrupt
        self._asked.set()
        self._say("finishing this step and saving ... (again to quit at once)")

    def asked(self) -> bool:
        return self._asked.is_set()
