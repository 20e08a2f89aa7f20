"""A command as one of several hosts: what it says, how it ends, and what a person is told of that."""

import os
import signal
import subprocess
import sys

import pytest

from rolltune.errors import UserError
from rolltune.hosts import Place
from rolltune.launch import GONE, advice, launch, main


@pytest.fixture
def run():
    """`run("python code", host=1)`: the exit status."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield lambda code, host: launch([sys.executable, "-S", "-c", code], Place(host, 2), dict(os.environ))
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


SAYS = "import os, sys; print('out'); print(os.environ['ROLLTUNE_HOSTS'], os.environ['ROLLTUNE_HOST'], file=sys.stderr)"


def test_a_host_is_told_its_number_and_all_but_the_first_say_theirs(run, capfd):
    assert run(f"{SAYS}; sys.exit(3)", 1) == 3 and capfd.readouterr() == ("", "host 1: 2 1\n")
    assert run(SAYS, 0) == 0 and capfd.readouterr() == ("out\n", "2 0\n")


def test_how_a_process_was_ended_is_told(run, capfd):
    told = "import os, sys; print('Task 5 heartbeat timeout', file=sys.stderr, flush=True); os.abort()"
    assert run(told, 1) == GONE
    assert "host 1: error: host 5 went away, or lost the network" in capfd.readouterr().err
    assert run("import os; os.kill(os.getpid(), 9)", 1) == 128 + signal.SIGKILL
    assert "host 1: error: ended by signal 9: by a person, the scheduler" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        (["RegisterTask failed", "Task 5 heartbeat timeout"], "not all hosts came within"),
        (["stopped sending heartbeats):\n", " 3"], "host 3 went away"),
        (["Failed to send RPC to coordination service"], "host 0 went away"),
        (["something else"], "another host went away"),
    ],
)
def test_what_jax_wrote_is_put_into_words(lines, word):
    said = advice(lines, "Go on like this")
    assert said.startswith(word)
    assert said.endswith("Go on like this") == ("went away" in word)


def test_a_command_has_to_be_named():
    with pytest.raises(UserError, match="name the command to run"):
        main([])


def test_help_is_shown_and_a_command_that_is_not_there_is_advice(capfd, monkeypatch):
    assert main(["--help"]) == 0 and "python3 -m rolltune.launch ./03-do_learn.py" in capfd.readouterr().out
    for name in ("ROLLTUNE_HOSTS", "ROLLTUNE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"nothing-here: cannot be started \(No such file.*is it there, and may"):
        main(["./nothing-here"])


def test_only_a_command_that_cannot_be_started_is_said_to_be_so(run, tmp_path, monkeypatch):
    """The system gives one error for a script that is missing, and for one whose interpreter is."""
    (script := tmp_path / "script.py").write_text("#!/nothing/here\n")
    script.chmod(0o755)
    with pytest.raises(UserError, match=r"script.py: cannot be started .*: it is there; is the program"):
        launch([str(script)], Place(1, 2), dict(os.environ))

    def gone(command, began):
        raise FileNotFoundError(2, "No such file", "another")

    monkeypatch.setattr("rolltune.launch.left_by", gone)
    monkeypatch.setattr("rolltune.launch.find_place", lambda environment: Place(1, 2))
    with pytest.raises(FileNotFoundError, match="another"):
        main([sys.executable, "-S", "-c", "import os; os.abort()"])


def test_it_is_imported_where_signals_are_those_of_windows():
    gone = "import signal; [delattr(signal, name) for name in ('SIGHUP', 'SIGKILL')]; "
    code = gone + "from rolltune import launch; assert launch.main(['-h']) == 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "Start a command" in done.stdout, done.stderr
