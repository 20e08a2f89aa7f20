"""Ctrl-C: the first asks, the second ends the program, and neither while something is saved."""

import os
import signal

import pytest

from rolltune.jobs.interrupts import SIGNALS, Interrupts


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def test_the_first_signal_asks_and_the_second_ends_it():
    said: list[str] = []
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts(said.append) as interrupts:
        interrupts.doing("training")
        assert not interrupts.asked()
        send()
        assert interrupts.asked() and said == ["training: stopping as soon as that can be ... (again to quit at once)"]
        with pytest.raises(KeyboardInterrupt):
            send()
        with pytest.raises(KeyboardInterrupt):
            interrupts.doing("more work")
        interrupts.at("saving the rolls")  # which a stop does not end
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_closed_terminal_asks_for_the_same(number):
    with Interrupts(lambda text: None) as interrupts:
        send(number)
        assert interrupts.asked()


def test_nothing_ends_what_is_being_saved():
    said: list[str] = []
    with Interrupts(said.append) as interrupts:
        with interrupts.saving():
            send()
            send()
        assert interrupts.asked() and said == ["saving; this takes a moment ..."] * 2
        with pytest.raises(ZeroDivisionError), interrupts.saving():
            raise ZeroDivisionError
        with pytest.raises(KeyboardInterrupt):  # it is over
            send()
