"""The `rolltune` command: what it prints and the exit status that scripts rely on."""

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from rolltune import __main__ as program
from rolltune.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def command(monkeypatch):
    """`command(function)` makes `rolltune learn` call that function."""

    def install(function):
        module = types.ModuleType("rolltune.commands.learn")
        module.main = function
        monkeypatch.setitem(sys.modules, "rolltune.commands.learn", module)

    return install


def test_help_names_every_command_and_imports_none_of_them():
    code = "import sys; from rolltune.__main__ import main; main(['--help']); sys.exit('jax' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {name} " in shown for name in program.COMMANDS)


def test_every_command_has_a_module_with_main():
    for module, _ in program.COMMANDS.values():
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_arguments_and_exit_status_pass_through(command):
    seen = []
    command(lambda argv: seen.append(argv) or 7)
    assert program.main(["learn", "-d", "set 1"]) == 7
    assert seen == [["-d", "set 1"]]


@pytest.mark.parametrize(
    ("platforms", "driver", "level"), [("cpu", True, "3"), ("cuda,cpu", True, None), ("cuda,cpu", False, "3")]
)
def test_a_cpu_is_spared_the_log_of_programs_found_in_the_cache(command, monkeypatch, platforms, driver, level):
    monkeypatch.setattr(program.shutil, "which", lambda name: f"/usr/bin/{name}" if driver else None)
    monkeypatch.setattr(program.importlib.util, "find_spec", lambda name: "a plug-in for a GPU")
    monkeypatch.setattr(os, "environ", {"JAX_PLATFORMS": platforms})
    command(lambda argv: 0)
    program.main(["learn"])
    assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == level


def test_a_full_device_gets_advice_and_other_errors_their_traceback(command, capsys):
    def fail(text):
        def raising(argv):
            raise RuntimeError(text)

        return raising

    command(fail("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3.97GiB\nlong story"))
    assert program.main(["learn"]) == program.USAGE_ERROR
    said = capsys.readouterr().err
    assert "--rolls auto" in said and "3.97GiB" in said and "long story" not in said
    command(fail("INTERNAL: no such kernel"))
    with pytest.raises(RuntimeError, match="no such kernel"):
        program.main(["learn"])


def test_a_user_error_is_one_line_and_status_2(command, capsys):
    def fail(argv):
        raise UserError("data.jsonl line 3: no image")

    command(fail)
    assert program.main(["learn"]) == 2
    assert capsys.readouterr().err == "error: data.jsonl line 3: no image\n"


def test_a_terminal_is_told_nothing_by_a_name_in_a_file(command, capsys):
    def fail(argv):
        raise UserError("line 3: \x1b[2J\u202egnp.exe\ud83d, é ラベル 👩‍🚀")

    command(fail)
    program.main(["learn"])
    assert capsys.readouterr().err == "error: line 3: \\x1b[2J\\u202egnp.exe\\ud83d, é ラベル 👩‍🚀\n"


def test_a_full_disk_is_one_line_and_a_fault_of_ours_a_traceback(command, capsys):
    def fail(*error):
        def raising(argv):
            raise OSError(*error)

        return raising

    command(fail(28, "No space left on device", "checkpoints/ads.npz"))
    assert program.main(["learn"]) == 2
    assert capsys.readouterr().err == "error: checkpoints/ads.npz: No space left on device\n"
    command(fail("odd"))
    with pytest.raises(OSError, match="odd"):
        program.main(["learn"])


def test_ctrl_c_is_status_130(command, monkeypatch):
    def interrupt(argv):
        raise KeyboardInterrupt

    command(interrupt)
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)  # Ctrl-C is to end the tests as before
    assert program.main(["learn"]) == 130


def test_a_second_ctrl_c_ends_what_a_thread_is_still_at():
    """As a compiler is, which Python waits for at its end."""
    busy = """
import concurrent.futures, sys, time
from rolltune import __main__ as program

def interrupted(*_):
    concurrent.futures.ThreadPoolExecutor(1).submit(time.sleep, 60)
    raise KeyboardInterrupt

program.run = interrupted
sys.exit(program.main(["learn"]))
"""
    with subprocess.Popen([sys.executable, "-c", busy], stderr=subprocess.PIPE, text=True) as made:
        assert made.stderr.readline() == "interrupted\n"
        time.sleep(0.5)
        made.send_signal(signal.SIGINT)
        _, said = made.communicate(timeout=30)
    assert not said and made.returncode == -signal.SIGINT


def test_an_unknown_command_lists_the_known(capsys):
    assert program.main(["lern"]) == 2
    error = capsys.readouterr().err
    assert "'lern'" in error and "learn" in error


def test_a_missing_package_says_what_to_run(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "rolltune.commands.learn", raising=False)
    missing = ModuleNotFoundError("No module named 'jax'", name="jax")
    monkeypatch.setattr(program.importlib, "import_module", lambda name: (_ for _ in ()).throw(missing))
    assert program.main(["learn"]) == 2
    assert "'jax' is not installed" in capsys.readouterr().err


def test_a_hole_in_rolltune_itself_is_not_dressed_up(monkeypatch):
    missing = ModuleNotFoundError("No module named 'rolltune.nowhere'", name="rolltune.nowhere")
    monkeypatch.setattr(program.importlib, "import_module", lambda name: (_ for _ in ()).throw(missing))
    with pytest.raises(ModuleNotFoundError):
        program.main(["learn"])


def test_ctrl_c_while_the_program_ends_is_no_traceback():
    late = """
import os, signal, sys
from rolltune.__main__ import main

class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

late = Late()
sys.exit(main(["sample-ads"]))
"""
    made = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True)
    assert made.returncode == 2 and "KeyboardInterrupt" not in made.stderr
