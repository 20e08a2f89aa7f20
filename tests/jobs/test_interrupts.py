"""Ctrl-C and SIGTERM: who is asked, who is ended, and when."""

import gc
import os
import signal
import time

import pytest

from rolltune.jobs.interrupts import EVALUATING, SIGNALS, TRAINING, Interrupts


@pytest.fixture(autouse=True)
def no_collection():
    """Hooks of the garbage collector are Python (JAX has one, hypothesis another): what a handler raises within one is
    lost. And a collection of all that a whole run of tests has made is longer than the times here."""
    gc.disable()
    yield
    gc.enable()


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.005)


def test_a_host_that_shuts_down_gets_its_evaluation_left_off_in_time_but_no_step_and_no_saving():
    said: list[str] = []
    with Interrupts(said.append, grace=0.6) as interrupts:
        interrupts.doing(TRAINING)
        assert interrupts.left() == float("inf")
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # some engines send several
        busy(0.3)  # a third of the grace time is over: the loop asks by itself
        assert interrupts.asked() and 0 < interrupts.left() < 0.4
        assert said == ["training: stopping as soon as that can be ... (again to quit at once)"]
    with Interrupts(said.append, grace=0.6) as interrupts:
        interrupts.doing(TRAINING)
        with pytest.raises(KeyboardInterrupt), interrupts.at(EVALUATING):
            os.kill(os.getpid(), signal.SIGTERM)
            busy(0.1)
            assert interrupts.asked()
            busy(5)
        assert interrupts.left() > 0.1
    with Interrupts(said.append, grace=0.3) as interrupts, interrupts.at(EVALUATING), interrupts.saving():
        os.kill(os.getpid(), signal.SIGTERM)
        busy(0.3)
    assert said[-1] == "saving; this takes a moment ..."


def test_ctrl_c_asks_first_and_ends_then():
    said: list[str] = []
    with Interrupts(said.append) as interrupts:
        interrupts.doing(TRAINING)
        os.kill(os.getpid(), signal.SIGINT)
        busy(0.02)
        assert interrupts.asked() and interrupts.left() == float("inf")
        with interrupts.saving():
            os.kill(os.getpid(), signal.SIGINT)
            busy(0.02)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            busy(5)
    with Interrupts(said.append) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.doing("loading the model")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_closed_terminal_asks_for_the_same_and_what_was_there_before_comes_back(number):
    before = [signal.getsignal(one) for one in SIGNALS]
    with Interrupts(lambda text: None) as interrupts:
        assert not interrupts.asked()
        os.kill(os.getpid(), number)
        assert interrupts.asked()
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_nothing_ends_what_is_being_saved():
    said: list[str] = []
    with Interrupts(said.append) as interrupts:
        with interrupts.saving():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.asked() and said == ["saving; this takes a moment ..."] * 2
        with pytest.raises(ZeroDivisionError), interrupts.saving():
            raise ZeroDivisionError
        with pytest.raises(KeyboardInterrupt):  # it is over
            os.kill(os.getpid(), signal.SIGINT)
            busy(5)
